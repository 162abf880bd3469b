"""Images and labels in an `.npz` file, as `np.savez` writes it."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from contrastive_jax.data.sources import ArraySource, resolve_split
from contrastive_jax.errors import DataError, MissingSplitError
from contrastive_jax.rules import did_you_mean

# Names of the arrays of images and labels, for each split; the first pair that the file has is read.
_KEYS = {
    'train': (('train_images', 'train_labels'), ('x_train', 'y_train'), ('images', 'labels')),
    'test': (('test_images', 'test_labels'), ('x_test', 'y_test')),
}
_NAMES = 'train_images/train_labels/test_images/test_labels, x_train/y_train/x_test/y_test, or images/labels'


def load(path: Path, split: str = 'train', name: str = '') -> ArraySource:
    """Reads one split of an `.npz` file. Pickled objects are refused, so no code in the file can run.

    Args:
      path: the file. Its arrays are named `train_images`, `train_labels`, `test_images` and `test_labels`; or
        `x_train`, `y_train`, `x_test` and `y_test`; or `images` and `labels`, which are the training split. Labels are
        optional.
      split: 'train', or the evaluation split by any of its names.
      name: the name in logs and messages; by default the name of the file.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: the file is missing or damaged, it lacks the split, or its arrays do not fit `ArraySource`.
    """
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        near = did_you_mean(path.name, (p.name for p in path.parent.glob('*.npz'))) if path.parent.is_dir() else ''
        raise DataError(
            f"data.path '{path}' {what}; an .npz file is needed{near} -> set data.path to a file that np.savez wrote, "
            f'with the arrays {_NAMES}'
        )
    split = resolve_split(split, tuple(_KEYS), str(path))
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"'{path}' has one array without a name -> save it as np.savez(path, images=x, labels=y)")
        with file:
            for images, labels in _KEYS[split]:
                if images in file:
                    return ArraySource(file[images], file.get(labels), name=name or path.stem)
            present = ', '.join(file.files) or 'nothing'
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        pickled = 'allow_pickle' in str(error)
        reason = 'no plain arrays (pickled objects are refused)' if pickled else ' '.join(str(error).split())
        raise DataError(f"cannot read '{path}': {reason} -> write it again with np.savez, as uint8 arrays") from error
    raise MissingSplitError(f"'{path}' has no split {split!r}: it holds {present} -> name the arrays {_NAMES}")
