"""The interface of a data source, arrays in memory, and subsets."""

import abc
import contextlib
import copy
import functools
import hashlib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contrastive_jax.data.images import ImageError
from contrastive_jax.data.pixels import image_array
from contrastive_jax.data.slices import parse_slices
from contrastive_jax.errors import DataError, UserError

FINGERPRINTED = 16  # examples of a source that has no better fingerprint


class DataSetupError(DataError):
    """The data cannot serve the config until one of them is changed. Exit code 2, because a retry cannot help."""

    exit_code = 2


class Source(abc.ABC):
    """A data set of n images with random access; each image may have a label.

    A subclass defines `__len__` and `image`, and `labels` if the images have labels. Methods are called from several
    threads at once; with worker processes the source is pickled.

    Attributes:
      name: the name in logs and messages.
      classes: the names of the classes, indexed by label; None if unknown.
      root: the folder or file that encoded images lie in; None if there is none.
      place: the part of the data that the examples come from, such as 'train/', for the summary of the data.
      skipped: number of files that were left out, by reason or extension.
      white: the value that became 255 in gray images of more than 8 bits; 0: there are none.
      remarks: what else the summary of the data says about the conversion of its images.
      rows_of: the rows [start, end) of stored splits that the examples are, such as ('cifar10/3.0.2/train', 0, 45000);
        splits without a name of their own are named by their fingerprint. Empty: unknown, or a whole split.
      channels: C, the number of channels of each image; 3 is RGB.
      dtype: the type of the levels of all images: uint8, where 255 is white, or uint16, where 65535 is.
      array: all images as one array [n, H, W, C] of `dtype` if they are in memory, so that they can be kept on the
        device; None if they are decoded one by one.
    """

    name: str
    classes: tuple[str, ...] | None = None
    root: Path | None = None
    place: str = ''
    skipped: Mapping[str, int] = types.MappingProxyType({})
    white: float = 0
    remarks: Sequence[str] = ()
    rows_of: Sequence[tuple[str, int, int]] = ()
    channels: int = 3
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    array: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [n], -1 where unknown; None without labels. The first access may read the whole data set."""
        return None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image(self, i: int) -> np.ndarray:
        """Image i, [H, W, C] of `dtype`. Raises ImageError if it cannot be read."""

    def stored_size(self, i: int) -> tuple[int, int]:
        """Height and width of image i as it is stored, in pixels; `image` may return a smaller one.

        Raises ImageError if the image cannot be read. Override it where that is cheaper than to decode the image.
        """
        height, width = self.image(i).shape[:2]
        return height, width

    def label(self, i: int) -> int:
        """The label of example i; -1 if it has none."""
        return -1 if self.labels is None else int(self.labels[i])

    def example(self, i: int) -> tuple[np.ndarray, int]:
        """Image and label of example i. Override it where reading both at once is cheaper."""
        return self.image(i), self.label(i)

    def file_name(self, i: int) -> str:
        """Where example i is stored, for messages about damaged images."""
        return str(i)

    def for_image_size(self, image_size: int) -> 'Source':
        """The same images for crops of another size; sources that decode at a reduced size change that size."""
        del image_size
        return self

    @property
    def num_classes(self) -> int:
        """The number of distinct labels; 0 without labels."""
        return 0 if self.labels is None else len(np.unique(self.labels[self.labels >= 0]))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash that changes when examples are added, removed or changed; a resumed run compares it.

        This one reads a few examples. Override it where all that matters can be read quickly.
        """
        digest = hashlib.sha256(f'{type(self).__name__} {len(self)} {self.classes}'.encode())
        for i in np.unique(np.linspace(0, len(self) - 1, FINGERPRINTED).astype(int)).tolist():
            with contextlib.suppress(ImageError):
                image, label = self.example(i)
                digest.update(f'{i} {label} {image.shape}'.encode() + image.tobytes())
        return digest.hexdigest()[:26]  # 24 digits in older versions, which read no example


class ArraySource(Source):
    """Images in memory.

    Args:
      images: [n, H, W, C] or, if they are gray, [n, H, W]; dtypes and channels are those of `pixels.image_array`.
      labels: one class for each image in any form that `class_labels` reads, -1 where unknown; or None.
      name: the name in logs and messages.
      classes: the names of the classes, indexed by label.
      channels: the number of channels that is wanted; 0: that of the images, 3 for gray images.
      value_range: the value that becomes white in images of other dtypes than uint8; 0: unknown.

    Raises:
      DataError: images or labels have another dtype or shape.
    """

    array: np.ndarray

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        name: str = 'array',
        classes: tuple[str, ...] | None = None,
        channels: int = 0,
        value_range: float = 0,
    ):
        self.name = name
        self.classes = classes
        self.array, self.remarks = image_array(np.asarray(images), name, channels, value_range)
        self.channels, self.dtype = self.array.shape[3], self.array.dtype
        self._labels = None if labels is None else class_labels(np.asarray(labels), len(self.array), name)

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def __len__(self) -> int:
        return len(self.array)

    def image(self, i: int) -> np.ndarray:
        return self.array[i]

    @functools.cached_property
    def fingerprint(self) -> str:
        labels = b'' if self._labels is None else self._labels.tobytes()
        digest = hashlib.sha256(repr(self.array.shape).encode())
        digest.update(self.array.data)
        digest.update(labels)
        return digest.hexdigest()[:24]  # 16 digits in older versions, which took a part of the images


def check_apart(train: Source, held_out: Source, split: str, eval_split: str) -> None:
    """Checks that no image is both learned from and measured on, as far as the sources know their rows.

    Args:
      train, held_out: training images, and images for evaluation.
      split, eval_split: `data.split` and `data.eval_split`.

    Raises:
      UserError: they are the same images, or overlap: slices of the same split, or 'all' and a part of it.
    """
    given = f'data.split {split!r} and data.eval_split {eval_split!r}'
    example = 'such as train[:90%] and train[90%:]'
    own, other_own = train.fingerprint, held_out.fingerprint  # once: that of a folder reads files
    if own == other_own:
        raise UserError(
            f'{given} are the same images: none are held out',
            field='data.eval_split',
            remedy='set data.eval_split to other images',
        )
    parts = {part.split for part in parse_slices(split, 'data.split')}
    other_parts = {part.split for part in parse_slices(eval_split, 'data.eval_split')}
    if ('all' in parts) != ('all' in other_parts):  # where the rows of a part lie in 'all' is not known
        raise UserError(
            f"{given} may have images in common, because 'all' is every image of the data",
            field='data.eval_split',
            remedy=f"take both from 'all', or neither, {example}",
        )
    common = sum(
        max(0, min(end, other_end) - max(start, other_start))
        for stored, start, end in train.rows_of or ((own, 0, len(train)),)
        for other, other_start, other_end in held_out.rows_of or ((other_own, 0, len(held_out)),)
        if stored == other
    )
    if common:
        raise UserError(
            f'{given} have {common:,} images in common, which would not be held out',
            field='data.eval_split',
            remedy=f'set data.eval_split to other images, {example}',
        )


class Subset(Source):
    """Chosen examples of another source, in a given order.

    Args:
      source: the other source.
      ids: int [n], the indices of the examples in `source`.
    """

    def __init__(self, source: Source, ids: np.ndarray):
        self.name, self.classes = source.name, source.classes
        self._source, self._ids = source, ids
        self.channels, self.dtype = source.channels, source.dtype
        self.array = None if source.array is None else source.array[ids]

    @property
    def labels(self) -> np.ndarray | None:
        return None if self._source.labels is None else self._source.labels[self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def image(self, i: int) -> np.ndarray:
        return self._source.image(int(self._ids[i]))

    def stored_size(self, i: int) -> tuple[int, int]:
        return self._source.stored_size(int(self._ids[i]))

    def label(self, i: int) -> int:
        return self._source.label(int(self._ids[i]))

    def example(self, i: int) -> tuple[np.ndarray, int]:
        return self._source.example(int(self._ids[i]))

    def file_name(self, i: int) -> str:
        return self._source.file_name(int(self._ids[i]))

    def for_image_size(self, image_size: int) -> 'Subset':
        subset = copy.copy(self)
        subset._source = self._source.for_image_size(image_size)
        return subset

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._source.fingerprint.encode() + self._ids.tobytes()).hexdigest()[:24]


def class_labels(labels: np.ndarray, n: int, name: str) -> np.ndarray:
    """Labels of n images as int32 [n], -1 where unknown.

    Args:
      labels: one whole number for each image, [n] or [n, 1], as integers, booleans or floats (NaN: unknown); or one-hot
        rows [n, classes] (a row of zeros: unknown).
      n: number of images.
      name: the name of the data in messages.

    Raises:
      DataError: the number of labels is not n, or they are not one class for each image.
    """
    given = f'{name}: labels are {labels.dtype}{list(labels.shape)} for {n} images'
    if labels.ndim == 0 or len(labels) != n:
        raise DataError(f'{given} -> give one integer class per image, [n]')
    classes = _class_numbers(labels)
    if classes is None:
        raise DataError(f'{given} -> give one integer class per image, [n]')
    if classes.min(initial=0) < -1 or classes.max(initial=0) > np.iinfo(np.int32).max:
        raise DataError(
            f'{given}, from {classes.min()} to {classes.max()} -> number the classes from 0, below 2**31; -1 is unknown'
        )
    return classes.astype(np.int32)


def are_classes(labels: np.ndarray) -> bool:
    """Whether labels have one of the forms of `class_labels`; their size does not matter here."""
    classes = _class_numbers(labels)
    return classes is not None and classes.min(initial=0) >= -1


def _class_numbers(labels: np.ndarray) -> np.ndarray | None:
    """Class numbers [n] of labels in any of the forms of `class_labels`; None if they are in none of them."""
    if labels.dtype.kind not in 'biuf':
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        one_hot = np.isin(labels, (0, 1)).all() and (np.count_nonzero(labels, axis=1) <= 1).all()
        return np.where(labels.any(axis=1), labels.argmax(axis=1), -1) if one_hot else None
    if labels.ndim != 1:
        return None
    if labels.dtype.kind == 'f':
        labels = np.where(np.isnan(labels), -1, labels)
        if not (np.isfinite(labels) & (labels == np.round(labels))).all():
            return None
    return labels.astype(np.int64) if labels.dtype.kind in 'bf' else labels
