"""Evaluation beside training: kNN, a stop-gradient linear probe and the signals of collapse, on held-out images."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.evaluate import signals
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.evaluate.linear import linear_probe
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.models.network import Network

# Pairs of the uniformity and singular values of the rank: as many examples as tell them well and cost little.
SIGNAL_EXAMPLES = 2048


@dataclasses.dataclass
class Neighbours:
    """For a picture: ids int[m] of held-out images, and int[m, k] of their nearest training images."""

    queries: np.ndarray
    nearest: np.ndarray


class OnlineEvaluation:
    """Evaluates a frozen encoder: no gradient reaches it, and training does not see what is measured here.

    Args:
      config: with the section `eval`.
      network: the method's.
      policy: for the normalisation of pixels.
      devices: of the run.
      train: the bank of kNN and the training set of the probe.
      test: held-out images; None where the data has none, and then the signals are those of training images.
    """

    def __init__(
        self,
        config: ConfigDict,
        network: Network,
        policy: Policy,
        devices: Devices,
        train: Source,
        test: Source | None,
    ):
        e = config.eval
        self._extract = FeatureExtractor(
            network, policy, devices, image_size=config.data.image_size, batch_size=e.batch_size
        )
        self._k, self._temperature = e.knn_k, e.knn_temperature
        self.train, self.test = train, train if test is None else test
        self._train_ids = evenly_spaced(len(train), e.max_train)
        self._test_ids = evenly_spaced(len(self.test), e.max_test)
        self._classes = number_of_classes(train, test, self._train_ids, self._test_ids)

    def __call__(self, params: PyTree, stats: PyTree) -> tuple[dict[str, float], Neighbours]:
        """Metrics under 'eval/', and the neighbours of a few images.

        Args:
          params: of the encoder, in the devices' layout.
          stats: its BN statistics.
        """
        train, train_ids = self._extract(params, stats, self.train, self._train_ids)
        test, test_ids = train, train_ids
        if self.test is not self.train:
            test, test_ids = self._extract(params, stats, self.test, self._test_ids)
        few = test[evenly_spaced(len(test), SIGNAL_EXAMPLES)]
        found = {
            'eval/feature_std': float(feature_std(few)),
            'eval/effective_rank': float(signals.effective_rank(few)),
            'eval/uniformity': float(signals.uniformity(few)) if len(few) > 1 else 0.0,
        }
        if self._classes > 1:
            assert self.train.labels is not None and self.test.labels is not None
            given = (train, self.train.labels[train_ids], test, self.test.labels[test_ids], self._classes)
            knn = knn_accuracy(*given, k=min(self._k, len(train)), temperature=self._temperature)
            probe = linear_probe(*given)
            found |= {'eval/knn_top1': knn['top1'], 'eval/probe_top1': probe['top1']}
        return found, nearest(train, train_ids, test, test_ids)


def number_of_classes(train: Source, test: Source | None, train_ids: np.ndarray, test_ids: np.ndarray) -> int:
    """Number of classes, 0 where an example of either split has no label."""
    if test is None or train.labels is None or test.labels is None:
        return 0
    labels = np.concatenate([train.labels[train_ids], test.labels[test_ids]])
    return int(labels.max()) + 1 if labels.min() >= 0 else 0


def nearest(
    train: np.ndarray, train_ids: np.ndarray, test: np.ndarray, test_ids: np.ndarray, queries: int = 8, k: int = 8
) -> Neighbours:
    """A few evenly spaced test examples and their k nearest training examples by cosine similarity.

    Args:
      train: [n, D] features; train_ids: int[n], which examples they are of.
      test: [m, D]; the same array as `train` where there is no other.
      test_ids: int[m].
      queries: how many.
      k: neighbours of each.
    """
    rows = evenly_spaced(len(test), queries)
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    similarity = unit(test[rows]) @ unit(train).T
    if test is train:  # an image is not its own neighbour
        similarity[np.arange(len(rows)), rows] = -np.inf
    k = min(k, similarity.shape[1] - (test is train))
    order = np.argsort(-similarity, axis=1, kind='stable')[:, :k]
    return Neighbours(test_ids[rows], train_ids[order])


def evenly_spaced(n: int, most: int) -> np.ndarray:
    """At most `most` of range(n), evenly spaced, int64: data sets are often sorted by class."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)
