"""A part of each class of a labeled data set."""

import numpy as np


def stratified(labels: np.ndarray, fraction: float, leave: int = 0) -> np.ndarray:
    """Marks a fraction of each class, at least one image of it, evenly spaced over its images.

    Args:
      labels: int[n].
      fraction: the part of each class, in (0, 1].
      leave: number of images of each class that stay unmarked in any case.

    Returns:
      bool[n].
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(ids))), len(ids) - leave)
        chosen[ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]] = True
    return chosen
