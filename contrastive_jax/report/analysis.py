"""Analyses of the encoder of a run, as arrays: features, projections, confusion matrix, attention, feature maps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from contrastive_jax.data.loader import eval_batches
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import REPLICATED, Devices, quick_options
from contrastive_jax.evaluate import online
from contrastive_jax.evaluate.linear import predictions
from contrastive_jax.models.cpc import CPCEncoder
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.models.split import Split
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained.encoder import Encoder

POINTS = 2000  # the largest number of points of a projection; t-SNE takes ten seconds for these
TSNE_DIMENSIONS = 50  # PCA reduces the features to these dimensions before t-SNE, as its authors do
PERPLEXITY = 30.0  # of t-SNE
MIN_CELLS = 4  # the smallest height and width of a feature map that is shown


@dataclasses.dataclass(frozen=True)
class Features(online.Features):
    """Features of the examples on which the run evaluates itself, and their labels.

    Attributes:
      train_source, test_source: the data to which `train_ids` and `test_ids` refer; the same object if there are no
        held-out images.
      classes: C, the number of classes; 0 if an example has no label.
    """

    train_source: Source
    test_source: Source
    classes: int

    @property
    def held_out(self) -> bool:
        """Whether the test examples are held-out images."""
        return self.test_source is not self.train_source

    @property
    def train_labels(self) -> np.ndarray:
        """int[n], -1 where the label is unknown."""
        return online.labels_of(self.train_source, self.train_ids)

    @property
    def test_labels(self) -> np.ndarray:
        """int[m], -1 where the label is unknown."""
        return online.labels_of(self.test_source, self.test_ids)

    @property
    def neighbors(self) -> online.Neighbors:
        """A few test examples and their nearest training examples."""
        return online.nearest(self.train, self.train_ids, self.test, self.test_ids)


def features(encoder: Encoder, train: Source, held_out: Source | None, devices: Devices) -> Features:
    """Computes the features of the examples on which the run evaluates itself.

    Args:
      encoder: the encoder of the run; its config gives the number of examples.
      train: training images.
      held_out: held-out images; None if the data has none.
      devices: the devices that compute the features.

    Raises:
      DataError: too many images cannot be read.
    """
    e = encoder.config.eval
    extract = online.OnlineFeatures(
        encoder.network,
        encoder.policy,
        devices,
        train,
        held_out,
        image_size=encoder.image_size,
        batch_size=e.batch_size,
        max_train=e.max_train,
        max_test=e.max_test,
    )
    found = extract.at(encoder.step or 0, *devices.place((encoder.params, encoder.stats), REPLICATED))
    classes = online.number_of_classes(train, held_out, found.train_ids, found.test_ids)
    return Features(found.train, found.train_ids, found.test, found.test_ids, extract.train, extract.test, classes)


def principal_components(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Projects rows on their first principal components.

    The sign of a component makes its largest weight positive, so that the result is deterministic.

    Args:
      x: float[n, D].
      count: number of components.

    Returns:
      The projections [n, count] and the fraction of the variance that each component explains, [count]. Both are zero
      for components that do not exist because n or D is smaller than `count`.
    """
    centered = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    u, s, vt = np.linalg.svd(centered, full_matrices=False)
    k = min(count, len(s))
    sign = np.sign(vt[np.arange(k), np.abs(vt[:k]).argmax(axis=1)])
    scores, explained = np.zeros((len(x), count)), np.zeros(count)
    scores[:, :k] = u[:, :k] * s[:k] * sign
    explained[:k] = s[:k] ** 2 / max(float((s**2).sum()), 1e-300)
    return scores, explained


def tsne(x: np.ndarray) -> np.ndarray:
    """t-SNE of rows [n, D], n >= 4: returns [n, 2]. It uses one thread, so the result is deterministic."""
    from sklearn.manifold import TSNE  # takes a second to import
    from threadpoolctl import threadpool_limits

    reduced = principal_components(x, min(TSNE_DIMENSIONS, *x.shape))[0].astype(np.float32)
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    with threadpool_limits(1):
        return np.asarray(TSNE(perplexity=perplexity, init='pca', random_state=0).fit_transform(reduced))


def confusion(found: Features) -> np.ndarray:
    """The confusion matrix of a linear probe: int[C, C], numbers of test examples by true and predicted class."""
    predicted = predictions(found.train, found.train_labels, found.test, found.classes)
    matrix = np.zeros((found.classes, found.classes), np.int64)
    np.add.at(matrix, (found.test_labels, predicted), 1)
    return matrix


def preprocess(encoder: Encoder, source: Source, ids: np.ndarray) -> np.ndarray:
    """Reads images and resizes them as in evaluation: uint8 or uint16[n, S, S, C], the input of the encoder."""
    batches = eval_batches(
        source,
        indices=ids,
        image_size=encoder.image_size,
        batch_size=len(ids),
        interpolation=encoder.policy.interpolation,
        style=encoder.policy.style,
    )
    return np.asarray(next(iter(batches))['image'])


def attention(encoder: Encoder, images: np.ndarray) -> np.ndarray | None:
    """The attention of the class token to the patches in the last block of a ViT.

    Args:
      encoder: the encoder of the run.
      images: uint8 or uint16[n, S, S, C].

    Returns:
      float32[n, heads, rows, columns]; None if the encoder is not a ViT. A map and the attention of the class token to
      itself sum to 1.
    """
    module = encoder.module
    if not isinstance(module, VisionTransformer):
        return None
    weights = np.asarray(_apply(encoder, images, 'last_attention'), np.float32)[:, :, 0, 1:]
    rows, columns = (side // module.patch_size for side in images.shape[1:3])
    return weights.reshape(*weights.shape[:2], rows, columns)


def feature_maps(encoder: Encoder, images: np.ndarray) -> tuple[np.ndarray, str] | None:
    """The spatial features of images.

    They are the patch tokens of a ViT, the patch features of CPC, and for a ResNet the feature map of the deepest stage
    with at least `MIN_CELLS` rows and columns; those of the two encoders of CMC are concatenated.

    Args:
      encoder: the encoder of the run.
      images: uint8 or uint16[n, S, S, C].

    Returns:
      float32[n, rows, columns, D], and a text that says what a cell is; None if all maps are too small, or if the
      encoder is none of these.
    """
    module = encoder.module
    if isinstance(module, VisionTransformer):
        (tokens,) = _apply(encoder, images, 'intermediate_layers', 1)
        rows, columns = (side // module.patch_size for side in images.shape[1:3])
        grid = tokens[:, 1:].reshape(len(images), rows, columns, -1)
        return _if_large_enough(grid, 'the patch tokens after the last block')
    if isinstance(module, CPCEncoder):
        return _if_large_enough(_apply(encoder, images, 'grid', train=False), 'the overlapping patches')
    if not isinstance(module, ResNet) and not (isinstance(module, Split) and isinstance(module.l, ResNet)):
        return None
    _, captured = _apply(encoder, images, '__call__', train=False, mutable=['intermediates'])
    maps = captured['intermediates']
    networks = [maps['l'], maps['ab']] if isinstance(module, Split) else [maps]
    for stage in sorted(networks[0], reverse=True):
        grid = jnp.concatenate([network[stage][0] for network in networks], axis=-1)
        if found := _if_large_enough(grid, f'the feature map after {stage}'):
            return found
    return None


def pca_colors(grid: np.ndarray) -> np.ndarray:
    """Shows the first three principal components of all cells as red, green and blue.

    Args:
      grid: float[n, h, w, D].

    Returns:
      float[n, h, w, 3] in [0, 1].
    """
    scores, _ = principal_components(grid.reshape(-1, grid.shape[-1]), 3)
    low, high = np.percentile(scores, (1, 99), axis=0)
    scaled = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    return scaled.reshape(*grid.shape[:3], 3)


def _apply(encoder: Encoder, images: np.ndarray, method: str, *args: Any, **options: Any) -> Any:
    """Calls a method of the encoder on images [n, S, S, C], compiled."""
    module, policy = encoder.module, encoder.policy

    def apply(variables: Any, images: Array) -> Any:
        return module.apply(variables, policy.normalize(images, module.dtype), *args, method=method, **options)

    return jax.jit(apply, compiler_options=quick_options())(encoder.variables, images)


def _if_large_enough(grid: Any, what: str) -> tuple[np.ndarray, str] | None:
    return (np.asarray(grid, np.float32), what) if min(grid.shape[1:3]) >= MIN_CELLS else None
