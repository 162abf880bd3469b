"""Reads TensorFlow's checkpoints, `model.ckpt-225206.index` and `.data-00000-of-00001`, with TensorFlow.

TensorFlow is imported only here and only when such a file is opened; it need not be installed otherwise.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from contrastive_jax.errors import UserError

PARTS = re.compile(r'\.(index|meta|data-\d{5}-of-\d{5})$')
INSTALL = 'pip install tensorflow'
OBJECTS = '.ATTRIBUTES/VARIABLE_VALUE'  # the end of each name in a checkpoint of TensorFlow 2


def find(path: Path) -> Path | None:
    """The prefix that TensorFlow uses for a checkpoint, such as '.../model.ckpt-225206'.

    Args:
      path: the prefix itself, one of the files of the checkpoint, or the folder that contains them.

    Returns:
      The prefix; None if the path is not a checkpoint of TensorFlow.

    Raises:
      UserError: a folder with several checkpoints, or with a SavedModel, which does not hold their names.
    """
    if path.is_dir():
        found = sorted(path.glob('*.index'))
        if len(found) > 1:
            raise UserError(
                f'{path} contains {len(found)} checkpoints of TensorFlow -> give one of them, e.g. {found[-1]}'
            )
        if not found and (path / 'saved_model.pb').exists():
            raise UserError(
                f'{path} is a SavedModel of TensorFlow, which cannot be read -> give the checkpoint of TensorFlow 1 '
                'that is published with it, model.ckpt-....index'
            )
        return found[0].with_suffix('') if found else None
    if PARTS.search(path.name):
        return path.with_name(PARTS.sub('', path.name))
    return path if path.with_name(f'{path.name}.index').is_file() else None


def read(checkpoint: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Opens a checkpoint.

    Args:
      checkpoint: the prefix that `find` returns.

    Returns:
      The names of the arrays, and a function that reads an array by its name.

    Raises:
      UserError: TensorFlow is not installed, or the checkpoint is damaged or not of TensorFlow 1.
    """
    index = checkpoint.with_name(f'{checkpoint.name}.index')
    if not index.is_file():
        raise UserError(f'{index.name} is missing beside it -> give a complete checkpoint of TensorFlow')
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(f'it is a checkpoint of TensorFlow, which is not installed ({error}) -> {INSTALL}') from error
    try:
        reader = tensorflow.train.load_checkpoint(str(checkpoint))
        names = sorted(reader.get_variable_to_shape_map())
    except Exception as error:  # TensorFlow raises many kinds for a damaged file
        raise UserError(f'it is damaged: {_short(error)}') from error
    if any(name.endswith(OBJECTS) for name in names):
        raise UserError(
            'its names are those of TensorFlow 2 -> give the checkpoint of TensorFlow 1, model.ckpt-....index'
        )

    def array(name: str) -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(name))
        except Exception as error:
            raise UserError(f'it is damaged: {_short(error)}') from error

    return names, array


def _short(error: Exception) -> str:
    return ' '.join(str(error).split())[:200]
