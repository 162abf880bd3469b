"""InstDis (arXiv 1805.01978): every image is a class of its own, and a memory bank holds the features of all classes.

Official source: zhirongw/lemniscate.pytorch, lib/NCEAverage.py, lib/NCECriterion.py, lib/LinearAverage.py. As there,
the partition constant is the estimate of the first step, negatives may be the own row again, and the rows of the bank
are averages of old and new features, where the paper puts the new ones. The proximal term is the paper's (eq. 10); the
code has none.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.nce import log_partition, look_up_logits, look_up_rows, nce
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory
from contrastive_jax.rules import Rules, field

OBJECTIVES = ('nce', 'softmax')


@dataclasses.dataclass(frozen=True)
class InstDis(base.Method):
    """Instance discrimination.

    Attributes:
      network: encoder and projector, no predictor.
      num_examples: N, rows of the bank; 0 in a config means: as many as the data set has.
      num_negatives: K, rows drawn for each example; 0: none are drawn, the softmax is over all rows.
      objective: 'nce', or 'softmax' over the own row and the K others.
      momentum: m of the rows, v <- normalise(m v + (1 - m) f).
      temperature: T.
      proximal: lambda, weight of |f - v|^2, which smooths the training; 0 in the authors' code.
    """

    num_examples: int = field(0, least=0)
    num_negatives: int = field(4096, least=0)
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
        params, stats = base.init_network(self.network, rng, batch)
        bank = memory.init_bank(jax.random.fold_in(rng, 1), self.num_examples, self.network.projector.output_dim)
        return params, base.MethodState(
            target={}, batch_stats={'online': stats}, memory={'bank': bank, 'log_Z': unknown_log_Z(self.objective)}
        )

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
        bank, index = state.memory['bank'], batch['index']
        f, stats = base.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        f = normalize(f)  # [b, D]
        drawn = memory.draw_rows(rng, len(f), self.num_negatives, self.num_examples, axis_name)  # [b, K]
        found = contrast(
            f, bank, index, drawn, state.memory['log_Z'],
            objective=self.objective, num_examples=self.num_examples, temperature=self.temperature, axis_name=axis_name,
        )  # fmt: skip
        loss = found.loss
        if self.proximal:
            v = memory.bank_read(bank, index, axis_name)  # [b, D], as it was when last seen
            loss += self.proximal * jnp.mean(jnp.sum((f - lax.stop_gradient(v)) ** 2, axis=-1))

        metrics = found.metrics(self.temperature)
        metrics['feature_std'] = base.feature_std(f, axis_name)
        bank = memory.bank_update(bank, index, f, self.momentum, axis_name)
        state = base.MethodState(target={}, batch_stats={'online': stats}, memory={'bank': bank, 'log_Z': found.log_Z})
        return loss, (state, metrics)


def check_objective(c: ConfigDict, rules: Rules) -> None:
    """Adds a problem if no negatives are drawn and the objective needs some."""
    rules.rule(
        c.method.num_negatives != 0 or c.method.objective == 'softmax',
        'method.num_negatives 0 is the softmax over all examples',
        field='method.num_negatives',
        remedy='set method.objective to softmax, or draw some',
    )


class Contrast(NamedTuple):
    """What comparing features with a bank gave.

    Attributes:
      loss: scalar, of the local examples.
      log_Z: logarithm of the partition constant, to be kept; {} where unused.
      terms: of the local examples.
      negative_mean: mean cosine similarity with a row drawn.
    """

    loss: Array
    log_Z: Array | PyTree
    terms: ContrastiveOutput
    negative_mean: Array

    def metrics(self, temperature: float) -> dict[str, Array]:
        """The usual ones, and the partition constant."""
        metrics = base.contrast_metrics(self.terms, temperature, self.negative_mean)
        return metrics | ({'log_Z': self.log_Z} if isinstance(self.log_Z, Array) else {})


def unknown_log_Z(objective: str) -> Array | PyTree:
    """What is remembered as log Z before the first step has estimated it; {} where there is no such constant."""
    return jnp.full((), -jnp.inf, jnp.float32) if objective == 'nce' else {}


def contrast(
    f: Array,
    bank: Array,
    index: Array,
    drawn: Array,
    log_Z: Array | PyTree,
    *,
    objective: str,
    num_examples: int,
    temperature: float,
    axis_name: str | None = None,
) -> Contrast:
    """Tells the own row of each local example from others.

    Args:
      f: [b, D] unit features.
      bank: [r, D] this device's rows.
      index: int32[b] the own rows.
      drawn: int32[b, K] the others; K = 0: all.
      log_Z: as remembered.
      objective: 'nce' or 'softmax'.
      num_examples: N.
      temperature: T.
      axis_name: the mapped device axis.
    """
    if not drawn.shape[1]:
        found = look_up_rows(f, bank, index, num_examples=num_examples, temperature=temperature, axis_name=axis_name)
        mean = memory.bank_mean(lax.stop_gradient(bank), num_examples, axis_name)
        return Contrast(jnp.mean(found.loss), log_Z, found, jnp.mean(f @ mean))
    rows = jnp.concatenate([index[:, None], drawn], axis=1)  # [b, 1 + K]
    logits = memory.bank_similarities(bank, f, rows, axis_name) / temperature
    found = look_up_logits(logits)
    if objective == 'nce':
        estimate = log_partition(logits, num_examples, axis_name).astype(log_Z.dtype)
        log_Z = jnp.where(jnp.isneginf(log_Z), estimate, log_Z)
        loss = nce(logits, log_Z, num_examples=num_examples)
    else:
        loss = jnp.mean(found.loss)
    return Contrast(loss, log_Z, found, jnp.mean(logits[:, 1:]) * temperature)
