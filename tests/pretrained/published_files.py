"""Writes files in exactly the formats of published checkpoints, without PyTorch."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contrastive_jax.pretrained import writers


def content(sections: Mapping[str, Any], view: tuple[None, ...] = ()) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of a checkpoint {'epoch': 200, 'state_dict': {...}} or of a state dict, and its arrays in order.

    Args:
      sections: the values are state dicts, plain Python values, or bytes: the instructions of a pickle.
      view: the end of a storage's description, (None,) before torch 1.6.
    """
    if _is_state(sections):
        return pickle.PROTO + b'\x02' + writers.state_dict(sections, view) + b'.', list(sections.values())
    body, arrays = b'', []
    for name, value in sections.items():
        body += _spelled(name)
        if _is_state(value):
            items = {key: (str(i), x) for i, (key, x) in enumerate(value.items(), start=len(arrays))}
            body += writers._ordered_dict()
            body += writers._items({key: writers._tensor(i, x, view) for key, (i, x) in items.items()})
            arrays += list(value.values())
        else:
            body += value if isinstance(value, bytes) else _spelled(value)
    return pickle.PROTO + b'\x02}(' + body + b'u.', arrays


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(x, np.ndarray) for x in value.values())


def _spelled(value: Any) -> bytes:
    """The instructions for a value, without PROTO and STOP and without a memo, which would clash with other values."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 2)
    pickler.fast = True
    pickler.dump(value)
    return out.getvalue()[2:-1]


def write_zip(path: Path, program: bytes, arrays: list[np.ndarray] = [], **members: bytes) -> Path:  # noqa: B006
    """Writes a file as torch.save does since 1.6."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', program)
        for key, array in enumerate(arrays):
            archive.writestr(f'archive/data/{key}', np.ascontiguousarray(array).tobytes())
        for name, held in {'version': b'3\n', **members}.items():
            archive.writestr(f'archive/{name}', held)
    return path


def write_legacy(path: Path, program: bytes, arrays: list[np.ndarray] = []) -> Path:  # noqa: B006
    """Writes a file as torch.save did before 1.6."""
    sizes = {'short': 2, 'int': 4, 'long': 4}
    machine = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': sizes}
    out = io.BytesIO()
    for x in (0x1950A86A20F9469CFC6C, 1001, machine):
        out.write(pickle.dumps(x, 2))
    out.write(program)
    out.write(pickle.dumps([str(key) for key in range(len(arrays))], 2))
    for array in arrays:
        out.write(struct.pack('<q', array.size) + np.ascontiguousarray(array).tobytes())
    path.write_bytes(out.getvalue())
    return path


def write(path: Path, sections: Mapping[str, Any], legacy: bool = False) -> Path:
    return (write_legacy if legacy else write_zip)(path, *content(sections, (None,) if legacy else ()))


def prefixed(prefix: str, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: x for name, x in state.items()}


# ================================ BYOL ================================


def write_byol(path: Path, state: Mapping[str, Any], mapping: str = 'FlatMapping') -> Path:
    """Writes a file like BYOL's `checkpointing.py`, in protocol 2: dill's named tuples, mappings and arrays.

    Args:
      path: the file.
      state: {'online_params': {module: {leaf: array}}, ..., 'opt_state': ...}.
      mapping: the name of Haiku's immutable mapping, which changed over time.
    """
    trees = {name: _haiku(tree, mapping) for name, tree in state.items() if name != 'opt_state'}
    momentum = _named_tuple('LarsState', 'byol.utils.optimizers', {'momentum': trees['online_params']})
    experiment = _named_tuple('_ByolExperimentState', 'byol.byol_experiment', {**trees, 'opt_state': momentum})
    step, rng = np.array(500_000, np.int32), np.array([0, 42], np.uint32)
    entries = {'experiment_state': experiment, 'step': _dill_array(step), 'rng': _jax_array(rng)}
    path.write_bytes(pickle.PROTO + b'\x02' + writers._dict(entries) + pickle.STOP)
    return path


def _named_tuple(name: str, module: str, fields: Mapping[str, bytes]) -> bytes:
    arguments = (_spelled(name), writers._tuple(*map(_spelled, fields)), _spelled(module))
    cls = writers._name('dill._dill', '_create_namedtuple') + writers._tuple(*arguments) + pickle.REDUCE
    return cls + writers._tuple(*fields.values()) + pickle.NEWOBJ


def _haiku(tree: Mapping[str, Mapping[str, np.ndarray]], mapping: str) -> bytes:
    def made(items: Mapping[str, bytes]) -> bytes:
        return writers._name('haiku._src.data_structures', mapping) + writers._tuple(writers._dict(items)) + b'R'

    return made({name: made({leaf: _dill_array(x) for leaf, x in leaves.items()}) for name, leaves in tree.items()})


def _dill_array(x: np.ndarray) -> bytes:
    return writers._name('dill._dill', '_create_array') + writers._tuple(*_reduced(x), pickle.NONE) + pickle.REDUCE


def _jax_array(x: np.ndarray) -> bytes:
    aval = _spelled({'weak_type': False})
    return writers._name('jax._src.array', '_reconstruct_array') + writers._tuple(*_reduced(x), aval) + pickle.REDUCE


def _reduced(x: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """numpy's function, its arguments and the state, as in `x.__reduce__()`."""
    _, arguments, state = x.__reduce__()
    return writers._name('numpy.core.multiarray', '_reconstruct'), _spelled(arguments), _spelled(state)
