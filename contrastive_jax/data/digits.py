"""scikit-learn's handwritten digits, the embedded data set."""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from contrastive_jax.data.sources import ArraySource, DataSetupError
from contrastive_jax.data.splits import resolve_split

NUM_TRAIN = 1437  # the first 80 % of the 1,797 images, in scikit-learn's order


def load(split: str = 'train', channels: int = 0) -> ArraySource:
    """1,797 gray images of 8x8 pixels; the first 1,437 are 'train', the last 360 are 'test'.

    Args:
      split: 'train', the evaluation split by any of its names, or 'all'.
      channels: see `ArraySource`.
    """
    images, labels = _read()
    if split != 'all':
        split = resolve_split(split, ('train', 'test'), 'digits')
    rows = {'train': slice(None, NUM_TRAIN), 'test': slice(NUM_TRAIN, None), 'all': slice(None)}[split]
    classes = tuple('0123456789')
    return ArraySource(images[rows], labels[rows], name='digits', classes=classes, channels=channels)


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [1797, 8, 8], and their labels, which a run needs twice: for training and evaluation."""
    package = importlib.util.find_spec('sklearn')  # found, and not imported, which takes a second
    if package is None or package.origin is None:
        raise DataSetupError(
            'the digits are a part of scikit-learn, which is not installed -> pip install scikit-learn'
        )
    file = Path(package.origin).parent / 'datasets' / 'data' / 'digits.csv.gz'
    if file.is_file():
        rows = np.loadtxt(file, delimiter=',')  # 64 levels, 0..16, and the label
    else:  # a version that has it elsewhere
        from sklearn.datasets import load_digits

        data = load_digits()
        rows = np.column_stack([data.data, data.target])
    images = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    images.setflags(write=False)  # all sources share them
    return images, rows[:, -1].astype(int)
