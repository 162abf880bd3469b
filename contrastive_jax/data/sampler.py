"""The order of the examples: the batch of a step is a pure function of (seed, step).

The step is therefore the only state of the sampler: a run resumes exactly in the middle of an epoch, also on another
number of hosts. Each epoch uses every example at most once, and exactly once if the batch size divides n; otherwise the
last n % batch_size examples of the epoch's order are not used in that epoch.
"""

import functools

import numpy as np

from contrastive_jax.data.sources import DataSetupError


@functools.lru_cache(maxsize=4)  # prefetching threads may be in two epochs at once
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of one epoch: a permutation of range(n), int64 [n], read-only. `seed` must be at least 0."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    order.flags.writeable = False  # all callers share the cached array
    return order


def steps_per_epoch(n: int, batch_size: int) -> int:
    """The number of full batches in an epoch of n examples.

    Raises:
      DataSetupError: there are fewer than `batch_size` examples.
    """
    if n < batch_size:
        raise DataSetupError(
            f'{n} images are fewer than batch_size {batch_size} -> use more images, or a batch_size of at most {n}'
        )
    return n // batch_size


def batch_index(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """The examples of one global batch.

    Args:
      seed: the seed of the order.
      step: the training step, from 0.
      n: the number of examples in the data.
      batch_size: the global batch size.

    Returns:
      int64 [batch_size], indices of examples, read-only.

    Raises:
      DataSetupError: n < batch_size.
    """
    epoch, batch = divmod(step, steps_per_epoch(n, batch_size))
    return epoch_order(seed, epoch, n)[batch * batch_size : (batch + 1) * batch_size]


def chunk_index(seed: int, start: int, stop: int, n: int, batch_size: int) -> np.ndarray:
    """The examples of the batches of steps start..stop-1: int32 [stop - start, batch_size]; see `batch_index`."""
    chunk = np.empty((stop - start, batch_size), np.int32)
    for row, step in enumerate(range(start, stop)):
        chunk[row] = batch_index(seed, step, n, batch_size)
    return chunk
