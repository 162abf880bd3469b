"""InvaSpread (arXiv 1904.03436): features that are invariant to augmentation and different for different images.

Official source: mangye16/Unsupervised_Embedding_Learning, demo_seen.py, BatchAverage.py. There is one encoder, no
memory bank and no moving average: the negatives are both views of the other images in the batch.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import info_nce_in_batch_terms
from contrastive_jax.losses.instance_softmax import instance_softmax
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, networks, signals
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class InvaSpread(base.Method):
    """Invariant and spreading instance features.

    Attributes:
      network: encoder and projector, with BN over the whole global batch of both views.
      temperature: T of the softmax.
    """

    temperature: float = field(0.1, above=0)

    concat_views: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        return networks.init_online(self.network, rng, batch)

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
        views = jnp.concatenate(batch['views'])  # [2b, ...]: one pass, so that BN is over both
        z, stats = networks.project(self.network, params, state.batch_stats['online'], views, axis_name)
        z1, z2 = jnp.split(z, 2)  # [b, D]
        loss = instance_softmax(z1, z2, temperature=self.temperature, axis_name=axis_name)

        z1, z2 = lax.stop_gradient((normalize(z1), normalize(z2)))
        terms = info_nce_in_batch_terms(z1, z2, temperature=self.temperature, axis_name=axis_name)
        metrics = signals.contrast_metrics(terms, self.temperature, signals.mean_negative_similarity(z1, z2, axis_name))
        metrics['feature_std'] = feature_std(z1, axis_name)
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)
