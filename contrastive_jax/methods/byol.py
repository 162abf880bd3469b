"""BYOL (arXiv 2006.07733): the online network predicts the target network's projection of the other view.

Official source: google-deepmind/deepmind-research, byol/byol_experiment.py. As there, the target network starts from
other random weights than the online network (the authors saw no difference), and is normalized with the statistics of
its own batches. After the optimizer's step its parameters, but not its BN statistics, move towards the online network.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses import normalized_regression
from contrastive_jax.methods import base, ema, networks, signals
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class BYOL(base.Method):
    """Bootstrap your own latent.

    Attributes:
      network: encoder, projector and predictor, with BN over the whole global batch.
      momentum: tau of the target network at the start; it increases to 1 along half a cosine.
      momentum_rises: False is an ablation: tau stays what it is at the start.
      use_predictor: False is an ablation: the projections take the place of the predictions.
    """

    momentum: float = field(0.996, least=0, most=1)
    momentum_rises: bool = True
    use_predictor: bool = True

    has_predictor: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = networks.init_network(self.network, rng, batch)
        target, target_stats = networks.init_network(self.network, jax.random.fold_in(rng, 1), batch)
        state = base.MethodState(
            target=networks.without_predictor(target),
            batch_stats={'online': stats, 'target': networks.without_predictor(target_stats)},
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
    ) -> base.LossOutput:
        del rng, progress
        views, stats, stats_k = batch['views'], state.batch_stats['online'], state.batch_stats['target']
        ((q1, p1), (q2, p2)), stats = networks.predict_each(self.network, params, stats, views, axis_name)
        if not self.use_predictor:
            p1, p2 = q1, q2
        (z1, z2), stats_k = networks.project_each(self.network, state.target, stats_k, views, axis_name)
        loss = normalized_regression(p1, z2) + normalized_regression(p2, z1)  # without gradient through z
        state = dataclasses.replace(state, batch_stats={'online': stats, 'target': stats_k})
        return loss, (state, signals.regression_metrics(p1, z2, axis_name))

    def schedules(self, progress: float) -> dict[str, Array]:
        return {'momentum of the target': self._tau(progress)}

    def after_update(
        self, params: PyTree, state: base.MethodState, *, progress: Array | float
    ) -> tuple[PyTree, base.MethodState]:
        target = ema.update(state.target, networks.without_predictor(params), self._tau(progress))
        return params, dataclasses.replace(state, target=target)

    def _tau(self, progress: Array | float) -> Array:
        return ema.cosine_momentum(progress, self.momentum) if self.momentum_rises else jnp.asarray(self.momentum)
