"""The queue of MoCo and the memory bank of InstDis, as arrays that are sharded over the devices.

Both are plain pytrees, which functions take and return. Keys and rows are not sent between devices: queries are
gathered, and each device compares them with its own shard.
"""

from functools import partial
from typing import TypedDict

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import AXIS, REPLICATED, SHARDED
from contrastive_jax.losses.numerics import normalize

# ================================ queue ================================


class Queue(TypedDict):
    """A ring buffer of batches of keys.

    Attributes:
      keys: [slots, B, D] unit vectors; each slot holds a global batch. The axis B is sharded, so that a device stores
        the keys that it computed, and the same keys are evicted on any number of devices.
      slot: int32 scalar, the slot for the next batch.
    """

    keys: Array
    slot: Array


QUEUE_SPEC = {'keys': PartitionSpec(None, AXIS), 'slot': REPLICATED}


def init_queue(key: Array, size: int, batch_size: int, dim: int) -> Queue:
    """A queue of random unit vectors, as in the official MoCo.

    Args:
      key: a typed random key.
      size: K, the number of keys in the queue.
      batch_size: B, the global batch size.
      dim: D, the dimension of a key.

    Raises:
      ValueError: K is not a positive multiple of B.
    """
    if size % batch_size or size < batch_size:
        near = max(size // batch_size, 1) * batch_size
        raise ValueError(f'queue_size {size} is not a positive multiple of the batch size {batch_size} -> use {near}')
    keys = jax.random.normal(key, (size // batch_size, batch_size, dim), jnp.float32)
    return {'keys': normalize(keys), 'slot': jnp.zeros((), jnp.int32)}


def enqueue(queue: Queue, keys: Array) -> Queue:
    """Replaces the oldest batch of keys by a new one.

    Args:
      queue: this device's shard, with keys [slots, b, D].
      keys: [b, D] the new keys of this device, unit vectors. They get no gradient.

    Returns:
      This device's shard of the new queue.
    """
    slots = queue['keys'].shape[0]
    keys = lax.stop_gradient(keys).astype(queue['keys'].dtype)
    return {
        'keys': lax.dynamic_update_index_in_dim(queue['keys'], keys, queue['slot'], 0),
        'slot': (queue['slot'] + 1) % slots,
    }


# ================================ bank ================================

# The number of rows is rounded up to a multiple of this, which every power of two up to it divides. Other numbers of
# devices add rows of zeros, which no checkpoint holds (`Devices.padded`).
ROW_MULTIPLE = 1024

BANK_SPEC = SHARDED


def num_rows(num_examples: int) -> int:
    """The number of rows of a bank for `num_examples` examples, including padded rows."""
    return -(-num_examples // ROW_MULTIPLE) * ROW_MULTIPLE


def init_bank(key: Array, num_examples: int, dim: int) -> Array:
    """A bank with a row for each example, from U(-1/sqrt(D/3), 1/sqrt(D/3)) and not normalized, as in InstDis.

    Args:
      key: a typed random key.
      num_examples: N; the number of rows is rounded up to a multiple of ROW_MULTIPLE.
      dim: D, the dimension of a row.

    Returns:
      [rows, D] float32, to be sharded by rows (BANK_SPEC).
    """
    bound = 1.0 / (dim / 3) ** 0.5
    return jax.random.uniform(key, (num_rows(num_examples), dim), jnp.float32, -bound, bound)


def read_bank(bank: Array, index: Array, axis_name: str | None = None) -> Array:
    """Returns the rows of the local examples.

    Args:
      bank: [r, D] this device's rows.
      index: int32[b] indices of the local examples in the data set.
      axis_name: the mapped device axis.

    Returns:
      [b, D] rows.
    """
    rows, owned = owned_rows(bank, collectives.all_gather(index, axis_name), axis_name)
    return collectives.psum_scatter(jnp.where(owned[:, None], rows, jnp.zeros_like(rows)), axis_name)


def owned_rows(bank: Array, index: Array, axis_name: str | None = None) -> tuple[Array, Array]:
    """Returns those of the requested rows that this device stores.

    Args:
      bank: [r, D] this device's rows.
      index: int32[M] requested rows of the whole bank, the same on all devices.
      axis_name: the mapped device axis.

    Returns:
      Rows [M, D], and bool[M], True for the rows that this device stores; the other rows have arbitrary values.
    """
    local = index - collectives.axis_index(axis_name) * bank.shape[0]
    owned = (local >= 0) & (local < bank.shape[0])
    return bank[jnp.clip(local, 0, bank.shape[0] - 1)], owned


MAX_GATHERED = 2**24  # numbers of bank rows that `bank_similarities` has in memory at a time: 64 MB


def bank_similarities(bank: Array, v: Array, index: Array, axis_name: str | None = None) -> Array:
    """Inner products of each local example with M rows of the whole bank.

    Features and indices are gathered, each device computes the products with the rows that it stores, and the results
    are added. The rows of all examples, [B, M, D], would take 0.5 GB for the 256 x 4096 x 128 of InstDis. They are
    therefore read for a few examples at a time, and read again in the backward pass.

    Args:
      bank: [r, D] this device's rows. They get no gradient.
      v: [b, D] features of the local examples.
      index: int32[b, M] rows of the whole bank for each local example.
      axis_name: the mapped device axis.

    Returns:
      [b, M] inner products.
    """
    bank = lax.stop_gradient(bank)

    @partial(jax.checkpoint, prevent_cse=False)
    def products(example: tuple[Array, Array]) -> Array:
        v, index = example  # [D], [M]
        rows, owned = owned_rows(bank, index, axis_name)
        return jnp.where(owned, jnp.sum(rows * v, axis=-1), 0.0)

    v, index = collectives.all_gather(v, axis_name), collectives.all_gather(index, axis_name)  # [B, D], [B, M]
    # A power of two, which divides most batch sizes.
    at_a_time = 2 ** (max(1, MAX_GATHERED // (index.shape[1] * bank.shape[1])).bit_length() - 1)
    partial_sums = lax.map(products, (v, index), batch_size=min(at_a_time, len(v)))  # [B, M]
    return collectives.psum_scatter(partial_sums, axis_name)


def mean_row(bank: Array, num_examples: int, axis_name: str | None = None) -> Array:
    """The mean [D] of the rows of all examples, without the padded rows, which are those from `num_examples` on."""
    row = collectives.positions(bank.shape[0], axis_name)
    total = jnp.sum(jnp.where(row[:, None] < num_examples, bank, 0.0), axis=0)
    return collectives.psum(total, axis_name) / num_examples


def sample_rows(key: Array, b: int, num_negatives: int, num_examples: int, axis_name: str | None = None) -> Array:
    """Samples rows of a bank for each local example, uniformly and with replacement, without the padded rows.

    Args:
      key: a typed key, the same on all devices.
      b: number of local examples.
      num_negatives: K, the number of rows for each example.
      num_examples: N, the number of rows that are not padding.
      axis_name: the mapped device axis.

    Returns:
      int32[b, K], which depends on the key and on the position of the example in the global batch.
    """
    keys = collectives.example_keys(key, collectives.positions(b, axis_name))
    return jax.vmap(lambda key: jax.random.randint(key, (num_negatives,), 0, num_examples))(keys)


def update_bank(bank: Array, index: Array, f: Array, momentum: float, axis_name: str | None = None) -> Array:
    """v_i <- normalize(m v_i + (1 - m) f_i) (InstDis, arXiv 1805.01978). Each device updates the rows that it stores.

    Args:
      bank: [r, D] this device's rows v.
      index: int32[b] indices of the local examples in the data set.
      f: [b, D] their new features, unit vectors. They get no gradient.
      momentum: m in [0, 1].
      axis_name: the mapped device axis.

    Returns:
      [r, D] this device's rows of the new bank.
    """
    index, f = collectives.all_gather(index, axis_name), collectives.all_gather(lax.stop_gradient(f), axis_name)
    v, owned = owned_rows(bank, index, axis_name)
    return _with_rows(bank, index, normalize(momentum * v + (1.0 - momentum) * f), owned, axis_name)


def write_bank(bank: Array, index: Array, rows: Array, axis_name: str | None = None) -> Array:
    """Replaces the rows of the local examples, as they are. Each device writes the rows that it stores.

    Args:
      bank: [r, D] this device's rows.
      index: int32[b] indices of the local examples in the data set.
      rows: [b, D] their new rows. They get no gradient.
      axis_name: the mapped device axis.

    Returns:
      [r, D] this device's rows of the new bank.
    """
    index, rows = collectives.all_gather(index, axis_name), collectives.all_gather(lax.stop_gradient(rows), axis_name)
    _, owned = owned_rows(bank, index, axis_name)
    return _with_rows(bank, index, rows, owned, axis_name)


def _with_rows(bank: Array, index: Array, rows: Array, owned: Array, axis_name: str | None) -> Array:
    """This device's rows [r, D] with those of `rows` [M, D] that it stores, bool[M], at the places int32[M]."""
    local = index - collectives.axis_index(axis_name) * bank.shape[0]
    return bank.at[jnp.where(owned, local, bank.shape[0])].set(rows.astype(bank.dtype), mode='drop')


def sample_different_rows(
    key: Array, bank: Array, seen: Array, count: int, num_examples: int, axis_name: str | None = None
) -> Array:
    """Samples different rows of the whole bank, for example as initial centroids.

    Args:
      key: a typed key, the same on all devices.
      bank: [r, D] this device's rows.
      seen: bool[r], the rows that may be sampled.
      count: number of rows.
      num_examples: the number of examples in the data set.
      axis_name: the mapped device axis.

    Returns:
      [count, D], the same on all devices.
    """
    stored = num_rows(num_examples)  # without the padding of `Devices.padded`
    seen = collectives.all_gather(seen, axis_name)[:stored]
    priority = jnp.where(seen, jax.random.uniform(key, seen.shape), -1.0)
    rows, owned = owned_rows(bank, lax.top_k(priority, count)[1], axis_name)
    return collectives.psum(jnp.where(owned[:, None], rows, 0.0), axis_name)
