"""Distillation: a student learns the teacher's soft labels, no true ones (SimCLR v2, arXiv 2006.10029, eq. 2)."""

import jax
import jax.numpy as jnp
from jax import Array, lax


def distillation(student: Array, teacher: Array, *, temperature: float) -> Array:
    """Cross-entropy of softmax(student / T) to softmax(teacher / T), times T², which keeps gradients alike for all T.

    The factor is that of the official notebook; the paper's equation lacks it. There is nothing to gather: the pmean
    over devices is the loss of the whole batch.

    Args:
      student: [B, classes] logits.
      teacher: [B, classes] logits; stopped here.
      temperature: T > 0; in the paper 0.1 between networks of one size, 1 from a big one to a small one.

    Returns:
      Scalar, the mean over the (local) examples, at least float32.
    """
    student, teacher = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (student, teacher))
    p = jax.nn.softmax(lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.mean(-jnp.sum(p * log_q, axis=-1))
