"""Labels that are names or ids, or have gaps, as class numbers: memory depends on their number, not their size."""

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
    if held_out is not None and train.classes and held_out.classes:
        return train, _named_alike(train.classes, held_out)
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


def _named_alike(classes: tuple[str, ...], held_out: Source) -> Source:
    """Held-out images whose labels are indices of the training classes, followed by the classes that those lack."""
    assert held_out.classes is not None
    common = min(len(classes), len(held_out.classes))
    if classes[:common] == held_out.classes[:common] or held_out.labels is None:
        return held_out
    names = tuple(dict.fromkeys([*classes, *held_out.classes]))
    index = np.array([*map(names.index, held_out.classes), -1])  # -1 stays: the last entry
    return _Renumbered(held_out, index[held_out.labels].astype(np.int32), names)


def classes_of(splits: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Labels as integers, numbered alike in all splits, and the names of the classes where they are names or large ids.

    Args:
      splits: the labels of each split: names, or numbers in any form of `sources.class_labels`.

    Returns:
      Labels by split, and the names of the classes; None if the labels are numbers that fit into a label.
    """
    if _large_ids(splits):
        known = np.unique(np.concatenate([labels[labels >= 0].astype(np.uint64) for labels in splits.values()]))
        numbers = {kind: np.searchsorted(known, labels.astype(np.uint64)) for kind, labels in splits.items()}
        found = {kind: np.where(labels < 0, -1, numbers[kind]) for kind, labels in splits.items()}
        return found, tuple(map(str, known.tolist()))
    if not any(labels.dtype.kind in 'US' for labels in splits.values()):
        return splits, None
    names = {kind: labels.astype(str).reshape(len(labels), -1)[:, 0] for kind, labels in splits.items()}
    classes = np.unique(np.concatenate(list(names.values())))
    return {kind: np.searchsorted(classes, labels) for kind, labels in names.items()}, tuple(map(str, classes))


def _large_ids(splits: dict[str, np.ndarray]) -> bool:
    """Whether labels are ids, or -1 for unknown, that do not fit into the 32 bits of a label."""
    arrays = [labels for labels in splits.values() if labels.size]
    if any(labels.dtype.kind not in 'iu' or int(labels.min()) < -1 for labels in arrays):
        return False
    return any(int(labels.max()) > np.iinfo(np.int32).max for labels in arrays)
