"""Labels that are ids or have gaps, as class numbers 0, 1, 2, ...: memory depends on their number, not their size."""

import numpy as np

from contrastive_jax.data.sources import Source, Subset


class _Renumbered(Subset):
    """All examples of a source with other labels."""

    def __init__(self, source: Source, labels: np.ndarray, classes: tuple[str, ...]):
        super().__init__(source, np.arange(len(source)))
        self.array = source.array
        self._labels, self.classes = labels, classes
        self.root, self.place, self.skipped = source.root, source.place, source.skipped
        self.white, self.remarks, self.rows_of = source.white, source.remarks, source.rows_of

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def example(self, i: int) -> tuple[np.ndarray, int]:
        return self._source.image(i), int(self._labels[i])

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint


def number_classes(train: Source, held_out: Source | None) -> tuple[Source, Source | None]:
    """Both splits with the classes numbered alike, in the order of their labels.

    Sources whose labels are indices of named classes, or are 0, 1, 2, ... already, stay as they are. -1 stays unknown.

    Args:
      train: training images.
      held_out: images for evaluation, or None.
    """
    sources = [source for source in (train, held_out) if source is not None]
    if any(source.classes is not None or source.labels is None for source in sources):
        return train, held_out
    distinct = np.unique(np.concatenate([source.labels for source in sources if source.labels is not None]))
    distinct = distinct[distinct >= 0]
    if np.array_equal(distinct, np.arange(len(distinct))):
        return train, held_out
    names = tuple(map(str, distinct))

    def numbered(source: Source) -> Source:
        assert source.labels is not None
        index = np.searchsorted(distinct, source.labels)
        return _Renumbered(source, np.where(source.labels >= 0, index, -1).astype(np.int32), names)

    return numbered(train), None if held_out is None else numbered(held_out)
