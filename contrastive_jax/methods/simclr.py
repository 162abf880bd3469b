"""SimCLR v1 (arXiv 2002.05709) and v2 (arXiv 2006.10029): the keys are all other views of the batch.

v2 is v1 with larger networks (selective kernels, `models/resnet.py`), a third layer in the head, and optionally a
memory; without the memory the differences are four lines of a config. Official source: google-research/simclr,
tf2/objective.py and tf2/model.py. Both views pass through the network in one batch, so that BN is over all 2B views. BN
groups, which GradCache (`config.chunks`) needs, contain examples of one view only.

There is no official code of the memory. The paper describes a "memory network (with a moving average of weights for
stabilization) whose output will be buffered as negative examples", 64K of them, in addition to the negatives of the
batch. Where the paper is silent, this follows MoCo: the memory network is updated before it encodes; it encodes both
views, and its outputs are enqueued after the loss. The positives, and the negatives of the batch, are projections of
the online network.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.nt_xent import add_negatives, nt_xent_terms
from contrastive_jax.losses.numerics import TENSORFLOW_NORM_FLOOR, normalize
from contrastive_jax.methods import base, ema, memory, networks, signals
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class SimCLR(base.Method):
    """A simple framework for contrastive learning.

    Attributes:
      network: encoder and projector, no predictor, with BN over the whole global batch of both views.
      temperature: T of the softmax.
    """

    temperature: float = field(0.1, above=0)

    concat_views: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        return networks.init_online(self.network, rng, batch)

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
        x = jnp.concatenate(batch['views'])  # [2b, H, W, C]
        z, stats = networks.project(self.network, params, state.batch_stats['online'], x, axis_name)
        z1, z2 = jnp.split(unit(z), 2)  # [b, D]
        terms = nt_xent_terms(z1, z2, temperature=self.temperature, axis_name=axis_name)
        loss = 2.0 * jnp.mean(terms.loss)  # NT-Xent, the mean over the first views plus that over the second views

        metrics = signals.contrast_metrics(terms, self.temperature, mean_similarity_in_batch(z1, z2, axis_name))
        metrics['feature_std'] = feature_std(z1, axis_name)
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)


@dataclasses.dataclass(frozen=True)
class SimCLRMemory(base.Method):
    """SimCLR v2 with a memory of additional negatives.

    Attributes:
      network: encoder and projector, no predictor, with BN over the whole global batch of both views.
      queue_size: the number of negatives in the memory; a multiple of the 2B views of a global batch.
      momentum: m of the memory network.
      temperature: T of the softmax.
    """

    queue_size: int = field(65536, most=2**30)  # the rest of its range depends on the batch size: see `check`
    momentum: float = field(0.999, least=0, most=1)
    temperature: float = field(0.1, above=0)

    memory_spec: ClassVar[PyTree] = {'queue': memory.QUEUE_SPEC}
    concat_views: ClassVar[bool] = True

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        if (views := 2 * c.batch_size) > 0:
            rules.multiple('method.queue_size', views, f'the batch size {views} (both views of the batch)')

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online_and_target(self.network, rng, batch)
        B, dim = batch['views'][0].shape[0], self.network.projector.output_dim
        queue = memory.init_queue(jax.random.fold_in(rng, 1), self.queue_size, B, dim)
        return params, dataclasses.replace(state, memory={'queue': queue})

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
        x = jnp.concatenate(batch['views'])  # [2b, H, W, C]
        queue = state.memory['queue']
        z, stats = networks.project(self.network, params, state.batch_stats['online'], x, axis_name)
        z = unit(z)
        z1, z2 = jnp.split(z, 2)  # [b, D]
        terms = nt_xent_terms(z1, z2, temperature=self.temperature, axis_name=axis_name)
        terms = add_negatives(terms, z, queue['keys'], temperature=self.temperature, axis_name=axis_name)
        loss = 2.0 * jnp.mean(terms.loss)

        target = ema.update(state.target, params, self.momentum)  # before the keys are encoded
        k, stats_k = networks.project(self.network, target, state.batch_stats['target'], x, axis_name)
        enqueued = queue
        for keys in jnp.split(unit(k), 2):
            enqueued = memory.enqueue(enqueued, keys)

        in_batch = 2 * z1.shape[0] * collectives.axis_size(axis_name) - 2  # negatives of a view
        mean_key = collectives.pmean(jnp.mean(queue['keys'], axis=(0, 1)), axis_name)  # [D]
        negative = in_batch * mean_similarity_in_batch(z1, z2, axis_name) + self.queue_size * jnp.mean(z @ mean_key)
        metrics = signals.contrast_metrics(terms, self.temperature, negative / (in_batch + self.queue_size))
        metrics['feature_std'] = feature_std(z1, axis_name)
        state = base.MethodState(
            target=target,
            batch_stats={'online': stats, 'target': stats_k},
            memory={'queue': enqueued},
        )
        return loss, (state, metrics)


def unit(z: Array) -> Array:
    """L2-normalizes as TensorFlow does, with a floor of 1e-12 on the squared norm."""
    return normalize(z, TENSORFLOW_NORM_FLOOR)


def mean_similarity_in_batch(z1: Array, z2: Array, axis_name: str | None = None) -> Array:
    """Mean cosine similarity of the local views, unit vectors [b, D], and the 2B - 2 views of the other images."""
    z1, z2 = lax.stop_gradient((z1, z2))
    n = 2 * z1.shape[0] * collectives.axis_size(axis_name)
    mean = collectives.pmean((jnp.mean(z1, axis=0) + jnp.mean(z2, axis=0)) / 2, axis_name)  # [D]
    all_pairs = jnp.mean((z1 + z2) / 2 @ mean)
    positive = jnp.mean(jnp.sum(z1 * z2, axis=-1))
    return (n * all_pairs - 1.0 - positive) / max(n - 2, 1)
