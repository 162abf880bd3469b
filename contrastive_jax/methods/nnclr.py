"""NNCLR (arXiv 2104.14548): the nearest neighbor of a view in a queue of projections is the positive of the other view.

The queue is the one of MoCo; here it is the support set in which neighbors are looked for, and holds no negatives:
these are the other predictions of the batch. Its keys come from the trained network, there is no target. There is no
official code; this follows the paper's algorithm 1.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.nnclr import nearest_neighbors, nnclr_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory, networks, signals
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class NNCLR(base.Method):
    """Nearest-neighbor contrastive learning of visual representations.

    Attributes:
      network: encoder, projector and predictor, with BN over the whole global batch.
      queue_size: the number of projections in the support set; a multiple of the global batch size.
      temperature: T of the softmax.
    """

    queue_size: int = field(98304, most=2**30)  # the rest of its range depends on the batch size: see `check`
    temperature: float = field(0.1, above=0)

    has_predictor: ClassVar[bool] = True
    memory_spec: ClassVar[base.PyTree] = {'queue': memory.QUEUE_SPEC}

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        if c.batch_size > 0:
            rules.multiple('method.queue_size', c.batch_size, f'the batch size {c.batch_size}')

    def init(self, rng: Array, batch: base.Batch) -> tuple[base.PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        B, dim = batch['views'][0].shape[0], self.network.projector.output_dim
        queue = memory.init_queue(jax.random.fold_in(rng, 1), self.queue_size, B, dim)
        return params, dataclasses.replace(state, memory={'queue': queue})

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
        views, queue, T = batch['views'], state.memory['queue'], self.temperature
        stats = state.batch_stats['online']
        ((z1, p1), (z2, p2)), stats = networks.predict_each(self.network, params, stats, views, axis_name)

        # Both directions look in the old queue, which then gets the projections of the first views.
        nn1, nn2 = (nearest_neighbors(z, queue['keys'], axis_name=axis_name) for z in (z1, z2))
        terms12 = nnclr_terms(nn1.rows, p2, temperature=T, axis_name=axis_name)
        terms21 = nnclr_terms(nn2.rows, p1, temperature=T, axis_name=axis_name)
        loss = jnp.mean(terms12.loss) / 2 + jnp.mean(terms21.loss) / 2
        queue = memory.enqueue(queue, normalize(z1))

        negative = signals.mean_negative_similarity(nn1.rows, lax.stop_gradient(normalize(p2)), axis_name)
        metrics = signals.contrast_metrics(terms12, T, negative)
        metrics |= {
            'neighbor_similarity': jnp.mean(nn1.similarity),
            'feature_std': feature_std(lax.stop_gradient(z1), axis_name),
        }
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}, memory={'queue': queue}), metrics)
