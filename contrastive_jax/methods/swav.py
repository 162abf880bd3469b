"""SwAV (arXiv 2006.09882): each crop predicts the code of another crop, its soft assignment to prototypes.

Official source: facebookresearch/swav, main_swav.py and src/resnet50.py. It normalizes the prototypes in place at the
start of each step, without gradient. Here this is done at the end of the previous step, with the same result, except
that checkpoints hold unit vectors. `config.optimizer.freeze_first` freezes the prototypes at first.
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
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.losses.swav import sinkhorn, swapped_prediction
from contrastive_jax.methods import base, networks
from contrastive_jax.models.heads import uniform
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class SwAV(base.Method):
    """Swapping assignments between views.

    The two global views have codes, and all views predict them. A batch that is small compared with the number of
    prototypes cannot be assigned evenly. For such batches each of the two views has a queue of embeddings of earlier
    batches, which are assigned together with the batch, by their scores with the current prototypes. As in
    `memory.Queue` it is a ring buffer of batches, which does not depend on the number of devices. The official queue of
    each GPU has the newest embeddings first, but codes do not depend on the order.

    Attributes:
      network: encoder and projector, no predictor.
      num_prototypes: K.
      temperature: T of the predictions.
      epsilon: regularization of the codes; larger values give softer codes. Against collapse the authors propose 0.03.
      iterations: number of Sinkhorn-Knopp iterations.
      queue_size: embeddings in each queue, a multiple of the global batch size; 0: no queue.
      queue_from_epoch: epoch from which on the queue is filled; it is used once it is full.
      steps_per_epoch: steps in an epoch; 0 in a config: set when the data is known.
      total_steps: steps of the training; 0 in a config: set when the data is known.
    """

    num_prototypes: int = field(3000, least=2)
    temperature: float = field(0.1, above=0)
    epsilon: float = field(0.05, above=0)
    iterations: int = field(3, least=1)
    queue_size: int = field(0, most=2**30)  # the rest of its range depends on the batch size: see `check`
    queue_from_epoch: int = field(0, least=0)
    steps_per_epoch: int = field(0, least=0)
    total_steps: int = field(0, least=0)

    multi_crop: ClassVar[bool] = True
    memory_spec: ClassVar[PyTree] = PartitionSpec(None, None, AXIS)  # 'queues' [2, slots, B, D], if there are any

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        B = max(c.batch_size, 1)
        rules.multiple('method.queue_size', B, f'the batch size {B}', or_zero=True)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        B, D = batch['views'][0].shape[0], self.network.projector.output_dim
        init = uniform(D**-0.5)  # as in torch's nn.Linear
        params['prototypes'] = normalize(init(jax.random.fold_in(rng, 1), (self.num_prototypes, D)))
        memory = {'queues': jnp.zeros((2, self.queue_size // B, B, D))} if self.queue_size else {}
        return params, dataclasses.replace(state, memory=memory)

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
        C = params['prototypes']  # [K, D], unit vectors
        z, stats = networks.project_views(self.network, params, state.batch_stats['online'], batch['views'], axis_name)
        z = normalize(z)  # [V, b, D]
        scores = self.score(z, C)  # [V, b, K]

        memory = state.memory
        if not self.queue_size:
            codes = [self.assign(scores[i], axis_name) for i in range(2)]
        else:
            queues = memory['queues']  # [2, slots, b, D]
            step, slots = base.step_from_progress(progress, self.total_steps), queues.shape[1]
            full = step >= self.queue_from_epoch * self.steps_per_epoch + slots
            codes = [self.assign_with_queue(scores[i], queues[i], C, full, axis_name) for i in range(2)]
            # Embeddings from before `queue_from_epoch` are overwritten before the queue is used.
            queues = lax.dynamic_update_index_in_dim(queues, lax.stop_gradient(z[:2]), step % slots, 1)
            memory = {'queues': queues}
        loss = swapped_prediction(scores, codes, temperature=self.temperature)

        metrics = self.metrics(lax.stop_gradient(scores), codes, axis_name)
        metrics |= {
            'relative_loss': loss / math.log(self.num_prototypes),  # 1: all predictions are uniform
            'feature_std': feature_std(z[0], axis_name),
        }
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}, memory=memory), metrics)

    def after_update(
        self, params: PyTree, state: base.MethodState, *, progress: Array | float
    ) -> tuple[PyTree, base.MethodState]:
        del progress
        return params | {'prototypes': normalize(params['prototypes'])}, state

    def score(self, z: Array, prototypes: Array) -> Array:
        """Scores [..., K] of embeddings [..., D], in full precision: epsilon amplifies rounding errors by 20."""
        return jnp.matmul(z, prototypes.T, precision=lax.Precision.HIGHEST)

    def assign(self, scores: Array, axis_name: str | None) -> Array:
        """Codes [b, K] of the local examples."""
        return sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations, axis_name=axis_name)

    def assign_with_queue(
        self, scores: Array, queue: Array, prototypes: Array, full: Array, axis_name: str | None
    ) -> Array:
        """Codes [b, K] of the local examples, which are assigned with the queue [slots, b, D] once it is full."""

        def with_queue(scores: Array) -> Array:
            queued = self.score(queue.reshape(-1, queue.shape[-1]), prototypes)  # [slots * b, K]
            return self.assign(jnp.concatenate([queued, scores]), axis_name)[-scores.shape[0] :]

        # `full` is the same on all devices, so that all of them run the same collectives.
        return lax.cond(full, with_queue, lambda scores: self.assign(scores, axis_name), lax.stop_gradient(scores))

    def metrics(self, scores: Array, codes: list[Array], axis_name: str | None) -> dict[str, Array]:
        """Metrics of collapse. Entropies are divided by ln K.

        Returns:
          'same_prototype': fraction of examples whose two codes have their maximum at the same prototype.
          'code_entropy': mean entropy of a code; 0: one-hot, 1: uniform. 'prototype_usage': entropy of the mean
          prediction over the global batch; 0: all examples are assigned to one prototype.
        """
        usage = jnp.mean(jax.nn.softmax(scores[0] / self.temperature), axis=0)
        return {
            'same_prototype': jnp.mean(jnp.argmax(codes[0], axis=-1) == jnp.argmax(codes[1], axis=-1)),
            'code_entropy': jnp.mean(_entropy(codes[0])) / math.log(self.num_prototypes),
            'prototype_usage': _entropy(collectives.pmean(usage, axis_name)) / math.log(self.num_prototypes),
        }


def _entropy(p: Array) -> Array:
    """Entropy along the last axis, in nats."""
    return jnp.sum(jax.scipy.special.entr(p), axis=-1)
