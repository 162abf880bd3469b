"""Writes files of PyTorch and Detectron2 without either library: the pickles are composed of their instructions."""

import pickle
import struct
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = 'archive'  # the folder in a zip file of torch.save
EXTRA = 'extra'  # the folder in it of texts beside the weights, as in files of torch.jit.save
EMPTY: Mapping[str, str] = types.MappingProxyType({})

STORAGES = {
    'float64': 'DoubleStorage', 'float32': 'FloatStorage', 'float16': 'HalfStorage', 'bfloat16': 'BFloat16Storage',
    'int64': 'LongStorage', 'int32': 'IntStorage', 'int16': 'ShortStorage', 'int8': 'CharStorage',
    'uint8': 'ByteStorage', 'bool': 'BoolStorage',
}  # fmt: skip

TORCH_START, BYTES_START = (pickle.PROTO + bytes([protocol]) for protocol in (2, 3))  # 2 cannot hold bytes as such
PERSISTENT, REDUCE, BUILD = pickle.BINPERSID, pickle.REDUCE, pickle.BUILD


def write_torch(path: Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str] = EMPTY) -> None:
    """Writes a state dict that `torch.load` can read, also with `weights_only=True`.

    Args:
      path: the file.
      state: the arrays by name.
      metadata: texts by name, in files of the archive that `torch.load` does not read.
    """
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        archive.writestr(f'{ROOT}/data.pkl', TORCH_START + state_dict(state) + pickle.STOP)
        archive.writestr(f'{ROOT}/byteorder', b'little')
        for key, array in enumerate(state.values()):
            archive.writestr(f'{ROOT}/data/{key}', np.ascontiguousarray(array).tobytes())
        for name, text in metadata.items():
            archive.writestr(f'{ROOT}/{EXTRA}/{name}', text.encode())
        archive.writestr(f'{ROOT}/version', b'3\n')


def write_detectron2(path: Path, state: Mapping[str, np.ndarray], author: str) -> None:
    """Writes {'model': numpy arrays, ...}, with names that both numpy 1 and numpy 2 know."""
    arrays = {name: _numpy_array(array) for name, array in state.items()}
    entries = {'model': _dict(arrays), '__author__': _constant(author), 'matching_heuristics': pickle.NEWTRUE}
    path.write_bytes(BYTES_START + _dict(entries) + pickle.STOP)


def state_dict(state: Mapping[str, np.ndarray], view: tuple[None, ...] = ()) -> bytes:
    """The instructions for an OrderedDict of tensors, whose numbers are the storages '0', '1', ... of the file.

    Args:
      state: the arrays by name.
      view: the end of a storage's description in files of torch before 1.6.
    """
    items = {name: _tensor(str(key), array, view) for key, (name, array) in enumerate(state.items())}
    return _ordered_dict() + _items(items)


def _tensor(key: str, array: np.ndarray, view: tuple[None, ...]) -> bytes:
    kind = _name('torch', STORAGES[array.dtype.name])
    storage = _tuple(_constant('storage'), kind, *map(_constant, (key, 'cpu', array.size, *view))) + PERSISTENT
    strides = tuple(stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides)
    sizes = (_tuple(*map(_constant, x)) for x in (array.shape, strides))
    arguments = _tuple(storage, _constant(0), *sizes, _constant(False), _ordered_dict())
    return _name('torch._utils', '_rebuild_tensor_v2') + arguments + REDUCE


def _numpy_array(array: np.ndarray) -> bytes:
    code = _tuple(*map(_constant, (array.dtype.str[1:], False, True)))
    order = _tuple(*map(_constant, (3, '<', None, None, None, -1, -1, 0)))
    dtype = _name('numpy', 'dtype') + code + REDUCE + order + BUILD
    empty = _tuple(_name('numpy', 'ndarray'), _tuple(_constant(0)), _constant(b'b'))
    numbers = _constant(np.ascontiguousarray(array).tobytes())
    state = _tuple(_constant(1), _tuple(*map(_constant, array.shape)), dtype, _constant(False), numbers)
    return _name('numpy.core.multiarray', '_reconstruct') + empty + REDUCE + state + BUILD


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b''.join(parts) + pickle.TUPLE


def _ordered_dict() -> bytes:
    return _name('collections', 'OrderedDict') + pickle.EMPTY_TUPLE + REDUCE


def _dict(items: Mapping[str, bytes]) -> bytes:
    return pickle.EMPTY_DICT + _items(items)


def _items(items: Mapping[str, bytes]) -> bytes:
    return pickle.MARK + b''.join(_constant(name) + value for name, value in items.items()) + pickle.SETITEMS


def _constant(value: Any) -> bytes:
    """The instructions for a str, bytes, int, bool or None."""
    if isinstance(value, bytes) and len(value) >= 2**32:
        raise ValueError('more than 4 GiB in one array')
    if isinstance(value, bytes):
        return pickle.BINBYTES + struct.pack('<I', len(value)) + value
    return pickle.dumps(value, protocol=3)[2:-1]  # without the instructions PROTO and STOP
