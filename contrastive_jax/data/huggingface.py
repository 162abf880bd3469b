"""Data sets that `save_to_disk` of the library `datasets` wrote: Arrow files, mapped into memory, read by pyarrow.

    path/dataset_dict.json, path/train/state.json, path/train/data-*.arrow, path/test/...    a DatasetDict: splits
    path/state.json, path/data-*.arrow                                                       a Dataset: without splits

`datasets` itself is not needed: the schema of an Arrow file has the types of the columns. The files that `load_dataset`
keeps in its own cache are not read, because the results of `map` and of other versions of the data lie beside them.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from contrastive_jax.data.encoded import RecordSource
from contrastive_jax.data.files import ending_of, other_source
from contrastive_jax.data.parts import Part, open_split
from contrastive_jax.data.tables import TableRecords, find_columns, import_arrow, labels_of
from contrastive_jax.data.tree import all_files
from contrastive_jax.errors import DataError

DICT, STATE = 'dataset_dict.json', 'state.json'
SAVE = "save it with save_to_disk('FOLDER') of the library datasets, and set data.path to that folder"


class ArrowRecords(TableRecords):
    """The images of one split.

    Args:
      files: Arrow files in the stream format, in their order.
      column: the column of the images.

    Raises:
      DataError: a file cannot be read.
    """

    def __init__(self, files: list[str], column: str):
        self._files, self._column = files, column
        chunks = self._chunks()
        self._blocks: list[Any] | None = [chunk for _, chunk in chunks]
        folder = os.path.dirname(files[0])
        super().__init__(folder, [os.path.basename(file) for file, _ in chunks], [len(chunk) for _, chunk in chunks])

    def block(self, k: int) -> Any:
        if self._blocks is None:  # in a worker process: what is mapped into memory is not sent there
            self._blocks = [chunk for _, chunk in self._chunks()]
        return self._blocks[k]

    def _chunks(self) -> list[tuple[str, Any]]:
        return [(file, chunk) for file in self._files for chunk in read_table(file).column(self._column).chunks]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_blocks': None}


def load(
    path: Path,
    split: str,
    image_size: int,
    value_range: float = 0,
    channels: int = 0,
    image_key: str = '',
    label_key: str = '',
) -> RecordSource:
    """Opens one split of a data set on disk.

    Args:
      path: the folder that `save_to_disk` wrote.
      split: 'train', the evaluation split by any of its names, another split of the data, or 'all'.
      image_size, value_range: see `open_source`.
      channels: 1 for gray; 0 or 3: RGB.
      image_key, label_key: see `tables.find_columns`.

    Raises:
      UserError: the split or a column is not in the data.
      DataError: this is no such folder, a file cannot be read, or pyarrow is not installed.
      MissingSplitError: the data has no images for evaluation.
    """
    if not path.is_dir():
        raise DataError(f"data.path '{path}' {'is a file' if path.exists() else 'does not exist'} -> {SAVE}")
    if (path / DICT).is_file():
        folders = {str(name): path / str(name) for name in _json(path / DICT, 'splits')}
    elif (path / STATE).is_file():
        folders = {'train': path}
    else:
        found = other_source(ending for ending in map(ending_of, all_files(path)[0]) if ending != '.arrow')
        raise DataError(f"'{path}' has neither {DICT} nor {STATE}{found} -> {SAVE}")
    parts = [_part(name, folder, image_key, label_key) for name, folder in folders.items()]
    return open_split(
        parts,
        split,
        path=path,
        image_size=image_size,
        value_range=value_range,
        channels=channels,
        evaluation='a split test',
    )


def read_table(file: str) -> Any:
    """The table of an Arrow file in the stream format, mapped into memory: a `pyarrow.Table`.

    Raises:
      DataError: it cannot be read.
    """
    arrow = import_arrow(file)
    try:
        with arrow.ipc.open_stream(arrow.memory_map(file)) as stream:
            return stream.read_all()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"cannot read '{file}': {' '.join(str(error).split())} -> save the data set again") from error


def _part(name: str, folder: Path, image_key: str, label_key: str) -> Part:
    if _json(folder / STATE, '_indices_data_files', default=()):
        raise DataError(f"'{folder}' refers to rows of other files, as old versions of datasets wrote it -> {SAVE}")
    files = [str(folder / str(file['filename'])) for file in _json(folder / STATE, '_data_files')]
    where = f"'{folder}'"
    tables = [read_table(file) for file in files]
    if not files:
        raise DataError(f'{where} has no Arrow files -> {SAVE}')
    columns = find_columns(tables[0].schema, image_key, label_key, where)
    labels = None
    if columns.label:
        labels = np.concatenate([labels_of(table.column(columns.label), columns.label, where) for table in tables])
    return Part(name, ArrowRecords(files, columns.image), labels, f'{columns}', classes=columns.classes)


def _json(file: Path, key: str, default: Any = None) -> Any:
    """A value of a JSON file.

    Raises:
      DataError: the file or the value is missing.
    """
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        return found[key] if default is None else found.get(key) or default
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read '{file}': {type(error).__name__} {error} -> {SAVE}") from error
