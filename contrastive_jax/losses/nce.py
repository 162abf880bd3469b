"""Instance discrimination with a memory bank of features (InstDis, arXiv 1805.01978; CMC, arXiv 1906.05849).

    P(i|v) = exp(v_i.v/T) / Z,   Z = sum_j exp(v_j.v/T) over all N instances

`non_parametric_softmax` computes Z: it is the cross-entropy over all rows of the bank. `nce` treats Z as a constant: it
is the loss of a binary classifier between the positive row and K sampled rows. `sampled_softmax` is the cross-entropy
over these 1 + K rows. The last two take logits [b, 1 + K], similarity / T, the positive first.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput, combine_shards
from contrastive_jax.losses.log_sum_exp import summarize
from contrastive_jax.losses.numerics import normalize


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

    The logits of all rows, [B, N], would take 1.3 GB for the 1.28 million images of ImageNet: see `log_sum_exp`.
    """
    v, bank = normalize(v), lax.stop_gradient(bank)
    queries, labels = collectives.all_gather(v, axis_name), collectives.all_gather(index, axis_name)  # [B, D], [B]
    rows = collectives.axis_index(axis_name) * len(bank) + jnp.arange(len(bank))  # of the whole bank
    ids = jnp.where(rows < num_examples, rows, -1)
    own = summarize(queries, bank, ids, temperature=temperature, positive=labels)

    place = labels - rows[0]
    positive = jnp.sum(queries * bank[jnp.clip(place, 0, len(bank) - 1)], axis=-1) / temperature  # [B]
    positive = jnp.where((place >= 0) & (place < len(bank)), positive, 0)  # 0 where another device has the row
    return ContrastiveOutput(collectives.psum_scatter(positive, axis_name), *combine_shards(own, axis_name))
