"""The two other dictionaries of MoCo's comparison (arXiv 1911.05722, figure 2), with everything else equal.

End-to-end: the keys are those of the batch, from the same encoder, which gets gradients through queries and keys. They
are consistent, but no more than a batch. Memory bank: it has a row for each example, which is updated when the example
is seen. It is large, but its rows come from many versions of the encoder. MoCo's queue is in `moco.py`.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import info_nce_in_batch_terms, info_nce_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory, networks, signals
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class EndToEnd(base.Method):
    """The dictionary is the batch, and the gradient flows into queries and keys.

    Attributes:
      network: encoder and projector, for queries and keys.
      temperature: T of the softmax.
      shuffle_bn: whether keys are encoded in shuffled order, as in MoCo.
    """

    temperature: float = field(0.07, above=0)
    shuffle_bn: bool = True

    @property
    def shuffles(self) -> bool:
        return self.shuffle_bn

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
        stats = state.batch_stats['online']
        key_views = batch['shuffled'] if self.shuffle_bn else batch['views']
        q, stats = networks.project(self.network, params, stats, batch['views'][0], axis_name)
        k, stats = networks.project(self.network, params, stats, key_views[1], axis_name)
        if self.shuffle_bn:
            k = networks.unshuffle(k, batch['shuffle'], axis_name)
        terms = info_nce_in_batch_terms(q, k, temperature=self.temperature, axis_name=axis_name)
        q, k = lax.stop_gradient((normalize(q), normalize(k)))
        metrics = signals.contrast_metrics(terms, self.temperature, signals.mean_negative_similarity(q, k, axis_name))
        metrics['feature_std'] = feature_std(q, axis_name)
        return jnp.mean(terms.loss), (dataclasses.replace(state, batch_stats={'online': stats}), metrics)


@dataclasses.dataclass(frozen=True)
class MemoryBank(base.Method):
    """The dictionary is a sample from a memory bank with a row for each example (InstDis, arXiv 1805.01978).

    In each step K negatives are sampled uniformly for the whole batch, the same on any number of devices. (The official
    InstDis samples K negatives for each example; its loss has the same expectation, but is not a matrix product.)

    Attributes:
      network: encoder and projector, no predictor.
      num_examples: rows of the bank; 0 in a config: the number of examples in the data set.
      num_negatives: K, the number of sampled rows.
      momentum: m of the update v <- normalize(m v + (1 - m) f); 0.5 in InstDis.
      temperature: T of the softmax.
    """

    num_examples: int = field(0, least=0)
    num_negatives: int = field(65536, least=1, most=2**30)
    momentum: float = field(0.5, least=0, most=1)
    temperature: float = field(0.07, above=0)

    global_views: ClassVar[tuple[int, ...]] = (1, 2)  # the other dictionaries need two; here a second is not used
    memory_spec: ClassVar[PyTree] = {'bank': memory.BANK_SPEC}

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        bank = memory.init_bank(jax.random.fold_in(rng, 1), self.num_examples, self.network.projector.output_dim)
        return params, dataclasses.replace(state, memory={'bank': bank})

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
        del progress
        bank = state.memory['bank']
        q, stats = networks.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        q = normalize(q)  # [b, D]
        k = lax.stop_gradient(memory.read_bank(bank, batch['index'], axis_name))  # [b, D], the rows of the examples
        sampled = jax.random.randint(rng, (self.num_negatives,), 0, self.num_examples)
        negatives, owned = memory.owned_rows(bank, sampled, axis_name)  # [K, D], bool[K]
        terms = info_nce_terms(q, k, negatives, temperature=self.temperature, axis_name=axis_name, mask=owned)
        bank = memory.update_bank(bank, batch['index'], q, self.momentum, axis_name)
        total = jnp.sum(jnp.where(owned[:, None], normalize(negatives), 0.0), axis=0)  # [D]
        negative_mean = jnp.mean(q @ collectives.psum(total, axis_name)) / self.num_negatives
        metrics = signals.contrast_metrics(terms, self.temperature, negative_mean)
        metrics['feature_std'] = feature_std(q, axis_name)
        state = dataclasses.replace(state, batch_stats={'online': stats}, memory={'bank': bank})
        return jnp.mean(terms.loss), (state, metrics)
