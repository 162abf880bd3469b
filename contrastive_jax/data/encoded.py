"""Images that are stored encoded, such as JPEG files, and are decoded one by one."""

import abc
import bisect
import copy
import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contrastive_jax.data import images
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.sources import Source

SAMPLED = 16  # images that tell what the conversion to 8 bits loses


class EncodedSource(Source):
    """Encoded images; a subclass says where image i lies.

    Args:
      labels: int32 [n], or None.
      classes: the names of the classes, indexed by label, or None.
      name: the name in logs and messages.
      root: the folder or file that the images lie in.
      image_size: height and width of the largest crop, in pixels; much larger JPEGs are decoded at a reduced size.
    """

    skipped: dict[str, int]

    def __init__(
        self,
        labels: np.ndarray | None,
        classes: tuple[str, ...] | None,
        *,
        name: str,
        root: Path,
        image_size: int,
    ):
        self.name, self.root, self.classes = name, root, classes
        self._labels, self._image_size = labels, image_size

    @abc.abstractmethod
    def encoded(self, i: int) -> str | bytes:
        """The file of image i, or its content. Raises ImageError if it cannot be read."""

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def image(self, i: int) -> np.ndarray:
        if self.channels == 1:
            return images.decode(self.encoded(i), white=self.white, gray=self.dtype)
        return images.decode(self.encoded(i), min_side=images.DRAFT_FACTOR * self._image_size, white=self.white)

    def stored_size(self, i: int) -> tuple[int, int]:
        return images.stored_size(self.encoded(i))

    def for_image_size(self, image_size: int) -> 'EncodedSource':
        source = copy.copy(self)
        source._image_size = image_size
        return source


def evenly(n: int, count: int = SAMPLED) -> list[int]:
    """At most `count` of n indices, evenly spaced."""
    return np.linspace(0, n - 1, min(n, count)).astype(int).tolist()


def look_at(train: EncodedSource) -> tuple[images.Look, tuple[str, ...]]:
    """What a sample of training images says about their conversion, and what it loses, for the summary of the data.

    Args:
      train: the training images.
    """
    sample = list[str | bytes]()
    for i in evenly(len(train)):
        try:
            sample.append(train.encoded(i))
        except ImageError:  # a damaged record, which the loader reports
            continue
    seen, found = images.look(sample), []
    if seen.least < 0:
        found.append(f'negative gray values (down to {seen.least:g}) become 0')
    if seen.transparent:
        found.append(f'{seen.transparent} of {len(sample)} sampled images are transparent: alpha is dropped')
    if seen.dark:
        found.append(
            f'warning: of 16-bit colors only the upper 8 bits are read, and the images are dark (at most {seen.dark} '
            'of 255): store them as 8 bits'
        )
    if seen.frames:
        found.append(
            f'{seen.frames} of {len(sample)} sampled images have several frames or pages: the first one is read'
        )
    if seen.bands:
        found.append(
            f'TIFF files with {seen.bands} bands, not all of which are read: data.channels={seen.bands} does it'
        )
    return seen, tuple(found)


class Records(abc.ABC):
    """n encoded images inside of files of some format, with random access.

    Methods are called from several threads at once; with worker processes the object is pickled.

    Attributes:
      sampled: number of images whose content is part of the fingerprint, evenly spaced.
    """

    sampled = 64

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def encoded(self, i: int) -> str | bytes:
        """The content of image i, or the file that it refers to. Raises ImageError if it cannot be read."""

    @abc.abstractmethod
    def file_name(self, i: int) -> str:
        """Where image i is stored, for messages: the file, with the place in it in brackets."""

    @abc.abstractmethod
    def layout(self) -> bytes:
        """What the fingerprint takes of all images, such as their number in each file; not where the files lie."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the layout and of evenly spaced images; it does not depend on where the files lie."""
        digest = hashlib.sha256(f'{len(self)} '.encode() + self.layout())
        for i in evenly(len(self), self.sampled):
            try:
                content = self.encoded(i)
                digest.update(content if isinstance(content, bytes) else os.path.basename(content).encode())
            except ImageError:  # a damaged record, which the loader reports
                digest.update(b'-')
        return digest.hexdigest()


class Joined(Records):
    """Records of several splits, one after another.

    Args:
      parts: the records.
    """

    def __init__(self, parts: Sequence[Records]):
        self._parts = parts
        self._starts = [0, *itertools.accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def encoded(self, i: int) -> str | bytes:
        part, row = self._find(i)
        return part.encoded(row)

    def file_name(self, i: int) -> str:
        part, row = self._find(i)
        return part.file_name(row)

    def layout(self) -> bytes:
        return ' '.join(part.fingerprint for part in self._parts).encode()

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.layout()).hexdigest()

    def _find(self, i: int) -> tuple[Records, int]:
        k = bisect.bisect_right(self._starts, i) - 1
        return self._parts[k], i - self._starts[k]


class RecordSource(EncodedSource):
    """Chosen records, in a given order.

    Args:
      records: encoded images.
      rows: int [n], the records to use.
      labels: int32 [n], or None.
      classes, name, root, image_size: see `EncodedSource`.
    """

    def __init__(
        self,
        records: Records,
        rows: np.ndarray,
        labels: np.ndarray | None,
        classes: tuple[str, ...] | None,
        *,
        name: str,
        root: Path,
        image_size: int,
    ):
        super().__init__(labels, classes, name=name, root=root, image_size=image_size)
        self.skipped = {}
        self._records, self._rows = records, rows

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, i: int) -> str | bytes:
        return self._records.encoded(int(self._rows[i]))

    def file_name(self, i: int) -> str:
        return self._records.file_name(int(self._rows[i]))

    @property
    def fingerprint(self) -> str:
        labels = b'' if self._labels is None else self._labels.tobytes()
        digest = hashlib.sha256(f'{self._records.fingerprint} {self.classes}'.encode())
        digest.update(self._rows.astype(np.int64).tobytes() + labels)
        return digest.hexdigest()[:24]
