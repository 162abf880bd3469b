"""One deterministic order: which examples the batch of a step holds is a pure function of (seed, step).

So the position in the data is just the step. Resuming in mid-epoch is exact, also on another number of hosts, and there
is no sampler state to save. Every example is used at most once an epoch, exactly once if the batch size divides n;
otherwise the n % batch_size last examples of each epoch's order rest until the next epoch.
"""

import functools

import numpy as np

from contrastive_jax.data.sources import DataSetupError


@functools.lru_cache(maxsize=4)  # prefetching threads straddle two epochs
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of one epoch: a permutation of range(n), int64 [n], read-only. seed >= 0."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    order.flags.writeable = False  # the cache hands the same array to everyone
    return order


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches in an epoch of n examples.

    Raises:
      DataSetupError: there are fewer examples than one batch takes.
    """
    if n < batch_size:
        raise DataSetupError(f'{n} images < global batch {batch_size} -> use more images or --config.batch_size={n}')
    return n // batch_size


def batch_index(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """The examples of one global batch.

    Args:
      seed: of the order.
      step: global training step, from 0.
      n: number of examples.
      batch_size: global batch size.

    Returns:
      int64 [batch_size], read-only.

    Raises:
      DataSetupError: n < batch_size.
    """
    epoch, batch = divmod(step, steps_per_epoch(n, batch_size))
    return epoch_order(seed, epoch, n)[batch * batch_size : (batch + 1) * batch_size]


def chunk_index(seed: int, start: int, stop: int, n: int, batch_size: int) -> np.ndarray:
    """The batches of steps start..stop-1, for a compiled loop over many steps: int32 [stop - start, batch_size]."""
    chunk = np.empty((stop - start, batch_size), np.int32)
    for row, step in enumerate(range(start, stop)):
        chunk[row] = batch_index(seed, step, n, batch_size)
    return chunk
