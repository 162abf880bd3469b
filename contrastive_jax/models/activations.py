"""Activation functions of heads and vision transformers."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax


def gelu(x: Array) -> Array:
    """The Gaussian error linear unit, x Φ(x) (Hendrycks and Gimpel, arXiv:1606.08415), exact, as torch's nn.GELU.

    In float32 it is computed with erf, as in torch. `nn.gelu` computes erfc, which takes three times as long on a CPU;
    its small values for x << 0 are more precise, which counts in bfloat16 and float16 alone.

    Args:
      x: any shape.
    """
    if jnp.finfo(x.dtype).bits < 32:
        return nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + lax.erf(x * 0.5**0.5))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': nn.relu, 'gelu': gelu}
