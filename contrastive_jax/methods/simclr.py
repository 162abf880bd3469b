"""SimCLR v1 (arXiv 2002.05709) and v2 (arXiv 2006.10029): the dictionary is all other views of the batch.

v2 is v1 with larger networks (selective kernels, `models/resnet.py`), a third layer in the head, and optionally a
memory: four lines in a config, but for the memory. Official source: google-research/simclr, tf2/objective.py and
tf2/model.py. Both views go through the network together, and so through one batch norm over all 2B views; BN groups,
which GradCache (`config.chunks`) takes, lie within a view.

No code of the memory was published. The paper: a "memory network (with a moving average of weights for stabilization)
whose output will be buffered as negative examples", 64K of them, on top of those that the batch supplies. What was
chosen here, as in MoCo where it does not say: the memory network moves before it encodes, encodes both views, and
its outputs join the buffer after the loss; positives, and the negatives of the batch, are still the online network's.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.nt_xent import add_negatives, nt_xent_terms
from contrastive_jax.losses.numerics import TENSORFLOW_NORM_FLOOR, normalize
from contrastive_jax.methods import base, ema, memory
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class SimCLR(base.Method):
    """A simple framework for contrastive learning.

    Attributes:
      network: encoder and projector, no predictor, with BN over the whole global batch of both views.
      temperature: T.
    """

    temperature: float = field(0.1, above=0)

    concat_views: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = base.init_network(self.network, rng, batch)
        return params, base.MethodState(target={}, batch_stats={'online': stats}, memory={})

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
        del rng, progress
        x = jnp.concatenate(batch['views'])  # [2b, H, W, C]
        z, stats = base.project(self.network, params, state.batch_stats['online'], x, axis_name)
        z1, z2 = jnp.split(unit(z), 2)  # [b, D]
        found = nt_xent_terms(z1, z2, temperature=self.temperature, axis_name=axis_name)
        loss = 2.0 * jnp.mean(found.loss)  # NT-Xent, the sum of the means of both kinds of views

        metrics = base.contrast_metrics(found, self.temperature, mean_similarity_in_batch(z1, z2, axis_name))
        metrics['feature_std'] = base.feature_std(z1, axis_name)
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)


@dataclasses.dataclass(frozen=True)
class SimCLRMemory(base.Method):
    """SimCLR v2 with its memory.

    Attributes:
      network: encoder and projector, no predictor, with BN over the whole global batch.
      queue_size: negatives in the memory; a multiple of the 2B views of a batch.
      momentum: of the memory network.
      temperature: T.
    """

    queue_size: int = 65536  # its range depends on the batch size: see `check`
    momentum: float = field(0.999, least=0, most=1)
    temperature: float = field(0.1, above=0)

    memory_spec: ClassVar[PyTree] = {'queue': memory.QUEUE_SPEC}
    concat_views: ClassVar[bool] = True

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        if (views := 2 * c.batch_size) > 0:
            rules.multiple('method.queue_size', views, f'the batch size {views} (both views of the batch)')

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = base.init_network(self.network, rng, batch)
        B, dim = batch['views'][0].shape[0], self.network.projector.output_dim
        state = base.MethodState(
            target=base.copy(params),
            batch_stats={'online': stats, 'target': base.copy(stats)},
            memory={'queue': memory.init_queue(jax.random.fold_in(rng, 1), self.queue_size, B, dim)},
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
        del rng, progress
        x = jnp.concatenate(batch['views'])  # [2b, H, W, C]
        queue = state.memory['queue']
        z, stats = base.project(self.network, params, state.batch_stats['online'], x, axis_name)
        z = unit(z)
        z1, z2 = jnp.split(z, 2)  # [b, D]
        found = nt_xent_terms(z1, z2, temperature=self.temperature, axis_name=axis_name)
        found = add_negatives(found, z, queue['keys'], temperature=self.temperature, axis_name=axis_name)
        loss = 2.0 * jnp.mean(found.loss)

        target = ema.update(state.target, params, self.momentum)  # before the keys are encoded
        k, stats_k = base.project(self.network, target, state.batch_stats['target'], x, axis_name)
        enqueued = queue
        for keys in jnp.split(unit(k), 2):
            enqueued = memory.enqueue(enqueued, keys)

        others = 2 * z1.shape[0] * collectives.axis_size(axis_name) - 2
        mean_key = collectives.pmean(jnp.mean(queue['keys'], axis=(0, 1)), axis_name)  # [D]
        negative = others * mean_similarity_in_batch(z1, z2, axis_name) + self.queue_size * jnp.mean(z @ mean_key)
        metrics = base.contrast_metrics(found, self.temperature, negative / (others + self.queue_size))
        metrics['feature_std'] = base.feature_std(z1, axis_name)
        state = base.MethodState(
            target=target,
            batch_stats={'online': stats, 'target': stats_k},
            memory={'queue': enqueued},
        )
        return loss, (state, metrics)


def unit(z: Array) -> Array:
    """L2-normalised as by TensorFlow, with a floor of 1e-12 on the square of the norm."""
    return normalize(z, TENSORFLOW_NORM_FLOOR)


def mean_similarity_in_batch(z1: Array, z2: Array, axis_name: str | None = None) -> Array:
    """Mean cosine similarity of the local views, unit [b, D], and the 2B - 2 views of the other images."""
    z1, z2 = lax.stop_gradient((z1, z2))
    n = 2 * z1.shape[0] * collectives.axis_size(axis_name)
    mean = collectives.pmean((jnp.mean(z1, axis=0) + jnp.mean(z2, axis=0)) / 2, axis_name)  # [D]
    all_pairs = jnp.mean((z1 + z2) / 2 @ mean)
    positive = jnp.mean(jnp.sum(z1 * z2, axis=-1))
    return (n * all_pairs - 1.0 - positive) / max(n - 2, 1)
