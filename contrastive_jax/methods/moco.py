"""MoCo v1 (arXiv 1911.05722) and v2 (arXiv 2003.04297): a queue of keys from a momentum encoder.

v2 is v1 with an MLP head, temperature 0.2, blur in the augmentation and a cosine schedule: four changes in the config,
and none here. Official source: facebookresearch/moco, moco/builder.py. The symmetric variant is the one of the official
CIFAR demo (branch colab-notebook).
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
from contrastive_jax.losses.info_nce import info_nce_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, ema, memory, networks, signals
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class MoCo(base.Method):
    """Momentum Contrast.

    Attributes:
      network: encoder and projector, no predictor. The size of its BN groups matters: 32 images in the paper.
      queue_size: K, the number of keys in the queue; a multiple of the global batch size, or of twice the batch size if
        symmetric.
      momentum: m of the key encoder.
      temperature: T of the softmax.
      symmetric: whether each view is a query and a key; the two losses are added, and the keys of both views enqueued.
      shuffle_bn: whether keys are encoded in shuffled order, so that the BN groups of queries and keys differ.
    """

    queue_size: int = field(65536, most=2**30)  # the rest of its range depends on the batch size: see `check`
    momentum: float = field(0.999, least=0, most=1)
    temperature: float = field(0.07, above=0)
    symmetric: bool = False
    shuffle_bn: bool = True

    memory_spec: ClassVar[PyTree] = {'queue': memory.QUEUE_SPEC}

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        B = c.batch_size * (2 if c.method.symmetric else 1)
        both = ' (both views of the batch)' if c.method.symmetric else ''
        if B > 0:
            rules.multiple('method.queue_size', B, f'the batch size {B}{both}')

    @property
    def shuffles(self) -> bool:
        return self.shuffle_bn

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
        target = ema.update(state.target, params, self.momentum)  # before the keys are encoded
        stats, stats_k = state.batch_stats['online'], state.batch_stats['target']
        queue = state.memory['queue']
        enqueued = queue
        query_views, key_views = batch['views'], batch['shuffled'] if self.shuffle_bn else batch['views']
        mean_negative = collectives.pmean(jnp.mean(queue['keys'], axis=(0, 1)), axis_name)  # [D]

        loss, metrics = jnp.zeros(()), {}
        # Both directions use the old queue. The official demo enqueues the keys of view 1, then those of view 2.
        for i_q, i_k in ((1, 0), (0, 1)) if self.symmetric else ((0, 1),):
            q, stats = networks.project(self.network, params, stats, query_views[i_q], axis_name)
            k, stats_k = networks.project(self.network, target, stats_k, key_views[i_k], axis_name)
            q, k = normalize(q), lax.stop_gradient(normalize(k))  # [b, D]
            if self.shuffle_bn:
                k = networks.unshuffle(k, batch['shuffle'], axis_name)
            terms = info_nce_terms(q, k, queue['keys'], temperature=self.temperature, axis_name=axis_name)
            loss += jnp.mean(terms.loss)
            enqueued = memory.enqueue(enqueued, k)
            metrics = signals.contrast_metrics(terms, self.temperature, jnp.mean(q @ mean_negative))
            metrics['feature_std'] = feature_std(q, axis_name)
        state = base.MethodState(
            target=target,
            batch_stats={'online': stats, 'target': stats_k},
            memory={'queue': enqueued},
        )
        return loss, (state, metrics)
