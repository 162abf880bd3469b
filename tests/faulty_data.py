"""A data set that fails: `data.source=tests.faulty_data:Digits`, `data.path=stall:70` stalls at the 70th example."""

import itertools
import threading
import time

import numpy as np
from sklearn.datasets import load_digits

from contrastive_jax.errors import MissingSplitError


class Digits:
    """The first 64 digits, as training images.

    Args:
      path: 'stall:N' or 'raise:N'; '' for data without a fault.
    """

    name = 'digits'

    def __init__(self, split: str, path: str):
        if split != 'train':
            raise MissingSplitError('there are training images only')
        data = load_digits()
        self.labels = data.target[:64].astype(np.int32)
        self._images = np.rint(data.images[:64] * (255 / 16)).astype(np.uint8)
        self._fault, _, at = path.partition(':')
        self._at, self._read = int(at or -1), itertools.count(1)

    def __len__(self) -> int:
        return 64

    def example(self, i: int) -> tuple[np.ndarray, int]:
        # The main thread looks at images before the training; the loader's threads read those of the batches.
        if threading.current_thread() is not threading.main_thread() and next(self._read) >= self._at > 0:
            if self._fault == 'stall':
                time.sleep(1000)
            raise RuntimeError('a mistake of ours')
        return self._images[i], int(self.labels[i])
