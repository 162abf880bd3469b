"""Tables of Arrow and Parquet files: which columns hold images and labels, and access to single images.

A column holds images if its type is `Image` of the library `datasets`: encoded images, or paths of files. Without the
types of that library, a column of bytes, or one of structs with a field `bytes`, does.
"""

import abc
import json
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.data.encoded import Records
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.npz import IMAGES, LABELS
from contrastive_jax.data.sources import DataSetupError
from contrastive_jax.errors import UserError

INSTALL = "pip install 'contrastive_jax[arrow]', or pip install pyarrow"


class Columns(NamedTuple):
    """The columns that are read.

    Attributes:
      image: the column of the images.
      label: the column of the labels; '' if there is none.
      classes: the names of the classes, indexed by label, where they are stored.
    """

    image: str
    label: str
    classes: tuple[str, ...] | None

    def __str__(self) -> str:
        return f'columns {self.image} and {self.label}' if self.label else f'column {self.image}'


def import_arrow(path: str | os.PathLike[str]) -> ModuleType:
    """The module pyarrow, with its parts `ipc` and `parquet`.

    Args:
      path: the data, for messages.

    Raises:
      DataError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise DataSetupError(f"reading '{path}' needs pyarrow ({error}) -> {INSTALL}") from error
    return pyarrow


def find_columns(schema: Any, image_key: str, label_key: str, where: str) -> Columns:
    """The columns that hold images and labels.

    Args:
      schema: a `pyarrow.Schema`.
      image_key, label_key: the columns that the config names; '': they are found.
      where: the data, for messages.

    Raises:
      UserError: a named column is missing, or there are no images, or it is not clear which column is meant.
    """
    for field, key in (('data.image_key', image_key), ('data.label_key', label_key)):
        if key and key not in schema.names:
            raise UserError(
                f'{where} has no column {key!r}', field=field, remedy=f'choose from {", ".join(schema.names)}'
            )
    features = _features(schema)
    image = image_key or _only(_image_columns(schema, features), IMAGES, where, 'images', 'data.image_key')
    if not image:
        raise UserError(
            f'{where} has no column of encoded images: {_listed(schema)}',
            remedy='set data.image_key to the column, or write JPEG or PNG files to a column of bytes',
        )
    named = [
        name for name, feature in features.items() if feature.get('_type') == 'ClassLabel' and name in schema.names
    ]
    typed = [
        name for name in schema.names if name.lower() in LABELS and name != image and _is_label(schema.field(name).type)
    ]
    label = label_key or _only(named or typed, LABELS, where, 'labels', 'data.label_key')
    names = features.get(label, {}).get('names') if label else None
    return Columns(image, label, tuple(map(str, names)) if names else None)


def labels_of(column: Any, label: str, where: str) -> np.ndarray:
    """A column of labels: int64 [n] with -1 for null, or str [n] with '' for null.

    Args:
      column: a `pyarrow.ChunkedArray`.
      label: its name.
      where: the data, for messages.

    Raises:
      UserError: its values are neither numbers nor texts.
    """
    values = column.to_pylist()
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {str}:
        return np.array(['' if value is None else value for value in values], dtype=str)
    if kinds <= {int, bool}:
        return np.array([-1 if value is None else int(value) for value in values], np.int64)
    if kinds <= {int, bool, float}:
        return np.array([np.nan if value is None else float(value) for value in values])
    raise UserError(
        f'{where}: column {label!r} is {column.type}, not one class for each image',
        field='data.label_key',
        remedy='set data.label_key to a column of whole numbers or names',
    )


class TableRecords(Records):
    """Images in a column of tables that are read block by block.

    Args:
      root: the folder of the data, which relative paths of images start from.
      files: the file of each block, relative to it.
      counts: the number of images in each block.
    """

    def __init__(self, root: str, files: Sequence[str], counts: Sequence[int]):
        self._root, self._block_files = root, files
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))])

    @abc.abstractmethod
    def block(self, k: int) -> Any:
        """The images of a block, a `pyarrow.Array` or `ChunkedArray`. Raises ImageError if it cannot be read."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def encoded(self, i: int) -> str | bytes:
        k, row = self._find(i)
        value = self.block(k)[row].as_py()
        path = value.get('path') if isinstance(value, dict) else value if isinstance(value, str) else None
        content = value.get('bytes') if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        if not isinstance(path, str):
            raise ImageError('neither bytes nor a path is stored')
        if '://' in path:
            raise ImageError(f'{path} is not a local path')
        return os.path.join(self._root, path)

    def file_name(self, i: int) -> str:
        k, row = self._find(i)
        file = self._block_files[k]
        first = next(j for j in range(k, -1, -1) if j == 0 or self._block_files[j - 1] != file)
        return f'{os.path.join(self._root, file)}[{self._starts[k] - self._starts[first] + row}]'

    def layout(self) -> bytes:
        return self._starts.tobytes()

    def _find(self, i: int) -> tuple[int, int]:
        k = int(np.searchsorted(self._starts, i, side='right')) - 1
        return k, i - int(self._starts[k])


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The types that `datasets` notes in a schema, by column; {} without them."""
    try:
        noted = json.loads((schema.metadata or {})[b'huggingface'])['info']['features']
        return {name: feature for name, feature in noted.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _image_columns(schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    typed = [name for name in schema.names if features.get(name, {}).get('_type') == 'Image']
    return typed or [field.name for field in schema if _is_bytes(field.type) or _has_bytes(field.type)]


def _is_bytes(kind: Any) -> bool:
    return str(kind) in ('binary', 'large_binary', 'binary_view')


def _has_bytes(kind: Any) -> bool:
    fields = [kind.field(k) for k in range(kind.num_fields)]
    # Of data that only has paths, the type of the bytes is null.
    return any(field.name == 'bytes' and (_is_bytes(field.type) or str(field.type) == 'null') for field in fields)


def _is_label(kind: Any) -> bool:
    """Whether a type is one of numbers or texts."""
    text = str(kind)
    return text.startswith(
        ('int', 'uint', 'bool', 'string', 'large_string', 'dictionary', 'float', 'double', 'halffloat')
    )


def _only(candidates: list[str], usual: Sequence[str], where: str, what: str, field: str) -> str:
    """The one column, or the one of several that has a usual name; '' if there is none."""
    named = [name for name in candidates if name.lower() in usual]
    chosen = candidates if len(candidates) == 1 else named
    if len(chosen) == 1:
        return chosen[0]
    if candidates:
        raise UserError(
            f'{where} has {len(candidates)} columns of {what}: {", ".join(candidates)}',
            field=field,
            remedy=f'set {field} to one of them',
            value=candidates[0],
        )
    return ''


def _listed(schema: Any) -> str:
    return ', '.join(f'{field.name} ({str(field.type)[:40]})' for field in schema)
