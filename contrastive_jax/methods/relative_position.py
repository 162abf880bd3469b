"""Relative position (arXiv 1505.05192): where is a patch, as seen from another patch of the same image?

A view is a 3 x 3 grid of patches with random gaps (`config.augment.patches`). The central patch and each of the other
eight are a pair, so that a step has all eight classes of every image; the paper pairs the patches of a grid in the same
way. Colors are dropped (`augment.patches.color_drop`), because chromatic aberration betrays the position of a patch.

The paper's network is AlexNet with batch norm, up to fc6 the same for both patches: here a ResNet and the projector.
fc7 to fc9, which see both patches, are the classifier; ours has no batch norm. Patches that are first reduced to few
pixels, and Gaussian noise in the dropped channels, are left out. There is no official code in Python.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.classification import cross_entropy
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, networks
from contrastive_jax.methods.tiles import TILES, check_grid, project_tiles
from contrastive_jax.models.heads import MLP
from contrastive_jax.rules import Rules, field

CENTER = TILES // 2
POSITIONS = TILES - 1


@dataclasses.dataclass(frozen=True)
class RelativePosition(base.Method):
    """Context prediction: a classifier of the eight positions of a patch around another one.

    Attributes:
      network: encoder and projector, which is applied to each patch by itself; no predictor.
      hidden_dim: the width of the classifier's two hidden layers; 4096 in the paper.
    """

    hidden_dim: int = field(4096, least=1)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    patches: ClassVar[bool] = True

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        check_grid(c, rules)

    @property
    def classifier(self) -> MLP:
        """The layers that see both patches of a pair."""
        return MLP(3, self.hidden_dim, POSITIONS, bias=True, batch_norm=False, dtype=self.network.encoder.dtype)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        pair = jnp.zeros((1, 2 * self.network.projector.output_dim))
        classifier = self.classifier.init(jax.random.fold_in(rng, 1), pair, train=True)['params']
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
        del rng, progress
        stats = state.batch_stats['online']
        z, stats = project_tiles(self.network, params, stats, batch['views'][0], axis_name)  # [9, b, D]
        center, others = z[CENTER], jnp.concatenate([z[:CENTER], z[CENTER + 1 :]])
        pairs = jnp.concatenate([jnp.broadcast_to(center, others.shape), others], axis=-1)  # [8, b, 2 D]
        logits: Any = self.classifier.apply(
            {'params': params['classifier']}, pairs.reshape(-1, pairs.shape[-1]), train=True
        )
        position = jnp.repeat(jnp.arange(POSITIONS), z.shape[1])  # [8 b]
        loss = cross_entropy(logits, position)
        metrics = {
            'pretext_top1': jnp.mean(jnp.argmax(logits, axis=-1) == position),
            'feature_std': feature_std(normalize(center), axis_name),
        }
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)
