"""Self-distillation of DINO (arXiv 2104.14294): the student's crops predict what the teacher says of the global ones.

    L = 1 / n  sum_{g <= G} sum_{v <= V, v != g}  H(p_g, p_v),   H(p, p') = -sum_o p(o) log p'(o)

with p_g = softmax((t_g - c) / T_t) of the teacher, centred and sharpened, p_v = softmax(s_v / T_s) of the student, and
n = G (V - 1) pairs. Official source: facebookresearch/dino, main_dino.py, DINOLoss.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives


def dino(
    student: Array,
    teacher: Array,
    center: Array,
    *,
    teacher_temperature: Array | float,
    student_temperature: Array | float = 0.1,
) -> Array:
    """Cross-entropy of the student's crops with the teacher's global crops, each crop's own teacher left out.

    The student gets a gradient, nothing else does. The official code walks over the pairs, 18 of them for 2 + 8 crops,
    and reads the logits of a crop for each. Here the sum over teachers meets the sum over students: one log-sum-exp for
    each crop and one product, and the logits, [10, B, 65536], are kept once.

    Args:
      student: [V, B, O] logits of all crops, the G global ones first; V > 1.
      teacher: [G, B, O] logits of the global crops.
      center: [O] running mean of the teacher's logits, as it was before this batch.
      teacher_temperature: T_t > 0; 0.04, or rising to 0.07 in the first 30 epochs.
      student_temperature: T_s > 0.

    Returns:
      Scalar, the mean over the pairs and the (local) examples, at least float32.
    """
    return _cross_entropy(student, targets(teacher, center, teacher_temperature), student_temperature)


def targets(teacher: Array, center: Array, temperature: Array | float) -> Array:
    """What the teacher says, centred against one output that wins always, sharpened against all being equal.

    Args:
      teacher: [..., O] logits.
      center: [O].
      temperature: T_t.

    Returns:
      [..., O] probabilities, at least float32; no gradient reaches them.
    """
    teacher, center = lax.stop_gradient((teacher, center))
    teacher = teacher.astype(jnp.promote_types(teacher.dtype, jnp.float32))
    return jax.nn.softmax((teacher - center) / temperature, axis=-1)


def update_center(center: Array, teacher: Array, momentum: float, axis_name: str | None = None) -> Array:
    """c <- m c + (1 - m) mean of the teacher's logits over crops, examples and devices (eq. 4); after the loss.

    Args:
      center: [O].
      teacher: [G, B, O] logits, neither centred nor sharpened.
      momentum: m, 0.9.
      axis_name: the mapped device axis.
    """
    batch = collectives.pmean(jnp.mean(lax.stop_gradient(teacher).astype(center.dtype), axis=(0, 1)), axis_name)
    return momentum * center + (1.0 - momentum) * batch


@jax.custom_vjp
def _cross_entropy(student: Array, p: Array, temperature: Array | float) -> Array:
    """The loss of student logits [V, B, O] and teacher probabilities p [G, B, O]."""
    return _forward(student, p, temperature)[0]


def _forward(student: Array, p: Array, temperature: Array | float) -> tuple[Array, Any]:
    G, V = len(p), len(student)
    s = student.astype(p.dtype) / temperature  # [V, B, O]
    log_sum = jax.nn.logsumexp(s, axis=-1)  # [V, B]
    with_all = jnp.sum(jnp.sum(p, axis=0) * jnp.sum(s, axis=0), axis=-1)  # [B]
    with_own = jnp.sum(p * s[:G], axis=(0, 2))  # [B]
    losses = jnp.sum(_teachers(G, V)[:, None] * log_sum, axis=0) - (with_all - with_own)  # [B]
    return jnp.mean(losses) / (G * (V - 1)), (student, p, temperature, log_sum)


def _backward(saved: Any, g: Array) -> tuple[Array, None, None]:
    """Written out so that softmax(s) is made from the logits, and not kept beside them."""
    student, p, temperature, log_sum = saved
    (G, B, _), V = p.shape, len(student)
    softmax = jnp.exp(student.astype(p.dtype) / temperature - log_sum[..., None])  # [V, B, O]
    others = jnp.sum(p, axis=0) - jnp.pad(p, ((0, V - G), (0, 0), (0, 0)))  # [V, B, O] teachers of each crop
    grad = (_teachers(G, V)[:, None, None] * softmax - others) * (g / (temperature * B * G * (V - 1)))
    return grad.astype(student.dtype), None, None


def _teachers(G: int, V: int) -> Array:
    """[V] how many teachers each crop has: all, but for its own."""
    return jnp.where(jnp.arange(V) < G, G - 1, G)


_cross_entropy.defvjp(_forward, _backward)
