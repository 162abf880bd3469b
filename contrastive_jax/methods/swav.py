"""SwAV (arXiv 2006.09882): no pairs of features are compared; each crop predicts to which prototypes another belongs.

Official source: facebookresearch/swav, main_swav.py and src/resnet50.py. There prototypes are made unit vectors, in
place, at the start of every step; here at the end of the step before: the same, but a checkpoint holds unit vectors. No
gradient passes through that. They rest at first by `config.optimizer.freeze_first`.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.losses.swav import sinkhorn, swapped_prediction
from contrastive_jax.methods import base
from contrastive_jax.models.heads import uniform
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class SwAV(base.Method):
    """Swapping assignments between views.

    The two global views are given codes, and all views predict them. A small batch is shared among many prototypes
    badly: then a queue of embeddings of the last batches, one for each of the two views, takes part in the sharing. It
    is scored with the prototypes of today. As in `memory.Queue` it is a ring of batches, so that it holds the same on
    any number of devices; the official queue of each GPU has the newest first, but codes do not depend on the order.

    Attributes:
      network: encoder and projector, no predictor.
      num_prototypes: K.
      temperature: T of the predictions.
      epsilon: of the codes; larger is softer. The authors propose 0.03 against collapse.
      iterations: of Sinkhorn-Knopp.
      queue_size: embeddings in each queue, a multiple of the global batch; 0: none.
      queue_from_epoch: epoch in which the queue begins to fill; it takes part once it is full.
      steps_per_epoch, total_steps: of the training.
    """

    num_prototypes: int = field(3000, least=2)
    temperature: float = field(0.1, above=0)
    epsilon: float = field(0.05, above=0)
    iterations: int = field(3, least=1)
    queue_size: int = 0  # its range depends on the batch size: see `check`
    queue_from_epoch: int = field(0, least=0)
    steps_per_epoch: int = field(0, least=0)
    total_steps: int = field(0, least=0)

    multi_crop: ClassVar[bool] = True
    memory_spec: ClassVar[PyTree] = PartitionSpec(None, None, AXIS)  # of the queues, if there are any

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        B = max(c.batch_size, 1)
        rules.multiple('method.queue_size', B, f'the batch size {B}', or_zero=True)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = base.init_network(self.network, rng, batch)
        B, D = batch['views'][0].shape[0], self.network.projector.output_dim
        draw = uniform(D**-0.5)  # torch's nn.Linear
        params['prototypes'] = normalize(draw(jax.random.fold_in(rng, 1), (self.num_prototypes, D)))
        memory = {'queues': jnp.zeros((2, self.queue_size // B, B, D))} if self.queue_size else {}
        return params, base.MethodState(target={}, batch_stats={'online': stats}, memory=memory)

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
        C = params['prototypes']  # [K, D], unit vectors
        z, stats = base.project_views(self.network, params, state.batch_stats['online'], batch['views'], axis_name)
        z = normalize(z)  # [V, b, D]
        scores = self.score(z, C)  # [V, b, K]

        memory = state.memory
        if not self.queue_size:
            codes = [self.assign(scores[i], axis_name) for i in range(2)]
        else:
            queues = memory['queues']  # [2, slots, b, D]
            step, slots = base.step_of(progress, self.total_steps), queues.shape[1]
            full = step >= self.queue_from_epoch * self.steps_per_epoch + slots
            codes = [self.assign_with_queue(scores[i], queues[i], C, full, axis_name) for i in range(2)]
            # What was put in before `queue_from_epoch` is gone when the queue is used.
            queues = lax.dynamic_update_index_in_dim(queues, lax.stop_gradient(z[:2]), step % slots, 1)
            memory = {'queues': queues}
        loss = swapped_prediction(scores, codes, temperature=self.temperature)

        metrics = self.metrics(lax.stop_gradient(scores), codes, axis_name)
        metrics |= {
            'relative_loss': loss / math.log(self.num_prototypes),
            'feature_std': base.feature_std(z[0], axis_name),
        }
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}, memory=memory), metrics)

    def after_update(
        self, params: PyTree, state: base.MethodState, *, progress: Array | float
    ) -> tuple[PyTree, base.MethodState]:
        del progress
        return params | {'prototypes': normalize(params['prototypes'])}, state

    def score(self, z: Array, prototypes: Array) -> Array:
        """Similarities of [..., D] with the K prototypes. Full precision: epsilon multiplies rounding errors by 20."""
        return jnp.matmul(z, prototypes.T, precision=lax.Precision.HIGHEST)

    def assign(self, scores: Array, axis_name: str | None) -> Array:
        """Codes [b, K]."""
        return sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations, axis_name=axis_name)

    def assign_with_queue(
        self, scores: Array, queue: Array, prototypes: Array, full: Array, axis_name: str | None
    ) -> Array:
        """Codes [b, K], shared among the batch and, once it is full, the queue [slots, b, D]."""

        def shared(scores: Array) -> Array:
            queued = self.score(queue.reshape(-1, queue.shape[-1]), prototypes)  # [slots * b, K]
            return self.assign(jnp.concatenate([queued, scores]), axis_name)[-scores.shape[0] :]

        # The same on all devices, and so are the collectives inside.
        return lax.cond(full, shared, lambda scores: self.assign(scores, axis_name), lax.stop_gradient(scores))

    def metrics(self, scores: Array, codes: list[Array], axis_name: str | None) -> dict[str, Array]:
        """Signs of collapse, entropies as a part of ln K.

        Returns:
          'same_prototype': how often both global views belong most to the same one. 'code_entropy': 0 where a code is
          one prototype, 1 where it says nothing. 'prototype_usage': entropy of the mean prediction of the global batch,
          0 if all belong to one prototype. The loss is ln K ('relative_loss' 1) if all predictions are equal.
        """
        usage = jnp.mean(jax.nn.softmax(scores[0] / self.temperature), axis=0)
        return {
            'same_prototype': jnp.mean(jnp.argmax(codes[0], axis=-1) == jnp.argmax(codes[1], axis=-1)),
            'code_entropy': jnp.mean(_entropy(codes[0])) / math.log(self.num_prototypes),
            'prototype_usage': _entropy(collectives.pmean(usage, axis_name)) / math.log(self.num_prototypes),
        }


def _entropy(p: Array) -> Array:
    """Along the last axis, in nats."""
    return jnp.sum(jax.scipy.special.entr(p), axis=-1)
