"""What is remembered between steps: the queue of MoCo and the memory bank of InstDis, as sharded device arrays.

Both are plain pytrees that go in and come out. No entry ever leaves its device: queries travel to them.
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
    """A ring of batches of keys.

    keys: [slots, B, D] unit vectors, slot s holding the global batch that was enqueued there. Sharded on B, so that a
      device keeps the keys it made, and the same keys are evicted on 1 or on 256 devices.
    slot: int32 scalar, where the next batch goes.
    """

    keys: Array
    slot: Array


QUEUE_SPEC = {'keys': PartitionSpec(None, AXIS), 'slot': REPLICATED}


def init_queue(key: Array, size: int, batch_size: int, dim: int) -> Queue:
    """Random unit vectors, as in the official MoCo.

    Args:
      key: a typed random key.
      size: K, number of keys in the queue.
      batch_size: B, the global batch; it must divide K.
      dim: D.
    """
    if size % batch_size or size < batch_size:
        raise ValueError(f'queue_size {size} is not a positive multiple of the batch size {batch_size}')
    keys = jax.random.normal(key, (size // batch_size, batch_size, dim), jnp.float32)
    return {'keys': normalize(keys), 'slot': jnp.zeros((), jnp.int32)}


def enqueue(queue: Queue, keys: Array) -> Queue:
    """Replaces the oldest batch by this one.

    Args:
      queue: keys [slots, b, D] (this device's shard of B).
      keys: [b, D] this device's keys, L2-normalised.
    """
    slots = queue['keys'].shape[0]
    keys = lax.stop_gradient(keys).astype(queue['keys'].dtype)
    return {
        'keys': lax.dynamic_update_index_in_dim(queue['keys'], keys, queue['slot'], 0),
        'slot': (queue['slot'] + 1) % slots,
    }


# ================================ bank ================================

# Rows are rounded up to a multiple of this, so that any power-of-two device count up to it divides them and a
# checkpoint fits another device count.
BANK_ROWS = 1024

BANK_SPEC = SHARDED


def bank_rows(num_examples: int) -> int:
    """Rows of a bank for so many examples."""
    return -(-num_examples // BANK_ROWS) * BANK_ROWS


def init_bank(key: Array, num_examples: int, dim: int) -> Array:
    """A row for every example: U(-1/sqrt(D/3), 1/sqrt(D/3)), not normalised, as in InstDis.

    Args:
      key: a typed random key.
      num_examples: number of examples; the rows are rounded up to a multiple of BANK_ROWS.
      dim: D.

    Returns:
      [rows, D] float32, to be sharded by rows (BANK_SPEC).
    """
    rows = bank_rows(num_examples)
    bound = 1.0 / (dim / 3) ** 0.5
    return jax.random.uniform(key, (rows, dim), jnp.float32, -bound, bound)


def bank_read(bank: Array, index: Array, axis_name: str | None = None) -> Array:
    """The rows of the local examples.

    Args:
      bank: [r, D] this device's rows.
      index: int32[b] example ids of the local batch.
      axis_name: the mapped device axis.

    Returns:
      [b, D].
    """
    rows, own = bank_part(bank, collectives.all_gather(index, axis_name), axis_name)
    return collectives.psum_scatter(jnp.where(own[:, None], rows, jnp.zeros_like(rows)), axis_name)


def bank_part(bank: Array, index: Array, axis_name: str | None = None) -> tuple[Array, Array]:
    """This device's part of a set of rows that every device asks for.

    Args:
      bank: [r, D] this device's rows.
      index: int32[M] example ids, the same on every device.
      axis_name: the mapped device axis.

    Returns:
      [M, D] rows, meaningful where the second result, bool[M], says that this device owns the row.
    """
    local = index - collectives.axis_index(axis_name) * bank.shape[0]
    own = (local >= 0) & (local < bank.shape[0])
    return bank[jnp.clip(local, 0, bank.shape[0] - 1)], own


GATHERED = 2**24  # numbers of bank rows that `bank_similarities` holds at a time: 64 MB


def bank_similarities(bank: Array, v: Array, index: Array, axis_name: str | None = None) -> Array:
    """How similar each local example is to rows of its own choice.

    Examples and choices are gathered, every device scores the rows that it owns, and the scores are added up. The rows
    of all examples together, [B, M, D], would be 0.5 GB at InstDis' 256 x 4096 x 128; so they are taken a few examples
    at a time, and again for the gradient.

    Args:
      bank: [r, D] this device's rows; they never get a gradient.
      v: [b, D] features of the local examples.
      index: int32[b, M] example ids, M for each of them.
      axis_name: the mapped device axis.

    Returns:
      [b, M] inner products.
    """
    bank = lax.stop_gradient(bank)

    @partial(jax.checkpoint, prevent_cse=False)
    def of_one(example: tuple[Array, Array]) -> Array:
        v, index = example  # [D], [M]
        rows, own = bank_part(bank, index, axis_name)
        return jnp.where(own, jnp.sum(rows * v, axis=-1), 0.0)

    v, index = collectives.all_gather(v, axis_name), collectives.all_gather(index, axis_name)  # [B, D], [B, M]
    few = 2 ** (max(1, GATHERED // (index.shape[1] * bank.shape[1])).bit_length() - 1)  # a power of 2 divides most B
    partial_sums = lax.map(of_one, (v, index), batch_size=min(few, len(v)))  # [B, M]
    return collectives.psum_scatter(partial_sums, axis_name)


def bank_mean(bank: Array, num_examples: int, axis_name: str | None = None) -> Array:
    """The mean [D] of all rows but the padded ones, which are those from num_examples on."""
    row = collectives.positions(bank.shape[0], axis_name)
    return (
        collectives.psum(jnp.sum(jnp.where(row[:, None] < num_examples, bank, 0.0), axis=0), axis_name) / num_examples
    )


def draw_rows(key: Array, b: int, num_rows: int, num_examples: int, axis_name: str | None = None) -> Array:
    """Rows of a bank drawn uniformly, with replacement, for each local example; never a padded one.

    Args:
      key: a typed key, the same on all devices.
      b: number of local examples.
      num_rows: K, rows for each.
      num_examples: N; rows are drawn below it.
      axis_name: the mapped device axis.

    Returns:
      int32[b, K], a function of the key and the position in the global batch.
    """
    keys = collectives.example_keys(key, collectives.positions(b, axis_name))
    return jax.vmap(lambda key: jax.random.randint(key, (num_rows,), 0, num_examples))(keys)


def bank_update(bank: Array, index: Array, v: Array, momentum: float, axis_name: str | None = None) -> Array:
    """v_i <- normalise(m v_i + (1 - m) f_i), each device writing the rows it owns (InstDis, arXiv 1805.01978).

    Args:
      bank: [r, D] this device's rows.
      index: int32[b] example ids of the local batch.
      v: [b, D] their new unit features f.
      momentum: m.
      axis_name: the mapped device axis.
    """
    index, v = collectives.all_gather(index, axis_name), collectives.all_gather(lax.stop_gradient(v), axis_name)
    rows, own = bank_part(bank, index, axis_name)
    moved = normalize(momentum * rows + (1.0 - momentum) * v)
    local = index - collectives.axis_index(axis_name) * bank.shape[0]
    return bank.at[jnp.where(own, local, bank.shape[0])].set(moved.astype(bank.dtype), mode='drop')
