"""Distillation: a student learns the soft labels of a teacher, without true labels (SimCLR v2, 2006.10029, eq. 2)."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.losses.numerics import at_least_float32


def distillation(student: Array, teacher: Array, *, temperature: float) -> Array:
    """Cross-entropy between softmax(teacher / T) and softmax(student / T), times T².

    The factor T² keeps the scale of the gradient independent of T. The official notebook has it, the equation in the
    paper does not. No collectives are needed: the pmean over the devices is the loss of the whole batch.

    Args:
      student: [B, classes] logits.
      teacher: [B, classes] logits. They get no gradient.
      temperature: T > 0; in the paper 0.1 for self-distillation and 1 from a large network to a small one.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    student, teacher = map(at_least_float32, (student, teacher))
    p = jax.nn.softmax(lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.mean(-jnp.sum(p * log_q, axis=-1))
