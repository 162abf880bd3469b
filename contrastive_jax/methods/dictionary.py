"""The two dictionaries that MoCo is compared with (arXiv 1911.05722, figure 2), with everything else equal.

End-to-end: the keys are those of the batch, from the same encoder, which learns through them too; consistent, but no
larger than the batch. Memory bank: a row for every example, refreshed when the example is seen; large, but its rows
come from encoders of the whole last epoch. MoCo's queue is in `moco.py`.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.info_nce import info_nce_in_batch_terms, info_nce_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory
from contrastive_jax.methods.mocov3 import mean_negative_similarity
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class EndToEnd(base.Method):
    """The dictionary is the batch, and the gradient flows into queries and keys.

    Attributes:
      network: encoder and projector, for queries and keys alike.
      temperature: T.
      shuffle_bn: keys are encoded in shuffled order, as in MoCo.
    """

    temperature: float = field(0.07, above=0)
    shuffle_bn: bool = True

    @property
    def shuffles(self) -> bool:
        return self.shuffle_bn

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
        stats = state.batch_stats['online']
        keys_of = batch['shuffled'] if self.shuffle_bn else batch['views']
        q, stats = base.project(self.network, params, stats, batch['views'][0], axis_name)
        k, stats = base.project(self.network, params, stats, keys_of[1], axis_name)
        if self.shuffle_bn:
            k = base.unshuffle(k, batch['shuffle'], axis_name)
        found = info_nce_in_batch_terms(q, k, temperature=self.temperature, axis_name=axis_name)
        q, k = lax.stop_gradient((normalize(q), normalize(k)))
        metrics = base.contrast_metrics(found, self.temperature, mean_negative_similarity(q, k, axis_name))
        metrics['feature_std'] = base.feature_std(q, axis_name)
        return jnp.mean(found.loss), (dataclasses.replace(state, batch_stats={'online': stats}), metrics)


@dataclasses.dataclass(frozen=True)
class MemoryBank(base.Method):
    """The dictionary is drawn from a bank with a row for every example (InstDis, arXiv 1805.01978).

    The K negatives are drawn uniformly, once a step for the whole batch, the same on any number of devices. (The
    official InstDis draws K for each example: the same in expectation, without the sharing that makes it one matrix
    product.)

    Attributes:
      network: encoder and projector.
      num_examples: rows of the bank; 0 in a config means: as many as the data set has.
      num_negatives: K.
      momentum: of the rows, v <- normalise(m v + (1 - m) f); 0.5 in InstDis.
      temperature: T.
    """

    num_examples: int = field(0, least=0)
    num_negatives: int = field(65536, least=1)
    momentum: float = field(0.5, least=0, most=1)
    temperature: float = field(0.07, above=0)

    global_views: ClassVar[tuple[int, ...]] = (1, 2)  # the second, which all dictionaries of a comparison have, is idle
    memory_spec: ClassVar[PyTree] = {'bank': memory.BANK_SPEC}

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, stats = base.init_network(self.network, rng, batch)
        bank = memory.init_bank(jax.random.fold_in(rng, 1), self.num_examples, self.network.projector.output_dim)
        return params, base.MethodState(target={}, batch_stats={'online': stats}, memory={'bank': bank})

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
        del progress
        bank = state.memory['bank']
        q, stats = base.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        q = normalize(q)  # [b, D]
        k = lax.stop_gradient(memory.bank_read(bank, batch['index'], axis_name))  # [b, D], as it was when last seen
        drawn = jax.random.randint(rng, (self.num_negatives,), 0, self.num_examples)
        negatives, own = memory.bank_part(bank, drawn, axis_name)  # [K, D], bool[K]
        found = info_nce_terms(q, k, negatives, temperature=self.temperature, axis_name=axis_name, mask=own)
        bank = memory.bank_update(bank, batch['index'], q, self.momentum, axis_name)
        total = collectives.psum(jnp.sum(jnp.where(own[:, None], normalize(negatives), 0.0), axis=0), axis_name)  # [D]
        metrics = base.contrast_metrics(found, self.temperature, jnp.mean(q @ total) / self.num_negatives)
        metrics['feature_std'] = base.feature_std(q, axis_name)
        return jnp.mean(found.loss), (
            dataclasses.replace(state, batch_stats={'online': stats}, memory={'bank': bank}),
            metrics,
        )
