"""MoCo v3 (arXiv 2104.02057): no queue; the keys of a large batch, a predictor, ResNets and Vision Transformers.

Official source: facebookresearch/moco-v3, moco/builder.py. Freezing the random patch projection, which keeps ViTs
stable, is the optimizer's affair (`config.optimizer.freeze`).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.info_nce import info_nce_in_batch_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, ema
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class MoCoV3(base.Method):
    """Momentum Contrast without a queue.

    Attributes:
      network: encoder, projector and predictor, with BN over the whole global batch.
      momentum: of the key encoder at the start; it rises to 1 on a half cosine.
      temperature: T; the loss is scaled by 2T.
    """

    momentum: float = field(0.99, least=0, most=1)
    temperature: float = field(0.2, above=0)

    has_predictor: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = base.init_network(self.network, rng, batch)
        state = base.MethodState(
            target=base.copy(base.without_predictor(params)),
            batch_stats={'online': stats, 'target': base.copy(base.without_predictor(stats))},
            memory={},
        )
        return params, state

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
        del rng
        x1, x2 = batch['views']
        stats, stats_k = state.batch_stats['online'], state.batch_stats['target']
        (_, q1), stats = base.predict(self.network, params, stats, x1, axis_name)
        (_, q2), stats = base.predict(self.network, params, stats, x2, axis_name)

        momentum = ema.cosine_momentum(progress, self.momentum)
        target = ema.update(state.target, base.without_predictor(params), momentum)  # before the keys are encoded
        k1, stats_k = base.project(self.network, target, stats_k, x1, axis_name)
        k2, stats_k = base.project(self.network, target, stats_k, x2, axis_name)
        k1, k2 = lax.stop_gradient((k1, k2))

        T = self.temperature
        found12 = info_nce_in_batch_terms(q1, k2, temperature=T, axis_name=axis_name)
        found21 = info_nce_in_batch_terms(q2, k1, temperature=T, axis_name=axis_name)
        loss = 2 * T * jnp.mean(found12.loss) + 2 * T * jnp.mean(found21.loss)

        q1, k2 = normalize(lax.stop_gradient(q1)), normalize(k2)
        metrics = base.contrast_metrics(found12, T, mean_negative_similarity(q1, k2, axis_name))
        metrics |= {'feature_std': base.feature_std(q1, axis_name), 'momentum': momentum}
        state = base.MethodState(target=target, batch_stats={'online': stats, 'target': stats_k}, memory={})
        return loss, (state, metrics)


def mean_negative_similarity(q: Array, k: Array, axis_name: str | None = None) -> Array:
    """Mean cosine similarity of the local unit queries [b, D] and the other keys of the global batch."""
    B = q.shape[0] * collectives.axis_size(axis_name)
    mean_key = collectives.pmean(jnp.mean(k, axis=0), axis_name)  # [D]
    all_pairs, own = jnp.mean(q @ mean_key), jnp.mean(jnp.sum(q * k, axis=-1))
    return (all_pairs * B - own) / max(B - 1, 1)
