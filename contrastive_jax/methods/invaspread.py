"""InvaSpread (arXiv 1904.03436): features invariant under augmentation that spread out, end to end in the batch.

Official source: mangye16/Unsupervised_Embedding_Learning, demo_seen.py, BatchAverage.py. One encoder, no bank, no
moving average: the negatives are the other images of the batch, in both their views.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.info_nce import info_nce_in_batch_terms
from contrastive_jax.losses.instance_softmax import instance_softmax
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base
from contrastive_jax.methods.mocov3 import mean_negative_similarity
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class InvaSpread(base.Method):
    """Invariant and spreading instance features.

    Attributes:
      network: encoder and projector, with BN over the whole global batch of both views.
      temperature: T.
    """

    temperature: float = field(0.1, above=0)

    concat_views: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = base.init_network(self.network, rng, batch)
        return params, base.MethodState(target={}, batch_stats={'online': stats}, memory={})

    def loss(
        self,
        params: PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> tuple[Array, tuple[base.MethodState, dict[str, Array]]]:
        del rng, progress
        views = jnp.concatenate(batch['views'])  # [2b, ...]: one pass, so BN sees both
        z, stats = base.project(self.network, params, state.batch_stats['online'], views, axis_name)
        z1, z2 = jnp.split(z, 2)  # [b, D]
        loss = instance_softmax(z1, z2, temperature=self.temperature, axis_name=axis_name)

        z1, z2 = lax.stop_gradient((normalize(z1), normalize(z2)))
        found = info_nce_in_batch_terms(z1, z2, temperature=self.temperature, axis_name=axis_name)
        metrics = base.contrast_metrics(found, self.temperature, mean_negative_similarity(z1, z2, axis_name))
        metrics['feature_std'] = base.feature_std(z1, axis_name)
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)
