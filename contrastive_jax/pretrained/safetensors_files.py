"""Reads safetensors files, also with 8-bit floating-point numbers, which the library reads for torch only."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from contrastive_jax.errors import UserError

# The names of dtypes that numpy itself does not know.
NARROW = {
    'BF16': ml_dtypes.bfloat16, 'F8_E4M3': ml_dtypes.float8_e4m3fn, 'F8_E5M2': ml_dtypes.float8_e5m2,
    'F8_E4M3FNUZ': ml_dtypes.float8_e4m3fnuz, 'F8_E5M2FNUZ': ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, str], Callable[[str], np.ndarray], Mapping[str, str]]:
    """Opens a file; the library checks its header.

    Returns:
      The names, a function that reads the array of a name, and the metadata.

    Raises:
      UserError: the file is damaged.
    """
    try:
        file = safe_open(path, framework='numpy')
        names = {name: name for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise UserError(f'it is damaged: {error}') from error

    def array(name: str) -> np.ndarray:
        kind = file.get_slice(name).get_dtype()
        if kind in NARROW:
            return _narrow(path, name, np.dtype(NARROW[kind]))
        try:
            return file.get_tensor(name)
        except (SafetensorError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f'it contains an array of dtype {kind}, which is not supported') from error

    return names, array, metadata


def _narrow(path: Path, name: str, dtype: np.dtype) -> np.ndarray:
    """Reads an array by the offsets in the header, which follows its length in 8 bytes."""
    with path.open('rb') as file:
        (length,) = struct.unpack('<Q', file.read(8))
        entry = json.loads(file.read(length))[name]
        first, last = entry['data_offsets']
        file.seek(8 + length + first)
        return np.frombuffer(file.read(last - first), dtype).reshape(entry['shape'])
