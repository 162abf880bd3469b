"""Reconstruction of images: denoising autoencoders (Vincent et al., ICML 2008) and context encoders (1604.07379)."""

import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.losses.numerics import at_least_float32


def reconstruction_cross_entropy(logits: Array, x: Array) -> Array:
    """Cross-entropy of images in [0, 1] with their reconstruction z = sigmoid(logits): the L_H of Vincent et al.

    The paper adds up the components of an image; here it is their mean, so that the scale does not depend on the size.

    Args:
      logits: [B, ...].
      x: [B, ...] in [0, 1]. They get no gradient.

    Returns:
      Scalar, the mean of -x log z - (1 - x) log(1 - z), at least float32. Its mean over the devices is the loss of the
      whole batch.
    """
    logits, x = at_least_float32(logits), at_least_float32(jax.lax.stop_gradient(x))
    return jnp.mean(jax.nn.softplus(logits) - x * logits)


def masked_squared_error(prediction: Array, x: Array, weights: Array) -> Array:
    """The weighted squared error of the missing part of images: eq. 1 of context encoders.

    Each image is divided by the sum of its weights; the paper has a sum over the missing part.

    Args:
      prediction: [B, H, W, C].
      x: [B, H, W, C], the images. They get no gradient.
      weights: [B, H, W], not negative; 0 for pixels that do not count.

    Returns:
      Scalar, the mean over the images of their weighted mean over pixels and channels, at least float32. Its mean over
      the devices is the loss of the whole batch.
    """
    prediction, x = at_least_float32(prediction), at_least_float32(jax.lax.stop_gradient(x))
    error = jnp.mean((prediction - x) ** 2, axis=-1)  # [B, H, W]
    weights = jax.lax.stop_gradient(weights).astype(error.dtype)
    return jnp.mean(jnp.sum(weights * error, axis=(1, 2)) / jnp.maximum(jnp.sum(weights, axis=(1, 2)), 1e-12))
