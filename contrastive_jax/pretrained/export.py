"""Writes an encoder for use elsewhere. The ending of what is written decides the format."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import (
    encoder_file,
    hub_folder,
    jax_export,
    onnx_files,
    pixels,
    state_dicts,
    torch_module,
    writers,
)
from contrastive_jax.pretrained.encoder import Encoder, Say
from contrastive_jax.workdir.atomic import write_atomically

FOLDER = '/'  # the ending of a folder
# The ending -> whose names the arrays may get, a key of WRITERS; the first one is the usual one.
SUFFIXES = {
    '.safetensors': ('ours', 'torch'),
    '.pth': ('torch',),
    '.pt': ('torch',),
    '.py': ('module',),
    '.pkl': ('detectron2',),
    '.onnx': ('onnx',),
    '.jaxexport': ('jax',),
    FOLDER: hub_folder.LIBRARIES,
}
NAMES = ('ours', 'torch', 'detectron2', *hub_folder.LIBRARIES)  # that a user may choose from


def names_for(path: str | Path, wanted: str = '') -> str:
    """Whose names the arrays get in what is written.

    Args:
      path: the file or the folder to be written.
      wanted: a value of NAMES; '': the usual one for the ending.

    Raises:
      UserError: an unknown ending, or one of files that cannot have these names; a library that is needed and not
        installed; a name of a file, or a folder, that cannot be used.
    """
    suffix, path = ending(path), Path(path)
    if suffix not in SUFFIXES:
        raise UserError(f'{path} ends in {suffix} -> choose from {", ".join(SUFFIXES)}, the last for a folder')
    legal = SUFFIXES[suffix]
    if wanted and wanted not in legal:
        files = 'a folder' if suffix == FOLDER else f'{suffix} files'
        raise UserError(f'names {wanted!r} cannot be written to {files} -> choose from {", ".join(legal)}')
    chosen = wanted or legal[0]
    if chosen in CHECKS:
        CHECKS[chosen](path)
    return chosen


def ending(path: str | Path) -> str:
    """The suffix of a file, or FOLDER: a path that has no suffix, ends in a slash, or is a folder."""
    is_folder = str(path).endswith((os.sep, '/')) or not Path(path).suffix or Path(path).is_dir()
    return FOLDER if is_folder else Path(path).suffix


def files_of(path: str | Path) -> list[Path]:
    """The files that are written for a path, or the folder."""
    path = Path(path)
    return [path, torch_module.weights_of(path)] if ending(path) == '.py' else [path]


def write(path: str | Path, encoder: Encoder, names: str = '', say: Say = lambda _: None) -> None:
    """Writes a file, or a folder: all of it or, if something fails, nothing.

    Args:
      path: what is written; its ending is a key of SUFFIXES, and a path without suffix is a folder.
      encoder: as it was loaded, or for another image size.
      names: whose names the arrays get, a value of NAMES; '': the usual one for the ending.
      say: is called with what a user of the result must know, line by line.

    Raises:
      UserError: it cannot be written, or there is no such network in that library.
    """
    path = os.path.expanduser(path)
    chosen, target = names_for(path, names), Path(path)
    encoder.check_savable()
    try:
        notes = WRITERS[chosen](target, encoder)
    except OSError as error:
        other = 'folder' if chosen in hub_folder.LIBRARIES else 'file'
        raise UserError(f'cannot write {path}: {error.strerror} -> choose another {other}') from error
    for note in notes:
        say(f'note: {note}')


def _ours(path: Path, encoder: Encoder) -> list[str]:
    encoder_file.save(path, encoder)
    return []


def _torch(path: Path, encoder: Encoder) -> list[str]:
    state, notes = state_dicts.torch_state(encoder)
    metadata = encoder_file.beside_other_names(encoder)
    if path.suffix == '.safetensors':
        arrays = {name: np.asarray(x, order='C') for name, x in state.items()}
        write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata={'format': 'pt', **metadata}))
    else:
        write_atomically(path, lambda temporary: writers.write_torch(temporary, state, metadata))
    return [*notes, f'input: {pixels.describe(encoder.policy)}']


def _detectron2(path: Path, encoder: Encoder) -> list[str]:
    state, notes = state_dicts.detectron2_state(encoder)
    write_atomically(path, lambda temporary: writers.write_detectron2(temporary, state, 'contrastive_jax'))
    return [*notes, f'input: {pixels.describe(encoder.policy)}']


# Whose names the arrays get -> the function that writes them and returns what a user must know.
WRITERS: dict[str, Callable[[Path, Encoder], list[str]]] = {
    'ours': _ours,
    'torch': _torch,
    'module': torch_module.write,
    'detectron2': _detectron2,
    'onnx': onnx_files.write,
    'jax': jax_export.write,
    **{library: partial(hub_folder.write, library=library) for library in hub_folder.LIBRARIES},
}
# What is checked before an encoder is read.
CHECKS: dict[str, Callable[[Path], None]] = {
    'onnx': onnx_files.check_installed,
    'module': torch_module.check_name,
    **dict.fromkeys(hub_folder.LIBRARIES, hub_folder.check_free),
}
