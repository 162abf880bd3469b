"""What there is to see through the encoder of a run: arrays, which `page.py` shows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from contrastive_jax.data.loader import eval_batches
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.linear import predictions
from contrastive_jax.evaluate.online import Neighbors, evenly_spaced, nearest, number_of_classes
from contrastive_jax.models.cpc import CPCEncoder
from contrastive_jax.models.split import Split
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained.encoder import Encoder

POINTS = 2000  # of a map: t-SNE takes ten seconds for these
TSNE_DIMENSIONS = 50  # that t-SNE is given, by PCA, as its authors do
PERPLEXITY = 30.0
CELLS = 4  # least side of a feature map whose cells are worth colouring


@dataclasses.dataclass(frozen=True)
class Features:
    """What the encoder says of the data.

    Attributes:
      train, test: float32 [n, D] and [m, D]; the same array where there are no held-out images.
      train_ids, test_ids: which examples they are of.
      train_source, test_source: whose examples.
      classes: C, or 0 where an example has no label.
    """

    train: np.ndarray
    test: np.ndarray
    train_ids: np.ndarray
    test_ids: np.ndarray
    train_source: Source
    test_source: Source
    classes: int

    @property
    def held_out(self) -> bool:
        return self.test_source is not self.train_source

    @property
    def train_labels(self) -> np.ndarray:
        return _labels(self.train_source, self.train_ids)

    @property
    def test_labels(self) -> np.ndarray:
        """int[m], -1 where unknown."""
        return _labels(self.test_source, self.test_ids)

    @property
    def neighbours(self) -> Neighbors:
        """A few test examples and their nearest training examples."""
        return nearest(self.train, self.train_ids, self.test, self.test_ids)


def features(encoder: Encoder, train: Source, held_out: Source | None, devices: Devices) -> Features:
    """Features of the examples that the run evaluates itself on."""
    e = encoder.config.eval
    extract = FeatureExtractor(
        encoder.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=e.batch_size
    )
    params, stats = devices.place((encoder.params, encoder.stats), REPLICATED)
    chosen = evenly_spaced(len(train), e.max_train)
    h, ids = extract(params, stats, train, chosen)
    if held_out is None:
        return Features(h, h, ids, ids, train, train, 0)
    test, test_ids = extract(params, stats, held_out, evenly_spaced(len(held_out), e.max_test))
    return Features(h, test, ids, test_ids, train, held_out, number_of_classes(train, held_out, ids, test_ids))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, as kNN compares them; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def principal_components(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first principal components of rows [n, D].

    Each has the sign that makes its largest weight positive, so that two runs of this agree.

    Returns:
      [n, count], zeros for components that there are not, and the part of the variance that each explains, [count].
    """
    centred = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    k = min(count, len(s))
    sign = np.sign(vt[np.arange(k), np.abs(vt[:k]).argmax(axis=1)])
    scores, explained = np.zeros((len(x), count)), np.zeros(count)
    scores[:, :k] = u[:, :k] * s[:k] * sign
    explained[:k] = s[:k] ** 2 / max(float((s**2).sum()), 1e-300)
    return scores, explained


def tsne(x: np.ndarray) -> np.ndarray:
    """t-SNE of rows [n, D]: [n, 2]. Deterministic, since one thread makes it; n >= 4."""
    from sklearn.manifold import TSNE  # a second to import
    from threadpoolctl import threadpool_limits

    few = principal_components(x, min(TSNE_DIMENSIONS, *x.shape))[0].astype(np.float32)
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    with threadpool_limits(1):
        return np.asarray(TSNE(perplexity=perplexity, init='pca', random_state=0).fit_transform(few))


def confusion(found: Features) -> np.ndarray:
    """How often a linear probe on the features takes one class for another: int[C, C], rows are what is true."""
    guessed = predictions(found.train, found.train_labels, found.test, found.classes)
    matrix = np.zeros((found.classes, found.classes), np.int64)
    np.add.at(matrix, (found.test_labels, guessed), 1)
    return matrix


def prepared(encoder: Encoder, source: Source, ids: np.ndarray) -> np.ndarray:
    """Images as the encoder is given them in evaluation, uint8[n, S, S, 3]."""
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
    """What the class token looks at in the last block of a ViT: [n, heads, rows, columns]; None of other encoders.

    The attention paid to the patches; with what the class token pays to itself, a map sums to 1.
    """
    module = encoder.module
    if not isinstance(module, VisionTransformer):
        return None
    paid = np.asarray(_apply(encoder, images, 'last_attention'), np.float32)[:, :, 0, 1:]
    rows, columns = (side // module.patch_size for side in images.shape[1:3])
    return paid.reshape(*paid.shape[:2], rows, columns)


def cells(encoder: Encoder, images: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Features of the places in images: [n, rows, columns, D], and what they are; None where places are too few.

    Of a ViT its patch tokens, of CPC its patches, of a ResNet the deepest stage that has a map of some size; CMC's two
    halves side by side.
    """
    module = encoder.module
    if isinstance(module, VisionTransformer):
        (tokens,) = _apply(encoder, images, 'intermediate_layers', 1)
        rows, columns = (side // module.patch_size for side in images.shape[1:3])
        grid = tokens[:, 1:].reshape(len(images), rows, columns, -1)
        return _worth(grid, 'the patches, after the last block')
    if isinstance(module, CPCEncoder):
        return _worth(_apply(encoder, images, 'grid', train=False), 'the patches, which overlap')
    _, sown = _apply(encoder, images, '__call__', train=False, mutable=['intermediates'])
    maps = sown['intermediates']
    halves = [maps['l'], maps['ab']] if isinstance(module, Split) else [maps]
    for stage in sorted(halves[0], reverse=True):
        grid = jnp.concatenate([half[stage][0] for half in halves], axis=-1)
        if found := _worth(grid, f'the cells of the feature map after {stage}'):
            return found
    return None


def as_colours(grid: np.ndarray) -> np.ndarray:
    """The first three principal components of cells [n, h, w, D], over all images, as red, green and blue in [0, 1]."""
    scores, _ = principal_components(grid.reshape(-1, grid.shape[-1]), 3)
    low, high = np.percentile(scores, (1, 99), axis=0)
    scaled = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    return scaled.reshape(*grid.shape[:3], 3)


def _apply(encoder: Encoder, images: np.ndarray, method: str, *args: Any, **how: Any) -> Any:
    module, policy = encoder.module, encoder.policy

    @jax.jit
    def run(variables: Any, images: Array) -> Any:
        return module.apply(variables, policy.normalize(images, module.dtype), *args, method=method, **how)

    return run(encoder.variables, images)


def _worth(grid: Any, what: str) -> tuple[np.ndarray, str] | None:
    return (np.asarray(grid, np.float32), what) if min(grid.shape[1:3]) >= CELLS else None


def _labels(source: Source, ids: np.ndarray) -> np.ndarray:
    return np.full(len(ids), -1) if source.labels is None else source.labels[ids]
