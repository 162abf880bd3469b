"""Telling instances apart with a bank of their features (InstDis, arXiv 1805.01978; CMC, arXiv 1906.05849).

    P(i|v) = exp(v_i.v/T) / Z,   Z = sum_j exp(v_j.v/T) over all N instances

`non_parametric_softmax` computes Z: the cross-entropy over all rows of a bank. `nce` fixes it: a binary classifier
tells the example's own row from K rows drawn at random. `sampled_softmax` is the cross-entropy over these 1 + K rows.
The last two take logits [b, 1 + K], similarity / T with the own row first, wherever those come from.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.numerics import MASKED_LOGIT, normalize

CHUNK = 2**24  # logits of the full softmax that exist at a time: 64 MB


def nce(logits: Array, log_Z: Array | float, *, num_examples: int, epsilon: float = 1e-7) -> Array:
    """Noise-contrastive estimation with a fixed partition constant.

    With P = exp(logit)/Z and the noise uniform, 1/N, of which K are drawn for each example (InstDis, eq. 5 to 7):

        J = -log( P / (P + K/N) ) - sum_k log( (K/N) / (P_k + K/N) )

    As in the authors' code both denominators have epsilon more, and a negative may be the own row again. Computed from
    logarithms, so that no logit overflows.

    Args:
      logits: [b, 1 + K] similarity / T, that of the own row first.
      log_Z: logarithm of the partition constant; `log_partition` estimates it. No gradient reaches it.
      num_examples: N.
      epsilon: 1e-7 in the authors' code.

    Returns:
      Scalar, the mean over the (local) examples.
    """
    log_p = logits - lax.stop_gradient(log_Z)  # [b, 1 + K]
    K = logits.shape[-1] - 1
    log_noise = jnp.log(jnp.asarray(K / num_examples, log_p.dtype))
    log_both = jnp.logaddexp(log_p, jnp.log(jnp.asarray(K / num_examples + epsilon, log_p.dtype)))
    log_data = (log_p - log_both)[:, 0]
    log_others = (log_noise - log_both)[:, 1:]
    return -jnp.mean(log_data + jnp.sum(log_others, axis=-1))


def log_partition(logits: Array, num_examples: int, axis_name: str | None = None) -> Array:
    """log Z, estimated as N times the mean of exp(logit) over the global batch. No gradient.

    The authors do this once, in the first step, and keep the value.

    Args:
      logits: [b, 1 + K] of the local examples.
      num_examples: N.
      axis_name: the mapped device axis.
    """
    logits = lax.stop_gradient(logits)
    highest = collectives.pmax(jnp.max(logits), axis_name)
    return jnp.log(num_examples * collectives.pmean(jnp.mean(jnp.exp(logits - highest)), axis_name)) + highest


def sampled_softmax(logits: Array) -> Array:
    """Cross-entropy of finding the own row among 1 + K (CMC's `NCESoftmaxLoss`).

    Args:
      logits: [b, 1 + K] similarity / T, that of the own row first.

    Returns:
      Scalar, the mean over the (local) examples.
    """
    return jnp.mean(look_up_logits(logits).loss)


def non_parametric_softmax(
    v: Array, bank: Array, index: Array, *, num_examples: int, temperature: float, axis_name: str | None = None
) -> Array:
    """Cross-entropy of finding the own row among all rows of a bank (InstDis, eq. 2; `--nce-k 0` in the authors' code).

    Args:
      v: [b, D] features of the local examples, L2-normalised here.
      bank: [r, D] this device's rows, taken as they are; they stay where they are, and never get a gradient.
      index: int32[b] the own rows of the local examples, counted over all devices.
      num_examples: N; rows from N on are padding and count nothing.
      temperature: T > 0.
      axis_name: the mapped device axis.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    found = look_up_rows(v, bank, index, num_examples=num_examples, temperature=temperature, axis_name=axis_name)
    return jnp.mean(found.loss)


def look_up_logits(logits: Array) -> ContrastiveOutput:
    """What 1 + K logits [b, 1 + K] say, example by example."""
    hardest = jnp.max(lax.stop_gradient(logits[:, 1:]), axis=-1)
    return ContrastiveOutput(logits[:, 0], jax.nn.logsumexp(logits, axis=-1), hardest)


def look_up_rows(
    v: Array, bank: Array, index: Array, *, num_examples: int, temperature: float, axis_name: str | None = None
) -> ContrastiveOutput:
    """`non_parametric_softmax` example by example, with what its metrics need.

    The rows are scored in parts of at most CHUNK logits, and the scores computed again for the gradient: [B, N] would
    be 1.3 GB for the 1.28 million rows of ImageNet.
    """
    v, bank = normalize(v), lax.stop_gradient(bank)
    queries, own = collectives.all_gather(v, axis_name), collectives.all_gather(index, axis_name)  # [B, D], [B]
    B, r = queries.shape[0], bank.shape[0]
    first = collectives.axis_index(axis_name) * r  # of this device's rows
    size = min(r, max(1, CHUNK // B))
    starts = jnp.minimum(jnp.arange(0, r, size), r - size)  # the last part reaches back, so that all are equal
    news = jnp.arange(0, r, size)  # where rows begin that no earlier part has seen

    @partial(jax.checkpoint, prevent_cse=False)
    def score(queries: Array, start: Array, new: Array) -> tuple[Array, Array, Array]:
        """Of the rows [start, start + size): log-sum-exp [B], the hardest negative [B], the own logit or 0 [B]."""
        rows = start + jnp.arange(size)
        part = lax.dynamic_slice_in_dim(bank, start, size)
        logits = jnp.matmul(queries, part.T, precision=lax.Precision.HIGHEST) / temperature  # [B, size]
        logits = jnp.where((rows >= new) & (first + rows < num_examples), logits, MASKED_LOGIT)
        is_own = (first + rows == own[:, None]) & (rows >= new)
        hardest = jnp.max(jnp.where(is_own, MASKED_LOGIT, lax.stop_gradient(logits)), axis=-1)
        positive = jnp.sum(jnp.where(is_own, logits, 0.0), axis=-1)
        return jax.nn.logsumexp(logits, axis=-1), hardest, positive

    log_sums, hardest, positive = lax.map(lambda part: score(queries, *part), (starts, news))  # [parts, B]
    log_sum = jax.nn.logsumexp(log_sums, axis=0)  # [B], of this device's rows
    top, hardest = lax.stop_gradient((log_sum, jnp.max(hardest, axis=0)))
    top, hardest = (collectives.pmax(x, axis_name) for x in (top, hardest))
    sum_exp = collectives.psum_scatter(jnp.exp(log_sum - top), axis_name)  # [b], over the rows of all devices
    return ContrastiveOutput(
        positive_logit=collectives.psum_scatter(jnp.sum(positive, axis=0), axis_name),
        logsumexp=jnp.log(sum_exp) + collectives.local_rows(top, axis_name),
        hardest_negative=collectives.local_rows(hardest, axis_name),
    )
