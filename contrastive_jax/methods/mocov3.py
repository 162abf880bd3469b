"""MoCo v3 (arXiv 2104.02057): the keys of a large batch instead of a queue, and a predictor; for ResNets and ViTs.

Official source: facebookresearch/moco-v3, moco/builder.py. The random patch projection of a ViT is frozen, which makes
training stable; this is configured in `config.optimizer.freeze`.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import info_nce_in_batch_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, ema, networks, signals
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class MoCoV3(base.Method):
    """Momentum Contrast without a queue.

    Attributes:
      network: encoder, projector and predictor, with BN over the whole global batch.
      momentum: m of the key encoder at the start; it increases to 1 along half a cosine.
      temperature: T of the softmax; the loss is multiplied by 2T.
    """

    momentum: float = field(0.99, least=0, most=1)
    temperature: float = field(0.2, above=0)

    has_predictor: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        return networks.init_online_and_target(self.network, rng, batch)

    def schedules(self, progress: float) -> dict[str, Array]:
        return {'momentum of the target': ema.cosine_momentum(progress, self.momentum)}

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
        del rng
        views, stats, stats_k = batch['views'], state.batch_stats['online'], state.batch_stats['target']
        ((_, q1), (_, q2)), stats = networks.predict_each(self.network, params, stats, views, axis_name)

        momentum = ema.cosine_momentum(progress, self.momentum)
        target = ema.update(state.target, networks.without_predictor(params), momentum)  # before the keys are encoded
        (k1, k2), stats_k = networks.project_each(self.network, target, stats_k, views, axis_name)
        k1, k2 = lax.stop_gradient((k1, k2))

        T = self.temperature
        terms12 = info_nce_in_batch_terms(q1, k2, temperature=T, axis_name=axis_name)
        terms21 = info_nce_in_batch_terms(q2, k1, temperature=T, axis_name=axis_name)
        loss = 2 * T * jnp.mean(terms12.loss) + 2 * T * jnp.mean(terms21.loss)

        q1, k2 = normalize(lax.stop_gradient(q1)), normalize(k2)
        metrics = signals.contrast_metrics(terms12, T, signals.mean_negative_similarity(q1, k2, axis_name))
        metrics |= {'feature_std': feature_std(q1, axis_name), 'momentum': momentum}
        state = base.MethodState(target=target, batch_stats={'online': stats, 'target': stats_k}, memory={})
        return loss, (state, metrics)
