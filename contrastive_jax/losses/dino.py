"""Self-distillation of DINO (arXiv 2104.14294): the student predicts the teacher's probabilities for the global crops.

    L = 1 / n  sum_{g <= G} sum_{v <= V, v != g}  H(p_g, p_v),   H(p, p') = -sum_o p(o) log p'(o)

with the teacher's p_g = softmax((t_g - c) / T_t), which is centered and sharpened, the student's
p_v = softmax(s_v / T_s), and n = G (V - 1) pairs. Official source: facebookresearch/dino, main_dino.py, DINOLoss.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32


def dino(
    student: Array,
    teacher: Array,
    center: Array,
    *,
    teacher_temperature: Array | float,
    student_temperature: Array | float = 0.1,
) -> Array:
    """Cross-entropy between the teacher's global crops and the student's crops, over all pairs of different crops.

    Only the student gets a gradient. The official code loops over the pairs, 18 of them for 2 + 8 crops, and reads the
    logits of a crop for each. Here the sums over teachers and students are computed first, so that one log-sum-exp for
    each crop and one product suffice, and the logits, [10, B, 65536], are stored once.

    Args:
      student: [V, B, O] logits of all crops, the G global ones first; V > 1.
      teacher: [G, B, O] logits of the global crops.
      center: [O] running mean of the teacher's logits before this batch.
      teacher_temperature: T_t > 0; 0.04, or a warm-up to 0.07 over the first 30 epochs.
      student_temperature: T_s > 0.

    Returns:
      Scalar, the mean over the pairs and the (local) examples, at least float32.
    """
    return _cross_entropy(student, targets(teacher, center, teacher_temperature), student_temperature)


def targets(teacher: Array, center: Array, temperature: Array | float) -> Array:
    """The teacher's probabilities, centered and sharpened.

    Centering prevents collapse to one output; a low temperature prevents collapse to the uniform output.

    Args:
      teacher: [..., O] logits.
      center: [O] running mean of the logits.
      temperature: T_t > 0.

    Returns:
      [..., O] probabilities, at least float32. No gradient flows through them.
    """
    teacher, center = lax.stop_gradient((teacher, center))
    return jax.nn.softmax((at_least_float32(teacher) - center) / temperature, axis=-1)


def update_center(center: Array, teacher: Array, momentum: float, axis_name: str | None = None) -> Array:
    """c <- m c + (1 - m) mean of the teacher's logits over crops, examples and devices (eq. 4).

    Call it after the loss, which uses the old center.

    Args:
      center: [O] running mean.
      teacher: [G, B, O] logits of this batch, neither centered nor divided by the temperature.
      momentum: m; 0.9 in the paper.
      axis_name: the mapped device axis.

    Returns:
      The new center [O].
    """
    batch_mean = collectives.pmean(jnp.mean(lax.stop_gradient(teacher).astype(center.dtype), axis=(0, 1)), axis_name)
    return momentum * center + (1.0 - momentum) * batch_mean


@jax.custom_vjp
def _cross_entropy(student: Array, p: Array, temperature: Array | float) -> Array:
    """The loss of student logits [V, B, O] and teacher probabilities p [G, B, O]."""
    return _forward(student, p, temperature)[0]


def _forward(student: Array, p: Array, temperature: Array | float) -> tuple[Array, Any]:
    G, V = len(p), len(student)
    s = student.astype(p.dtype) / temperature  # [V, B, O]
    log_sum = jax.nn.logsumexp(s, axis=-1)  # [V, B]
    all_pairs = jnp.sum(jnp.sum(p, axis=0) * jnp.sum(s, axis=0), axis=-1)  # [B]
    same_crop = jnp.sum(p * s[:G], axis=(0, 2))  # [B]
    losses = jnp.sum(_num_teachers(G, V)[:, None] * log_sum, axis=0) - (all_pairs - same_crop)  # [B]
    return jnp.mean(losses) / (G * (V - 1)), (student, p, temperature, log_sum)


def _backward(saved: Any, g: Array) -> tuple[Array, None, None]:
    """Written by hand, so that softmax(s) is recomputed from the logits and not stored beside them."""
    student, p, temperature, log_sum = saved
    (G, B, _), V = p.shape, len(student)
    softmax = jnp.exp(student.astype(p.dtype) / temperature - log_sum[..., None])  # [V, B, O]
    sum_p = jnp.sum(p, axis=0) - jnp.pad(p, ((0, V - G), (0, 0), (0, 0)))  # [V, B, O] sum over a crop's teachers
    grad = (_num_teachers(G, V)[:, None, None] * softmax - sum_p) * (g / (temperature * B * G * (V - 1)))
    return grad.astype(student.dtype), None, None


def _num_teachers(G: int, V: int) -> Array:
    """[V] number of teacher crops that each crop predicts: all G, except the same crop."""
    return jnp.where(jnp.arange(V) < G, G - 1, G)


_cross_entropy.defvjp(_forward, _backward)
