"""The file format of this library: a safetensors file of the arrays by path, with a description of the encoder."""

import dataclasses
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import files, names, pixels
from contrastive_jax.pretrained.assemble import arrays_by_path, assemble, few
from contrastive_jax.pretrained.dialects import DIALECTS
from contrastive_jax.pretrained.discover import dialect_of, discover
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.workdir.atomic import write_atomically

FORMAT = 'contrastive_jax encoder 1'
KEY = 'contrastive_jax'  # of the description, in a file with the names of another library
MAX_SIZE = 4096  # of images, in pixels


def save(path: str | Path, encoder: Encoder) -> None:
    """Writes the file; `pretrained.load` reads it.

    Args:
      path: the file; '.safetensors' is the usual suffix.
      encoder: as it was loaded, or for another image size.

    Raises:
      UserError: the file cannot be written, or `with_tokens` or `projected` changed the features.
    """
    encoder.check_savable()
    path = Path(path).expanduser()
    arrays = {
        name: np.asarray(x, order='C') for name, x in encoder.flat.items()
    }  # of views it would store other values
    try:
        write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata=description(encoder)))
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror} -> choose another file') from error


def description(encoder: Encoder) -> dict[str, str]:
    """What weights do not tell: the network, the size and normalization of its images, and where it comes from."""
    return {
        'format': FORMAT,
        'encoder': json.dumps(encoder.architecture),
        'image_size': str(encoder.image_size),
        'source': encoder.source,
        'pixels': json.dumps(pixels.fields(encoder.policy)),
    }


def beside_other_names(encoder: Encoder) -> dict[str, str]:
    """The metadata of a file with the names of another library: the description, which that library passes over."""
    return {KEY: json.dumps(description(encoder))}


def is_ours(source: files.Source) -> bool:
    """Whether the file has a description: `save` wrote it, `hub_folder.write`, or `export.write` for torch."""
    return source.metadata.get('format') == FORMAT or KEY in source.metadata


def load(path: Path, source: files.Source, trusted: str = '') -> Encoder:
    """Reads a file that has a description.

    Args:
      path: the file, for messages.
      source: the opened file.
      trusted: the name of an encoder, 'package.module:Class', whose module may be imported. The file alone must not
        decide which code runs.

    Raises:
      UserError: the description is missing or wrong, the arrays do not match it, or it would import a module.
    """
    described: Any = source.metadata
    try:
        if KEY in source.metadata:
            described = json.loads(source.metadata[KEY])
        architecture, image_size = json.loads(described['encoder']), int(described['image_size'])
        if not isinstance(architecture, dict) or 'name' not in architecture:
            raise ValueError('it names no encoder')
        given = json.loads(described['pixels'])
        policy = Policy(**{field: given[field] for field in pixels.FIELDS})
        if problems := policy.problems():
            raise ValueError('; '.join(problems))
        if not 1 <= image_size <= MAX_SIZE:
            raise ValueError(f'image_size is {image_size}')
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f'the description of the encoder in {path} is wrong: {error}') from error
    module, colon, _ = str(architecture['name']).partition(':')
    if colon and module not in sys.modules and architecture['name'] != trusted:
        raise UserError(
            f'the encoder in {path} is the class {architecture["name"]}, and a file must not decide which code runs -> '
            f'import {module} first, or give encoder={architecture["name"]}'
        )
    arrays = {name: source.array(leaf) for name, leaf in source.content.items()}
    if KEY in source.metadata:
        arrays = _by_our_paths(path, arrays, architecture)
    encoder = assemble(architecture, arrays, image_size, str(path), policy)
    return dataclasses.replace(encoder, source=described.get('source', encoder.source))


def _by_our_paths(path: Path, state: dict[str, np.ndarray], architecture: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a file that has the names of another library.

    Raises:
      UserError: the names are of no known library.
    """
    if not (places := discover(state)) or places[0].prefix:
        raise UserError(f'{path} does not have the names of timm or transformers: {few(list(state))}')
    dialect = DIALECTS[dialect_of(state, places[0])]
    unused = (f'*.{names.COUNTER}', *dialect.unused)
    kept = {name: x for name, x in state.items() if not any(fnmatchcase(name, pattern) for pattern in unused)}
    return arrays_by_path(architecture, dialect.rename(kept))[0]
