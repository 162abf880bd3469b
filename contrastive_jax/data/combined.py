"""Slices of splits, and several of them joined, for every kind of data but TFDS, which has its own."""

import bisect
import copy
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from contrastive_jax.data.slices import Part, rows
from contrastive_jax.data.sources import Source
from contrastive_jax.errors import DataError, UserError


class CombinedSource(Source):
    """Rows of other sources, one after another.

    Args:
      parts: (source, start, end): rows [start, end) of a source. The sources are splits of one data set.
      classes: the names of the classes of all parts, or None. Labels of a part that has names are numbered by them.
    """

    def __init__(self, parts: Sequence[tuple[Source, int, int]], classes: tuple[str, ...] | None):
        first = parts[0][0]
        self.name, self.root, self.white, self.classes = first.name, first.root, first.white, classes
        self.channels, self.dtype = first.channels, first.dtype
        self._parts = list(parts)
        self._starts = [0, *itertools.accumulate(end - start for _, start, end in parts)]
        whole = list(dict.fromkeys(source for source, _, _ in parts))
        self.place = ', '.join(filter(None, (_place(*part) for part in parts)))
        self.skipped = dict(sum((Counter(source.skipped) for source in whole), Counter()))
        self.remarks = tuple(dict.fromkeys(remark for source in whole for remark in source.remarks))
        named = {source: source.fingerprint for source in whole}  # once: that of a folder reads files
        self.rows_of = tuple((named[source], start, end) for source, start, end in parts)
        if all(source.array is not None for source in whole):
            arrays = [source.array[start:end] for source, start, end in parts if source.array is not None]
            self.array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        self._number = [
            None
            if classes is None or source.classes is None or classes[: len(source.classes)] == source.classes
            else np.array([*map(classes.index, source.classes), -1])
            for source, _, _ in parts
        ]

    @property
    def labels(self) -> np.ndarray | None:
        if all(source.labels is None for source, _, _ in self._parts):
            return None
        found = []
        for (source, start, end), number in zip(self._parts, self._number, strict=True):
            labels = np.full(end - start, -1) if source.labels is None else source.labels[start:end]
            found.append(labels if number is None else number[labels])  # -1 stays: the last entry
        return np.concatenate(found).astype(np.int32)

    def __len__(self) -> int:
        return self._starts[-1]

    def image(self, i: int) -> np.ndarray:
        source, row, _ = self._find(i)
        return source.image(row)

    def stored_size(self, i: int) -> tuple[int, int]:
        source, row, _ = self._find(i)
        return source.stored_size(row)

    def label(self, i: int) -> int:
        source, row, number = self._find(i)
        return _numbered(source.label(row), number)

    def example(self, i: int) -> tuple[np.ndarray, int]:
        source, row, number = self._find(i)
        image, label = source.example(row)
        return image, _numbered(label, number)

    def file_name(self, i: int) -> str:
        source, row, _ = self._find(i)
        return source.file_name(row)

    def for_image_size(self, image_size: int) -> 'CombinedSource':
        made = copy.copy(self)
        made._parts = [(source.for_image_size(image_size), start, end) for source, start, end in self._parts]
        return made

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.rows_of, self.classes)).encode()).hexdigest()[:24]

    def _find(self, i: int) -> tuple[Source, int, np.ndarray | None]:
        """The source of example i, the row there, and the new numbers of its labels."""
        k = bisect.bisect_right(self._starts, i) - 1
        source, start, _ = self._parts[k]
        return source, start + i - self._starts[k], self._number[k]


def combine(parts: Sequence[Part], open_split: Callable[[str], Source], given: str, where: str) -> CombinedSource:
    """Opens the splits that slices are of, and joins the slices.

    Args:
      parts: the slices, see `slices.parse_slices`.
      open_split: opens a whole split.
      given: the slices as they were given, for messages.
      where: what the slices are, for messages: 'data.split'.

    Raises:
      UserError: a slice is of shards, or has no image.
      DataError: the splits have different kinds of images.
    """
    opened: dict[str, Source] = {}
    found: list[tuple[Source, int, int]] = []
    for part in parts:
        if 'shard' in part.text:
            raise UserError(
                f'{where} {given!r}: only TFDS data has shards', remedy="give images or percentages: 'train[:10%]'"
            )
        if part.split not in opened:
            opened[part.split] = open_split(part.split)
        source = opened[part.split]
        start, end = rows(part, [len(source)])
        if start >= end:
            raise UserError(
                f'{where} {given!r}: {part.split}{part.text} has no image, {part.split} has {len(source):,}',
                remedy='give a larger slice',
            )
        found.append((source, start, end))
    kinds: dict[Any, str] = {}
    for split, source in opened.items():
        shape = None if source.array is None else source.array.shape[1:3]  # images in memory are joined to one array
        size = '' if shape is None else f' of {shape[0]} x {shape[1]} px'
        kind = f'{split} is {source.dtype} with {source.channels} channels{size}'
        kinds.setdefault((source.channels, source.dtype, shape), kind)
    if len(kinds) > 1:
        raise DataError(f'{where} {given!r}: {", ".join(kinds.values())} -> join splits that are stored alike')
    named = [source.classes for source in opened.values() if source.classes is not None]
    return CombinedSource(found, _merged(named))


def _merged(classes: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The longest of the names of classes if it begins with all others, or each name once; None if there are none."""
    longest = max(classes, key=len, default=None)
    if longest is None or all(names == longest[: len(names)] for names in classes):
        return longest
    return tuple(dict.fromkeys(name for names in classes for name in names))


def _place(source: Source, start: int, end: int) -> str:
    """The place of a source, and its rows if they are not all: 'train/ [100:200]'."""
    return source.place if (start, end) == (0, len(source)) else f'{source.place} [{start}:{end}]'.strip()


def _numbered(label: int, number: np.ndarray | None) -> int:
    return label if number is None else int(number[label])
