"""Jigsaw (arXiv 1603.09246): which of P permutations shuffled the nine tiles of an image?

A view is a 3 x 3 grid of tiles (`config.augment.patches`). Against shortcuts each tile is a random part of its cell, so
that edges do not continue; its mean and standard deviation are normalized; its color channels are moved against each
other; and some images are gray (`config.augment.grayscale`).

The paper's network, CFN, is AlexNet up to fc6 for each tile: here a ResNet and the projector. fc7 and fc8, which see
all tiles, are the classifier. Tiles are encoded before they are shuffled, which gives the same values. The official
code is for Caffe and was not compared with.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.classification import cross_entropy
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, networks
from contrastive_jax.methods.tiles import TILES, check_grid, project_tiles
from contrastive_jax.models.heads import MLP
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class Jigsaw(base.Method):
    """Solving jigsaw puzzles: a classifier of permutations.

    Attributes:
      network: encoder and projector, which is applied to each tile by itself; no predictor.
      num_permutations: P, the number of classes; 1000 in the paper.
      hidden_dim: the width of the classifier's hidden layer; 4096 in the paper.
    """

    num_permutations: int = field(1000, least=2, most=10_000)
    hidden_dim: int = field(4096, least=1)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    patches: ClassVar[bool] = True

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        check_grid(c, rules)

    @property
    def classifier(self) -> MLP:
        """The layers that see all tiles of an image."""
        dtype = self.network.encoder.dtype
        return MLP(2, self.hidden_dim, self.num_permutations, bias=True, batch_norm=False, dtype=dtype)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        tiles = jnp.zeros((1, TILES * self.network.projector.output_dim))
        classifier = self.classifier.init(jax.random.fold_in(rng, 1), tiles, train=True)['params']
        return {**params, 'classifier': classifier}, state

    def loss(
        self,
        params: PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> base.LossOutput:
        del progress
        tiles = standardize(batch['views'][0])
        z, stats = project_tiles(self.network, params, state.batch_stats['online'], tiles, axis_name)  # [9, b, D]
        keys = collectives.example_keys(rng, collectives.positions(z.shape[1], axis_name))
        label = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.num_permutations))(keys)  # [b]
        order = jnp.asarray(permutations(self.num_permutations))[label].astype(jnp.int32)  # [b, 9]
        shuffled = jnp.take_along_axis(z.swapaxes(0, 1), order[..., None], axis=1)  # [b, 9, D]
        logits: Any = self.classifier.apply(
            {'params': params['classifier']}, shuffled.reshape(len(order), -1), train=True
        )
        metrics = {
            'pretext_top1': jnp.mean(jnp.argmax(logits, axis=-1) == label),
            'feature_std': feature_std(normalize(z[TILES // 2]), axis_name),
        }
        state = dataclasses.replace(state, batch_stats={'online': stats})
        return cross_entropy(logits, label), (state, metrics)


def standardize(tiles: Array) -> Array:
    """Gives each channel of each tile [..., p, p, C] mean 0 and standard deviation 1; a flat one becomes 0."""
    x = tiles.astype(jnp.promote_types(tiles.dtype, jnp.float32))
    x -= jnp.mean(x, axis=(-3, -2), keepdims=True)
    variance = jnp.mean(x**2, axis=(-3, -2), keepdims=True)
    return (x * jax.lax.rsqrt(jnp.maximum(variance, 1e-6))).astype(tiles.dtype)


@functools.cache
def permutations(count: int, tiles: int = TILES) -> np.ndarray:
    """A set of permutations that are far from one another (algorithm 1 of the paper): uint8 [count, tiles].

    The first one is random, here always the same one. Each further one has the largest sum of Hamming distances to
    those before it; of several, the first in lexicographic order.

    Raises:
      ValueError: there are fewer permutations.
    """
    if not 1 <= count <= math.factorial(tiles):
        raise ValueError(f'{count} permutations of {tiles} tiles: use 1 to {math.factorial(tiles)}')
    columns = np.array(list(itertools.permutations(range(tiles))), np.uint8).T.copy()  # [tiles, tiles!]
    chosen = [int(np.random.default_rng(0).integers(columns.shape[1]))]
    distance = np.zeros(columns.shape[1], np.int32)
    while len(chosen) < count:
        for column in columns:
            distance += column != column[chosen[-1]]
        distance[chosen[-1]] = np.iinfo(np.int32).min // 2  # is not chosen again
        chosen.append(int(distance.argmax()))
    return columns[:, chosen].T
