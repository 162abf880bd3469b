"""Collectives over a mapped device axis that also work without one. They need jax alone, so that losses can use them.

A step is written once, for one device. `axis_name=None` means that the whole batch is on this device. Under an axis, a
loss is the mean over the local examples; the `pmean` of the loss and of its gradients equals the loss and the gradients
of the whole batch.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PyTree = Any  # a nested structure of arrays; mypy has no type for it


def axis_size(axis_name: str | None) -> int:
    """Number of devices along the axis; 1 without an axis."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def axis_index(axis_name: str | None) -> Array | int:
    """Index of this device along the axis; 0 without an axis."""
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
    """Concatenates the rows of all devices, in device order: local [b, ...] -> global [B, ...]. Differentiable."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def reversed_rows(x: Array, axis_name: str | None) -> Array:
    """Reverses the rows of the global batch: local [b, ...] -> this device's new rows [b, ...]. Differentiable."""
    if axis_name is not None:
        n = axis_size(axis_name)
        x = lax.ppermute(x, axis_name, [(i, n - 1 - i) for i in range(n)])
    return x[::-1]


def psum_scatter(x: Array, axis_name: str | None) -> Array:
    """Sums over the devices and returns this device's rows of the sum: [B, ...] -> [b, ...]. Differentiable."""
    return x if axis_name is None else lax.psum_scatter(x, axis_name, tiled=True)


def positions(b: int, axis_name: str | None) -> Array:
    """Positions int32[b] of the local examples in the global batch."""
    return axis_index(axis_name) * b + jnp.arange(b, dtype=jnp.int32)


def local_rows(x: Array, axis_name: str | None) -> Array:
    """This device's rows [b, ...] of an array [B, ...] that is the same on all devices."""
    b = x.shape[0] // axis_size(axis_name)
    return lax.dynamic_slice_in_dim(x, axis_index(axis_name) * b, b)


def permuted_rows(x: Array, source: Array, axis_name: str | None) -> Array:
    """This device's rows of the global batch in another order. It has no derivative.

    Each device sends every other device the rows that it needs, at most `exchanged_rows` of them in a round. There are
    as many rounds as it takes, for a random permutation nearly always one.

    Args:
      x: local [b, ...], rows of any size.
      source: int32[B], a permutation of the positions of the global batch, the same on all devices.
      axis_name: the mapped device axis; None when the whole batch is here.

    Returns:
      [b, ...]: at the global position i the row that was at source[i].
    """
    n, b = axis_size(axis_name), x.shape[0]
    if axis_name is None or n == 1:
        return x[source]
    room, me, devices = exchanged_rows(b, n), axis_index(axis_name), jnp.arange(n)
    # [to, b]: the device that has the row, and how many rows before it go the same way.
    sender = (source // b).reshape(n, b)
    same_way = (sender[:, :, None] == devices).astype(jnp.int32)  # [to, b, from]
    turn = jnp.take_along_axis(jnp.cumsum(same_way, axis=1), sender[:, :, None], axis=2)[:, :, 0] - 1
    own = source.reshape(n, b) - me * b  # the local row, where this device is the sender

    def exchange(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        first, rows = carry
        slot = turn - first
        now = (slot >= 0) & (slot < room)
        sent = jnp.zeros((n, room), jnp.int32)
        sent = sent.at[devices[:, None], jnp.where(now & (sender == me), slot, room)].set(own, mode='drop')
        arrived = lax.all_to_all(x[sent], axis_name, 0, 0, tiled=True)  # [from, room, ...]
        taken = arrived[sender[me], jnp.where(now, slot, 0)[me]]
        return first + room, jnp.where(now[me].reshape(b, *(1,) * (x.ndim - 1)), taken, rows)

    start = jnp.zeros((), jnp.int32), jnp.zeros_like(x)
    return lax.while_loop(lambda carry: carry[0] <= turn.max(), exchange, start)[1]


def exchanged_rows(b: int, n: int) -> int:
    """The most rows that a device sends to each device in a round of `permuted_rows`.

    Of b rows, b/n on average go to a given device; their number is close to Poisson distributed. Three standard
    deviations above its mean nearly always suffice.

    Args:
      b: number of local rows.
      n: number of devices.
    """
    return min(math.ceil(b / n + 3 * math.sqrt(b / n)), b)


def example_keys(key: Array, position: Array) -> Array:
    """A random key for each example, which does not depend on the number of devices.

    Args:
      key: a typed key, the same on all devices.
      position: int32[b] positions of the examples in the global batch.

    Returns:
      Typed keys [b].
    """
    return jax.vmap(partial(jax.random.fold_in, key))(position)
