"""Features of a network that is still training, computed once for all that is measured on them.

Every array here is about a frozen encoder: no gradient reaches it, and training never sees the held-out images.
"""

import dataclasses

import numpy as np

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.models.network import Network


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of training images and of held-out images. Without held-out images both are those of training images.

    Attributes:
      train: float32[n, D], features of training images.
      train_ids: int[n], their positions in the training split.
      test: float32[m, D], features of held-out images; the array `train` itself where the data has none.
      test_ids: int[m], their positions in the held-out split.
    """

    train: np.ndarray
    train_ids: np.ndarray
    test: np.ndarray
    test_ids: np.ndarray


@dataclasses.dataclass
class Neighbours:
    """The nearest training images of a few held-out images, for a picture.

    Attributes:
      queries: int[m], held-out images.
      nearest: int[m, k], the k nearest training images of each, the nearest first.
    """

    queries: np.ndarray
    nearest: np.ndarray


class OnlineFeatures:
    """Features of evenly spaced examples of both splits. The last step's are kept, so that evaluators share them.

    Args:
      network: the network of the method; its encoder is used.
      policy: gives the resizing of images and the normalization of pixels.
      devices: the devices that the run uses.
      train: training images.
      test: held-out images; None: the data has none.
      image_size: height and width of the center crop, in pixels.
      batch_size: global batch size.
      max_train: the largest number of training images.
      max_test: the largest number of held-out images.
    """

    def __init__(
        self,
        network: Network,
        policy: Policy,
        devices: Devices,
        train: Source,
        test: Source | None,
        *,
        image_size: int,
        batch_size: int,
        max_train: int,
        max_test: int,
    ):
        self._extract = FeatureExtractor(network, policy, devices, image_size=image_size, batch_size=batch_size)
        self.train, self.test = train, train if test is None else test
        self._train_ids = evenly_spaced(len(train), max_train)
        self._test_ids = evenly_spaced(len(self.test), max_test)
        self.classes = number_of_classes(train, test, self._train_ids, self._test_ids)
        self._step: int | None = None
        self._features: Features | None = None

    def at(self, step: int, params: PyTree, stats: PyTree) -> Features:
        """The features at a step.

        Args:
          step: the step that `params` and `stats` belong to.
          params: parameters of the encoder, in the devices' layout.
          stats: its BN statistics; {} without BN.
        """
        if self._features is None or self._step != step:
            train, train_ids = self._extract(params, stats, self.train, self._train_ids)
            test, test_ids = train, train_ids
            if self.test is not self.train:
                test, test_ids = self._extract(params, stats, self.test, self._test_ids)
            self._step, self._features = step, Features(train, train_ids, test, test_ids)
        return self._features


def number_of_classes(train: Source, test: Source | None, train_ids: np.ndarray, test_ids: np.ndarray) -> int:
    """Number of classes of these examples; 0 where an example of either split has no label."""
    if test is None or train.labels is None or test.labels is None:
        return 0
    labels = np.concatenate([train.labels[train_ids], test.labels[test_ids]])
    return int(labels.max()) + 1 if labels.min() >= 0 else 0


def nearest(
    train: np.ndarray, train_ids: np.ndarray, test: np.ndarray, test_ids: np.ndarray, queries: int = 8, k: int = 8
) -> Neighbours:
    """A few evenly spaced held-out examples and their k nearest training examples by cosine similarity.

    Args:
      train: [n, D], features of training examples.
      train_ids: int[n], their positions in the training split.
      test: [m, D], features of held-out examples. It may be the array `train` itself: then an image is not its own
        neighbor.
      test_ids: int[m], their positions in the held-out split.
      queries: the largest number of held-out examples.
      k: number of neighbors of each.
    """
    rows = evenly_spaced(len(test), queries)
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    similarity = unit(test[rows]) @ unit(train).T
    if test is train:
        similarity[np.arange(len(rows)), rows] = -np.inf
    k = min(k, similarity.shape[1] - (test is train))
    order = np.argsort(-similarity, axis=1, kind='stable')[:, :k]
    return Neighbours(test_ids[rows], train_ids[order])


def evenly_spaced(n: int, most: int) -> np.ndarray:
    """At most `most` of range(n), evenly spaced, int64: data sets are often sorted by class."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)
