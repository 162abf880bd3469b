"""InstDis (arXiv 1805.01978): each image is a class of its own, and a memory bank holds the features of all classes.

Official source: zhirongw/lemniscate.pytorch, lib/NCEAverage.py, lib/NCECriterion.py, lib/LinearAverage.py. As there,
the partition constant is estimated in the first step, a sampled negative may be the positive row again, and the rows of
the bank are averages of old and new features; in the paper they are the new features. The proximal term is from the
paper (eq. 10); the code has none.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.nce import log_partition, nce, non_parametric_softmax_terms, sampled_softmax_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory, networks, signals
from contrastive_jax.rules import Rules, field

OBJECTIVES = ('nce', 'softmax')


@dataclasses.dataclass(frozen=True)
class InstDis(base.Method):
    """Instance discrimination.

    Attributes:
      network: encoder and projector, no predictor.
      num_examples: N, rows of the bank; 0 in a config: the number of examples in the data set.
      num_negatives: K, rows that are sampled for each example; 0: the softmax is over all rows.
      objective: 'nce', or 'softmax' over the positive row and the K sampled rows.
      momentum: m of the update v <- normalize(m v + (1 - m) f).
      temperature: T of the softmax.
      proximal: lambda, the weight of |f - v|^2, which makes training smoother; 0 in the authors' code.
    """

    num_examples: int = field(0, least=0)
    num_negatives: int = field(4096, least=0, most=2**30)
    objective: str = field('nce', choices=OBJECTIVES)
    momentum: float = field(0.5, least=0, most=1)
    temperature: float = field(0.07, above=0)
    proximal: float = field(0.0, least=0)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    memory_spec: ClassVar[PyTree] = {'bank': memory.BANK_SPEC, 'log_Z': REPLICATED}

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        check_objective(c, rules)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        bank = memory.init_bank(jax.random.fold_in(rng, 1), self.num_examples, self.network.projector.output_dim)
        return params, dataclasses.replace(state, memory={'bank': bank, 'log_Z': init_log_Z(self.objective)})

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
        bank, index = state.memory['bank'], batch['index']
        f, stats = networks.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        f = normalize(f)  # [b, D]
        negatives = memory.sample_rows(rng, len(f), self.num_negatives, self.num_examples, axis_name)  # [b, K]
        output = contrast_with_bank(
            f, bank, index, negatives, state.memory['log_Z'],
            objective=self.objective, num_examples=self.num_examples, temperature=self.temperature, axis_name=axis_name,
        )  # fmt: skip
        loss = output.loss
        if self.proximal:
            v = memory.read_bank(bank, index, axis_name)  # [b, D], the rows of the examples
            loss += self.proximal * jnp.mean(jnp.sum((f - lax.stop_gradient(v)) ** 2, axis=-1))

        metrics = output.metrics(self.temperature)
        metrics['feature_std'] = feature_std(f, axis_name)
        bank = memory.update_bank(bank, index, f, self.momentum, axis_name)
        state = base.MethodState(target={}, batch_stats={'online': stats}, memory={'bank': bank, 'log_Z': output.log_Z})
        return loss, (state, metrics)


def check_objective(c: ConfigDict, rules: Rules) -> None:
    """Adds a problem if the objective needs sampled negatives and there are none."""
    rules.rule(
        c.method.num_negatives != 0 or c.method.objective == 'softmax',
        'method.num_negatives 0 is the softmax over all examples',
        field='method.num_negatives',
        remedy='set method.objective to softmax, or draw some',
    )


class BankOutput(NamedTuple):
    """The result of comparing features with a memory bank.

    Attributes:
      loss: scalar, the mean over the local examples.
      log_Z: logarithm of the partition constant, for the next step; {} if the objective has none.
      terms: the terms of the softmax for the local examples.
      negative_mean: mean cosine similarity of an example and a negative.
    """

    loss: Array
    log_Z: Array | PyTree
    terms: ContrastiveOutput
    negative_mean: Array

    def metrics(self, temperature: float) -> dict[str, Array]:
        """The metrics of a contrastive loss, and log_Z if there is one."""
        metrics = signals.contrast_metrics(self.terms, temperature, self.negative_mean)
        return metrics | ({'log_Z': self.log_Z} if isinstance(self.log_Z, Array) else {})


def init_log_Z(objective: str) -> Array | PyTree:
    """log Z before the first step: -inf means that it is not estimated yet. {} if the objective has none."""
    return jnp.full((), -jnp.inf, jnp.float32) if objective == 'nce' else {}


def contrast_with_bank(
    f: Array,
    bank: Array,
    index: Array,
    negatives: Array,
    log_Z: Array | PyTree,
    *,
    objective: str,
    num_examples: int,
    temperature: float,
    axis_name: str | None = None,
) -> BankOutput:
    """Loss of classifying each local example as its own row of the bank, among all rows or among sampled rows.

    Args:
      f: [b, D] features of the local examples, unit vectors.
      bank: [r, D] this device's rows.
      index: int32[b] the positive row of each local example.
      negatives: int32[b, K] the sampled rows; if K = 0 the negatives are all rows.
      log_Z: logarithm of the partition constant: the state of the previous step, or `init_log_Z`.
      objective: 'nce' or 'softmax'.
      num_examples: N; rows from N on are padding.
      temperature: T > 0.
      axis_name: the mapped device axis.
    """
    if not negatives.shape[1]:
        terms = non_parametric_softmax_terms(
            f, bank, index, num_examples=num_examples, temperature=temperature, axis_name=axis_name
        )
        mean = memory.mean_row(lax.stop_gradient(bank), num_examples, axis_name)
        return BankOutput(jnp.mean(terms.loss), log_Z, terms, jnp.mean(f @ mean))
    rows = jnp.concatenate([index[:, None], negatives], axis=1)  # [b, 1 + K]
    logits = memory.bank_similarities(bank, f, rows, axis_name) / temperature
    terms = sampled_softmax_terms(logits)
    if objective == 'nce':
        estimate = log_partition(logits, num_examples, axis_name).astype(log_Z.dtype)
        log_Z = jnp.where(jnp.isneginf(log_Z), estimate, log_Z)
        loss = nce(logits, log_Z, num_examples=num_examples)
    else:
        loss = jnp.mean(terms.loss)
    return BankOutput(loss, log_Z, terms, jnp.mean(logits[:, 1:]) * temperature)
