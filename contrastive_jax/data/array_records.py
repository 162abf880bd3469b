"""`array_record` files whose records are encoded images, one a record; those of a cache (cache.py) have labels."""

import bisect
import itertools
import os
import re
from pathlib import Path

import numpy as np

from contrastive_jax.data import cache, images
from contrastive_jax.data.encoded import Records, RecordSource
from contrastive_jax.data.files import by_split, find_files
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.parts import Part, open_split
from contrastive_jax.data.sources import DataSetupError
from contrastive_jax.errors import DataError

ENDING = re.compile(r'\.array_?record(-\d+-of-\d+)?$')
SAMPLED = 8  # records that tell whether they are images


class ArrayRecords(Records):
    """The records of files, read by Grain.

    Args:
      files: the files.

    Raises:
      DataError: a file cannot be read.
    """

    def __init__(self, files: list[str]):
        try:
            from grain.sources import ArrayRecordDataSource
        except ImportError as error:  # Grain does without on systems for which there is no array_record
            raise DataSetupError(
                f'array_record files need array_record ({error}) -> pip install array_record'
            ) from error
        readers = []
        for file in files:
            if os.path.getsize(file) == 0:
                raise DataError(f"'{file}' is empty -> write it again")
            try:
                readers.append(ArrayRecordDataSource([file]))
            except Exception as error:  # the reader raises exceptions of its own types
                raise DataError(f"cannot read '{file}': {' '.join(str(error).split())} -> write it again") from error
        self._files, self._readers = files, readers
        self._starts = [0, *itertools.accumulate(map(len, readers))]

    def __len__(self) -> int:
        return self._starts[-1]

    def encoded(self, i: int) -> bytes:
        k = bisect.bisect_right(self._starts, i) - 1
        try:
            return self._readers[k][i - self._starts[k]]
        except Exception as error:  # as above
            raise ImageError(' '.join(str(error).split())) from error

    def file_name(self, i: int) -> str:
        k = bisect.bisect_right(self._starts, i) - 1
        return f'{self._files[k]}[{i - self._starts[k]}]'

    def layout(self) -> bytes:
        return f'{self._starts}'.encode()

    def check(self) -> None:
        """Raises DataError if none of a sample of records is an image."""
        for i in np.linspace(0, len(self) - 1, min(len(self), SAMPLED)).astype(int).tolist():
            try:
                images.stored_size(self.encoded(i))
            except ImageError:
                continue
            return
        if len(self):
            raise DataError(
                f'the records of {self._files[0]} are not encoded images -> write JPEG or PNG files as records; for '
                'tf.train.Example, as TensorFlow Datasets writes it, set data.source to tfds, or to a class of your own'
            )


def load(path: Path, split: str, image_size: int, value_range: float = 0, channels: int = 0) -> RecordSource:
    """Opens one split of `array_record` files.

    Args:
      path: a file, a folder, a pattern or a sequence in braces, see `files`.
      split: 'train', the evaluation split by any of its names, or 'all'.
      image_size, value_range: see `open_source`.
      channels: 1 for gray; 0 or 3: RGB.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: there are no such files, one of them cannot be read, or the records are not images.
      MissingSplitError: the data has no images for evaluation.
    """
    root, files, others = find_files(path, ENDING, 'array_record files', {})
    splits, beside = by_split(path, files)
    known, parts = cache.read(root), []
    if known:
        others['.json'] -= 1
        cache.check_complete(root, known, splits if path.is_dir() else None)
    for name, members in splits.items():
        records = ArrayRecords([os.path.join(root, file) for file in members])
        records.check()
        place = f'{len(members):,} array_record file{"s" * (len(members) > 1)}'
        told = known.get(name)
        labels = None if told is None or told.labels is None else np.array(told.labels, np.int32)
        classes = None if told is None or told.classes is None else tuple(told.classes)
        parts.append(Part(name, records, labels, place, classes))
    return open_split(
        parts,
        split,
        path=path,
        image_size=image_size,
        value_range=value_range,
        channels=channels,
        skipped=+others + beside,
        evaluation='files named test-*',
    )
