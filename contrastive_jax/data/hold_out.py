"""What is held out of labeled data that has no split for evaluation: 10 % of each class."""

import numpy as np

from contrastive_jax.data.splits import resolve_split
from contrastive_jax.errors import MissingSplitError


def held_out(labels: np.ndarray) -> np.ndarray:
    """Marks 10 % of each class with at least two images, at least one image, evenly spaced: bool [n].

    Args:
      labels: int [n], -1 where unknown; these images are not held out.
    """
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            count = max(1, round(len(rows) / 10))
            held[rows[((np.arange(count) + 0.5) * len(rows) / count).astype(int)]] = True
    return held


def without_splits(
    labels: np.ndarray | None, n: int, split: str, where: str, evaluation: str
) -> tuple[np.ndarray, str]:
    """The part of data without splits that a name of a split means.

    Args:
      labels: int [n], or None; only labeled images can be held out.
      n: number of images.
      split: the requested split.
      where: the data, for messages.
      evaluation: what would be the split for evaluation, for messages: 'a folder test/'.

    Returns:
      The rows, int [m], and what to add to the place of the images in the summary of the data.

    Raises:
      UserError: `split` is not the name of a kind of split.
      MissingSplitError: no image can be held out.
    """
    if labels is None:
        resolve_split(split, ('train',), f'{where} (without labels and without {evaluation})')
        return np.arange(n), ''
    held, test = held_out(labels), resolve_split(split, ('train', 'test'), where) == 'test'
    if test and not held.any():
        raise MissingSplitError(
            f'{where} has no class with two images, one of which could be held out -> add images, or {evaluation}'
        )
    return np.flatnonzero(held == test), '10 % of each class' if test else ''
