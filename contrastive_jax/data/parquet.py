"""Parquet files with a column of encoded images, as the Hugging Face hub has them, read by pyarrow.

A Parquet file is compressed in row groups, so a single image takes reading a whole one. The last ones stay in memory.
"""

import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.data.encoded import RecordSource
from contrastive_jax.data.files import by_split, find_files
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.parts import Part, open_split
from contrastive_jax.data.tables import TableRecords, find_columns, import_arrow, labels_of
from contrastive_jax.errors import DataError

ENDING = re.compile(r'\.(parquet|pq)$')
KEPT_BYTES = 1 << 30  # of row groups in memory, in each process
SLOW_BYTES = 4 << 20  # a row group above this size makes data that does not fit into memory slow


class Group(NamedTuple):
    """A row group: its file, its number in the file, the number of rows, and the bytes of its images."""

    file: str
    number: int
    rows: int
    size: int


class ParquetRecords(TableRecords):
    """The images of one split.

    Args:
      root: the folder that paths of images are relative to.
      groups: the row groups, in order.
      column: the column of the images.
    """

    sampled = 16  # each takes reading a row group

    def __init__(self, root: str, groups: list[Group], column: str):
        super().__init__(root, [group.file for group in groups], [group.rows for group in groups])
        self._groups, self._column = groups, column
        self._start()

    def _start(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._metadata: dict[str, Any] = {}
        self._lock = threading.Lock()

    def block(self, k: int) -> Any:
        with self._lock:
            if k in self._kept:
                self._kept.move_to_end(k)
                return self._kept[k]
        group = self._groups[k]
        arrow = import_arrow(group.file)
        try:
            # An object for each read: pyarrow does not promise that threads can share one. The footer is read once.
            with arrow.parquet.ParquetFile(group.file, metadata=self._metadata.get(group.file)) as file:
                self._metadata[group.file] = file.metadata
                images = file.read_row_group(group.number, columns=[self._column], use_threads=False).column(0)
        except (arrow.ArrowException, OSError) as error:
            raise ImageError(f'row group {group.number}: {" ".join(str(error).split())}') from error
        with self._lock:
            self._kept[k] = images
            while sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return images

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ('_kept', '_metadata', '_lock')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def load(
    path: Path,
    split: str,
    image_size: int,
    value_range: float = 0,
    channels: int = 0,
    image_key: str = '',
    label_key: str = '',
) -> RecordSource:
    """Opens one split of Parquet files.

    Args:
      path: a file, a folder, a pattern or a sequence in braces, see `files`.
      split: 'train', the evaluation split by any of its names, another split of the data, or 'all'.
      image_size, value_range: see `open_source`.
      channels: 1 for gray; 0 or 3: RGB.
      image_key, label_key: see `tables.find_columns`.

    Raises:
      UserError: the split or a column is not in the data.
      DataError: there are no such files, one of them cannot be read, or pyarrow is not installed.
      MissingSplitError: the data has no images for evaluation.
    """
    root, files, others = find_files(path, ENDING, 'Parquet files', {})
    splits, beside = by_split(path, files)
    parts = [_part(name, root, members, image_key, label_key) for name, members in splits.items()]
    return open_split(
        parts,
        split,
        path=path,
        image_size=image_size,
        value_range=value_range,
        channels=channels,
        skipped=others + beside,
        evaluation='files named test-*.parquet',
    )


def _part(name: str, root: Path, names: list[str], image_key: str, label_key: str) -> Part:
    files, groups, labels = [os.path.join(root, name) for name in names], list[Group](), list[np.ndarray]()
    arrow = import_arrow(files[0])
    columns = None
    for file in files:
        try:
            with arrow.parquet.ParquetFile(file) as opened:
                if columns is None:
                    columns = find_columns(opened.schema_arrow, image_key, label_key, f"'{file}'")
                meta = opened.metadata
                leaves = _leaves(meta, columns.image)
                for k in range(meta.num_row_groups):
                    row_group = meta.row_group(k)
                    size = sum(row_group.column(leaf).total_uncompressed_size for leaf in leaves)
                    groups.append(Group(file, k, row_group.num_rows, size))
                if columns.label:
                    read = opened.read(columns=[columns.label]).column(0)
                    labels.append(labels_of(read, columns.label, f"'{file}'"))
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"cannot read '{file}': {' '.join(str(error).split())} -> get the file again") from error
    assert columns is not None
    return Part(
        name,
        ParquetRecords(str(root), groups, columns.image),
        np.concatenate(labels) if labels else None,
        f'{len(files):,} Parquet file{"s" * (len(files) > 1)}, {columns}',
        classes=columns.classes,
        remarks=_remarks(groups),
    )


def _leaves(metadata: Any, column: str) -> list[int]:
    """The numbers of the stored columns that a column of the table consists of."""
    paths = [metadata.schema.column(j).path for j in range(metadata.num_columns)]
    return [j for j, path in enumerate(paths) if path == column or path.startswith(f'{column}.')]


def _remarks(groups: list[Group]) -> tuple[str, ...]:
    """A warning about row groups that are large, in data that does not fit into memory."""
    total, mean = sum(group.size for group in groups), np.mean([group.size for group in groups] or [0])
    if total <= KEPT_BYTES or mean <= SLOW_BYTES:
        return ()
    rows = round(sum(group.rows for group in groups) / len(groups))
    return (
        f'warning: each image takes reading a row group of {rows:,} images ({mean / 2**20:,.0f} MiB), because they are '
        f'{total / 2**30:,.1f} GiB, and {KEPT_BYTES / 2**30:g} GiB are kept in memory: save them with save_to_disk of '
        "the library datasets, for data.source 'huggingface', or write row groups of few images",
    )
