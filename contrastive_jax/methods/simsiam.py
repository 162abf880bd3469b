"""SimSiam (arXiv 2011.10566): one network with a predictor, two views and a stop-gradient; no target and no memory.

Official source: facebookresearch/simsiam, simsiam/builder.py and main_simsiam.py. The constant learning rate of the
predictor is configured in `config.optimizer.constant`.
"""

import dataclasses
from functools import partial
from typing import ClassVar

from jax import Array

from contrastive_jax.losses import negative_cosine
from contrastive_jax.methods import base, networks, signals


@dataclasses.dataclass(frozen=True)
class SimSiam(base.Method):
    """Simple Siamese representation learning: each view predicts the other's projection (algorithm 1).

    Attributes:
      network: encoder, projector and predictor, with BN over the whole global batch.
      use_predictor: False is an ablation: the projections take the place of the predictions.
      stop_gradient: whether the projections get no gradient; False is an ablation.
    """

    use_predictor: bool = True
    stop_gradient: bool = True

    has_predictor: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[base.PyTree, base.MethodState]:
        return networks.init_online(self.network, rng, batch)

    def loss(
        self,
        params: base.PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> base.LossOutput:
        del rng, progress
        stats = state.batch_stats['online']
        ((z1, p1), (z2, p2)), stats = networks.predict_each(self.network, params, stats, batch['views'], axis_name)
        if not self.use_predictor:
            p1, p2 = z1, z2
        D = partial(negative_cosine, stop_gradient=self.stop_gradient)
        loss = D(p1, z2) / 2 + D(p2, z1) / 2
        state = dataclasses.replace(state, batch_stats={'online': stats})
        return loss, (state, signals.regression_metrics(p1, z2, axis_name))
