"""A convolution for training, whose weight gradient is computed in parts of the batch on a CPU.

XLA computes the gradient of the weights as a convolution over the batch. On a CPU it runs at half of the speed for 32
images of 32 pixels, and at a quarter for 128, because what it sums over no longer fits into the caches.
"""

import functools
import operator
from typing import Any

import jax
from jax import Array, lax

PART = 16  # images of a part
MAX_PARTS = 8  # each is a convolution to compile


def conv_general_dilated(x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv`, with another gradient of the kernel on a CPU.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C, D].
      args, options: what else `jax.lax.conv_general_dilated` takes.

    Returns:
      [B, H', W', D]. Its gradients are the same up to the order of sums. Where they are computed in parts, it has no
      forward-mode derivative (`jax.jvp`): jax names `custom_vjp` in its error.
    """
    convolve = functools.partial(_plain, args=args, options=options)
    # In bfloat16 the sum of parts would be less exact; kernels of one pixel are no faster in parts.
    if x.shape[0] <= PART or x.dtype.itemsize < 4 or kernel.shape[:2] == (1, 1):
        return convolve(x, kernel)
    part = max(PART, -(-x.shape[0] // MAX_PARTS))

    def whole(x: Array, kernel: Array, dy: Array) -> Array:
        return jax.linear_transpose(functools.partial(convolve, x), kernel)(dy)[0]

    def in_parts(x: Array, kernel: Array, dy: Array) -> Array:
        parts = [whole(x[i : i + part], kernel, dy[i : i + part]) for i in range(0, len(x), part)]
        return functools.reduce(operator.add, parts)

    @jax.custom_vjp
    def differentiable(x: Array, kernel: Array) -> Array:
        return convolve(x, kernel)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(x, kernel), (x, kernel)

    def backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        x, kernel = saved
        (dx,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(dy)
        return dx, lax.platform_dependent(x, kernel, dy, cpu=in_parts, default=whole)

    differentiable.defvjp(forward, backward)
    return differentiable(x, kernel)


def _plain(x: Array, kernel: Array, *, args: tuple[Any, ...], options: dict[str, Any]) -> Array:
    return lax.conv_general_dilated(x, kernel, *args, **options)
