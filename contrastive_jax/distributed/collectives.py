"""Collectives over a mapped device axis that also work without one. They need jax alone, so losses can use them.

A step is written once, for one device; `axis_name=None` means that the whole batch is on this device. Under an axis, a
loss is the mean over the local examples; the `pmean` of the loss and of its gradients equals those of the whole batch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PyTree = Any


def axis_size(axis_name: str | None) -> int:
    """Number of devices along the axis; 1 when all of the batch is here."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def axis_index(axis_name: str | None) -> Array | int:
    """Position of this device along the axis, 0 without one."""
    return 0 if axis_name is None else lax.axis_index(axis_name)


def pmean(x: PyTree, axis_name: str | None) -> PyTree:
    """Mean of a pytree over the devices."""
    return x if axis_name is None else lax.pmean(x, axis_name)


def psum(x: PyTree, axis_name: str | None) -> PyTree:
    """Sum of a pytree over the devices."""
    return x if axis_name is None else lax.psum(x, axis_name)


def pmax(x: Array, axis_name: str | None) -> Array:
    """Elementwise maximum over the devices. It has no derivative: stop the gradient of x first."""
    return x if axis_name is None else lax.pmax(x, axis_name)


def all_gather(x: Array, axis_name: str | None) -> Array:
    """The rows of all devices: local [b, ...] -> global [B, ...], in device order. Differentiable."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def reversed_rows(x: Array, axis_name: str | None) -> Array:
    """This device's rows of the global batch in reverse order: local [b, ...] -> local [b, ...]. Differentiable."""
    if axis_name is not None:
        n = axis_size(axis_name)
        x = lax.ppermute(x, axis_name, [(i, n - 1 - i) for i in range(n)])
    return x[::-1]


def psum_scatter(x: Array, axis_name: str | None) -> Array:
    """Sum over the devices, each keeping its own rows: [B, ...] -> [b, ...]. Differentiable."""
    return x if axis_name is None else lax.psum_scatter(x, axis_name, tiled=True)


def positions(b: int, axis_name: str | None) -> Array:
    """Positions int32[b] of the local examples in the global batch."""
    return axis_index(axis_name) * b + jnp.arange(b, dtype=jnp.int32)


def local_rows(x: Array, axis_name: str | None) -> Array:
    """This device's rows [b, ...] of an array [B, ...] that every device holds whole."""
    b = x.shape[0] // axis_size(axis_name)
    return lax.dynamic_slice_in_dim(x, axis_index(axis_name) * b, b)


def example_keys(key: Array, position: Array) -> Array:
    """A random key for every example, by its position in the global batch: the device count changes nothing.

    Args:
      key: one typed key.
      position: int32[b] positions in the global batch.

    Returns:
      Typed keys [b].
    """
    return jax.vmap(partial(jax.random.fold_in, key))(position)
