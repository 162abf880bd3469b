"""Instance discrimination with a memory bank of features (InstDis, arXiv 1805.01978; CMC, arXiv 1906.05849).

    P(i|v) = exp(v_i.v/T) / Z,   Z = sum_j exp(v_j.v/T) over all N instances

`non_parametric_softmax` computes Z: it is the cross-entropy over all rows of the bank. `nce` treats Z as a constant: it
is the loss of a binary classifier between the positive row and K sampled rows. `sampled_softmax` is the cross-entropy
over these 1 + K rows. The last two take logits [b, 1 + K], similarity / T, the positive first.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.numerics import MASKED_LOGIT, normalize

CHUNK = 2**24  # number of logits of the full softmax that are in memory at a time: 64 MB


def nce(logits: Array, log_Z: Array | float, *, num_examples: int, epsilon: float = 1e-7) -> Array:
    """Noise-contrastive estimation with a fixed partition constant.

    With P = exp(logit)/Z, uniform noise 1/N, and K noise samples for each example (InstDis, eq. 5 to 7):

        J = -log( P / (P + K/N) ) - sum_k log( (K/N) / (P_k + K/N) )

    As in the authors' code, epsilon is added to both denominators, and a negative may be the positive row again. The
    loss is computed from logarithms, so that no logit overflows.

    Args:
      logits: [b, 1 + K] similarity / T, the positive first.
      log_Z: logarithm of the partition constant; `log_partition` estimates it. It gets no gradient.
      num_examples: N, the number of instances.
      epsilon: 1e-7 in the authors' code.

    Returns:
      Scalar, the mean over the (local) examples.
    """
    log_p = logits - lax.stop_gradient(log_Z)  # [b, 1 + K]
    K = logits.shape[-1] - 1
    log_noise = jnp.log(jnp.asarray(K / num_examples, log_p.dtype))
    log_denominator = jnp.logaddexp(log_p, jnp.log(jnp.asarray(K / num_examples + epsilon, log_p.dtype)))
    log_positive = (log_p - log_denominator)[:, 0]
    log_negatives = (log_noise - log_denominator)[:, 1:]
    return -jnp.mean(log_positive + jnp.sum(log_negatives, axis=-1))


def log_partition(logits: Array, num_examples: int, axis_name: str | None = None) -> Array:
    """Estimates log Z as the logarithm of N times the mean of exp(logit) over the global batch.

    The authors estimate it once, in the first step, and keep the value.

    Args:
      logits: [b, 1 + K] logits of the local examples.
      num_examples: N, the number of instances.
      axis_name: the mapped device axis.

    Returns:
      Scalar, the same on all devices. No gradient flows through it.
    """
    logits = lax.stop_gradient(logits)
    top = collectives.pmax(jnp.max(logits), axis_name)
    return jnp.log(num_examples * collectives.pmean(jnp.mean(jnp.exp(logits - top)), axis_name)) + top


def sampled_softmax(logits: Array) -> Array:
    """Cross-entropy over the positive and K sampled rows (CMC's `NCESoftmaxLoss`).

    Args:
      logits: [b, 1 + K] similarity / T, the positive first.

    Returns:
      Scalar, the mean over the (local) examples.
    """
    return jnp.mean(sampled_softmax_terms(logits).loss)


def non_parametric_softmax(
    v: Array, bank: Array, index: Array, *, num_examples: int, temperature: float, axis_name: str | None = None
) -> Array:
    """Cross-entropy over all rows of a memory bank (InstDis, eq. 2; `--nce-k 0` in the authors' code).

    Args:
      v: [b, D] features of the local examples. They are L2-normalized here.
      bank: [r, D] this device's rows of the bank. They are not normalized here, and get no gradient.
      index: int32[b] the row of each local example in the whole bank.
      num_examples: N; rows from N on are padding and are ignored.
      temperature: T > 0.
      axis_name: the mapped device axis; features are gathered over it, rows are not.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    terms = non_parametric_softmax_terms(
        v, bank, index, num_examples=num_examples, temperature=temperature, axis_name=axis_name
    )
    return jnp.mean(terms.loss)


def sampled_softmax_terms(logits: Array) -> ContrastiveOutput:
    """The terms of `sampled_softmax`, from which its metrics are computed too."""
    hardest = jnp.max(lax.stop_gradient(logits[:, 1:]), axis=-1)
    return ContrastiveOutput(logits[:, 0], jax.nn.logsumexp(logits, axis=-1), hardest)


def non_parametric_softmax_terms(
    v: Array, bank: Array, index: Array, *, num_examples: int, temperature: float, axis_name: str | None = None
) -> ContrastiveOutput:
    """The terms of `non_parametric_softmax`, from which its metrics are computed too.

    The rows are scored in chunks of at most CHUNK logits, and the logits are recomputed in the backward pass: all
    logits [B, N] would take 1.3 GB for the 1.28 million images of ImageNet.
    """
    v, bank = normalize(v), lax.stop_gradient(bank)
    queries, labels = collectives.all_gather(v, axis_name), collectives.all_gather(index, axis_name)  # [B, D], [B]
    B, r = queries.shape[0], bank.shape[0]
    first = collectives.axis_index(axis_name) * r  # the first row of this device
    size = min(r, max(1, CHUNK // B))
    starts = jnp.minimum(jnp.arange(0, r, size), r - size)  # the last chunk overlaps, so that all have one size
    news = jnp.arange(0, r, size)  # the first row of each chunk that is not in an earlier chunk

    @partial(jax.checkpoint, prevent_cse=False)
    def score(queries: Array, start: Array, new: Array) -> tuple[Array, Array, Array]:
        """For the rows [start, start + size): log-sum-exp, hardest negative, and positive logit (0 if absent), [B]."""
        rows = start + jnp.arange(size)
        chunk = lax.dynamic_slice_in_dim(bank, start, size)
        logits = jnp.matmul(queries, chunk.T, precision=lax.Precision.HIGHEST) / temperature  # [B, size]
        logits = jnp.where((rows >= new) & (first + rows < num_examples), logits, MASKED_LOGIT)
        is_positive = (first + rows == labels[:, None]) & (rows >= new)
        hardest = jnp.max(jnp.where(is_positive, MASKED_LOGIT, lax.stop_gradient(logits)), axis=-1)
        positive = jnp.sum(jnp.where(is_positive, logits, 0.0), axis=-1)
        return jax.nn.logsumexp(logits, axis=-1), hardest, positive

    log_sums, hardest, positive = lax.map(lambda chunk: score(queries, *chunk), (starts, news))  # [chunks, B]
    log_sum = jax.nn.logsumexp(log_sums, axis=0)  # [B], over this device's rows
    top, hardest = lax.stop_gradient((log_sum, jnp.max(hardest, axis=0)))
    top, hardest = (collectives.pmax(x, axis_name) for x in (top, hardest))
    sum_exp = collectives.psum_scatter(jnp.exp(log_sum - top), axis_name)  # [b], over the rows of all devices
    return ContrastiveOutput(
        positive_logit=collectives.psum_scatter(jnp.sum(positive, axis=0), axis_name),
        logsumexp=jnp.log(sum_exp) + collectives.local_rows(top, axis_name),
        hardest_negative=collectives.local_rows(hardest, axis_name),
    )
