"""Barlow Twins (arXiv 2103.03230): the cross-correlation of the projections of two views becomes the identity matrix.

One network without predictor, target and memory: the off-diagonal terms prevent a collapse. Official source:
facebookresearch/barlowtwins, main.py.
"""

import dataclasses

from jax import Array

from contrastive_jax.losses.barlow_twins import barlow_twins_terms
from contrastive_jax.methods import base, networks, signals
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class BarlowTwins(base.Method):
    """Self-supervised learning by redundancy reduction.

    Attributes:
      network: encoder and projector, no predictor, with BN over the whole global batch. The loss standardizes the
        projections, so that the projector needs no last BN.
      off_diagonal: lambda, the weight of the off-diagonal terms of the correlation matrix.
    """

    off_diagonal: float = field(0.0051, least=0)

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
        terms = barlow_twins_terms(z1, z2, axis_name=axis_name)
        loss = terms.on_diagonal + self.off_diagonal * terms.off_diagonal
        metrics = signals.regression_metrics(z1, z2, axis_name) | terms._asdict()
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)
