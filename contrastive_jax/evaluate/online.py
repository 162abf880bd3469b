"""Features of a network during training, computed once per step and shared by all evaluators.

No gradient reaches the encoder from here, and training never uses the held-out images.
"""

import dataclasses
from collections.abc import Callable

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
class Neighbors:
    """The nearest training images of a few held-out images, for a picture.

    Attributes:
      queries: int[m], positions of the held-out images.
      nearest: int[m, k], positions of the k nearest training images of each, the nearest first.
    """

    queries: np.ndarray
    nearest: np.ndarray


# Images for the untrained encoder: all of them would take minutes before the first step.
FEW_TRAIN, FEW_TEST = 5000, 1000


class OnlineFeatures:
    """Features of evenly spaced examples of both splits. Those of the last step are cached, and evaluators share them.

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
      extractor: makes what computes features, from the arguments of `FeatureExtractor`.

    Attributes:
      few: positions of the training and held-out images on which the untrained encoder is measured, at most `FEW_TRAIN`
        and `FEW_TEST` of the others.
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
        extractor: Callable[..., FeatureExtractor] = FeatureExtractor,
    ):
        self._extract = extractor(network, policy, devices, image_size=image_size, batch_size=batch_size)
        self.train, self.test = train, train if test is None else test
        self._train_ids = evenly_spaced(len(train), max_train)
        self._test_ids = evenly_spaced(len(self.test), max_test)
        self.unmeasured = why_unmeasured(train, test, self._train_ids, self._test_ids)
        few = (
            self._train_ids[evenly_spaced(len(self._train_ids), FEW_TRAIN)],
            self._test_ids[evenly_spaced(len(self._test_ids), FEW_TEST)],
        )
        if why_unmeasured(train, test, *few) and not self.unmeasured:  # few of many images have labels
            few = self._train_ids, self._test_ids
        self.few = few
        self._step: int | None = None
        self._features: Features | None = None

    @property
    def is_limited(self) -> bool:
        """Whether the untrained encoder is measured on a part of the images."""
        return len(self.few[0]) < len(self._train_ids) or len(self.few[1]) < len(self._test_ids)

    def of_few(self, features: Features) -> Features:
        """The features of the images on which the untrained encoder is measured."""
        rows, rows_test = np.isin(features.train_ids, self.few[0]), np.isin(features.test_ids, self.few[1])
        return Features(
            features.train[rows], features.train_ids[rows], features.test[rows_test], features.test_ids[rows_test]
        )

    def labeled(self, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
        """Features and labels of the training images and of the held-out images that have a label.

        Returns:
          float32[n, D], int[n], float32[m, D], int[m], and the number of classes. Held-out images of classes without a
          training image are included: they count as errors.
        """
        assert self.train.labels is not None and self.test.labels is not None and not self.unmeasured
        y, y_test = self.train.labels[features.train_ids], self.test.labels[features.test_ids]
        rows, rows_test = y >= 0, y_test >= 0
        classes = 1 + max(int(y.max()), int(y_test.max()))
        return features.train[rows], y[rows], features.test[rows_test], y_test[rows_test], classes

    def at(self, step: int, params: PyTree, stats: PyTree) -> Features:
        """Computes the features at a step, or returns the cached ones.

        Args:
          step: the step that `params` and `stats` belong to.
          params: parameters of the encoder, in the devices' layout.
          stats: its BN statistics; {} without BN.
        """
        if self._features is None or self._step != step:
            chosen_train, chosen_test = self.few if step == 0 else (self._train_ids, self._test_ids)
            train, train_ids = self._extract(params, stats, self.train, chosen_train)
            test, test_ids = train, train_ids
            if self.test is not self.train:
                test, test_ids = self._extract(params, stats, self.test, chosen_test)
            self._step, self._features = step, Features(train, train_ids, test, test_ids)
        return self._features


def why_unmeasured(train: Source, test: Source | None, train_ids: np.ndarray, test_ids: np.ndarray) -> str:
    """The reason why no accuracy can be measured on these examples; '' if it can be. A label of -1 means unknown."""
    if test is None:
        return 'the data has no held-out images'
    if train.labels is None or test.labels is None:
        return f'the {"training" if train.labels is None else "held-out"} images have no labels'
    classes, test_classes = (np.unique(x[x >= 0]) for x in (train.labels[train_ids], test.labels[test_ids]))
    if len(classes) < 2:
        return f'the training images are of {len(classes)} class{"" if len(classes) == 1 else "es"}'
    if not np.isin(test_classes, classes).any():
        return 'no held-out image belongs to a class of the training images'
    return ''


def number_of_classes(train: Source, test: Source | None, train_ids: np.ndarray, test_ids: np.ndarray) -> int:
    """The number of classes of these examples; 0 if one of them has no label or if no accuracy can be measured."""
    if test is None or why_unmeasured(train, test, train_ids, test_ids):
        return 0
    assert train.labels is not None and test.labels is not None
    labels = np.concatenate([train.labels[train_ids], test.labels[test_ids]])
    return int(labels.max()) + 1 if labels.min() >= 0 else 0


def nearest(
    train: np.ndarray, train_ids: np.ndarray, test: np.ndarray, test_ids: np.ndarray, queries: int = 8, k: int = 8
) -> Neighbors:
    """Finds the k nearest training examples, by cosine similarity, of a few evenly spaced held-out examples.

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
    similarity = unit_rows(test[rows]) @ unit_rows(train).T
    if test is train:
        similarity[np.arange(len(rows)), rows] = -np.inf
    k = min(k, similarity.shape[1] - (test is train))
    order = np.argsort(-similarity, axis=1, kind='stable')[:, :k]
    return Neighbors(test_ids[rows], train_ids[order])


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows [n, D] divided by their L2 norms; zero rows stay zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def labels_of(source: Source, ids: np.ndarray) -> np.ndarray:
    """Labels int[...] of the examples at positions int[...]; -1 where the label is unknown."""
    return np.full(ids.shape, -1) if source.labels is None else source.labels[ids]


def evenly_spaced(n: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced positions of range(n), int64. Data sets are often sorted by class."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)
