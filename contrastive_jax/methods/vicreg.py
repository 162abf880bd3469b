"""VICReg (arXiv 2105.04906): two views agree, and each keeps the variance of its dimensions and decorrelates them.

One network without predictor, target and memory: the variance term prevents a collapse. Official source:
facebookresearch/vicreg, main_vicreg.py, where the projector is called expander.
"""

import dataclasses

from jax import Array

from contrastive_jax.losses.vicreg import vicreg_terms
from contrastive_jax.methods import base, networks, signals
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class VICReg(base.Method):
    """Variance-invariance-covariance regularization.

    Attributes:
      network: encoder and projector, no predictor, with BN over the whole global batch. The projector has no last BN,
        which would set all variances.
      invariance: lambda, the weight of the squared distance of the views.
      variance: mu, the weight of the hinge on the standard deviations.
      covariance: nu, the weight of the squared covariances.
    """

    invariance: float = field(25.0, least=0)
    variance: float = field(25.0, least=0)
    covariance: float = field(1.0, least=0)

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
        (z1, z2), stats = networks.project_each(self.network, params, stats, batch['views'], axis_name)
        terms = vicreg_terms(z1, z2, axis_name=axis_name)
        loss = self.invariance * terms.invariance + self.variance * terms.variance + self.covariance * terms.covariance
        metrics = signals.regression_metrics(z1, z2, axis_name) | terms._asdict()
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)
