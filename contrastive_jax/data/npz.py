"""Images and labels in an `.npz` file, as `np.savez` writes it; or images alone in an `.npy` file.

An array is known by its name, in any case, made of a split and of what it holds, in any order. One of the characters
'_', '-', '.', '/' or ' ' may be between them:

  split    train, training; test, testing; val, valid, validation and the others of splits.py; without one: training
  images   images, image, imgs, img, x, data
  labels   labels, label, y, targets, target, classes

So train_images and train_labels, X_train and y_train, or images and labels. Labels are numbers, names or one-hot rows;
those that are not one class for each image are left out. Where a file has labels and no evaluation
split, 10 % of each class are held out as 'test', as in an image folder.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from contrastive_jax.data.hold_out import without_splits
from contrastive_jax.data.labels import classes_of
from contrastive_jax.data.sources import ArraySource, are_classes
from contrastive_jax.data.splits import NAMES, resolve_split
from contrastive_jax.errors import DataError
from contrastive_jax.rules import did_you_mean

IMAGES = ('images', 'image', 'imgs', 'img', 'x', 'data')
LABELS = ('labels', 'label', 'targets', 'target', 'classes', 'y')
EXAMPLES = 'train_images/train_labels/test_images/test_labels, x_train/y_train/x_test/y_test, or images/labels'

_SPLIT = '|'.join(name for names in NAMES.values() for name in sorted(names, key=len, reverse=True))
_WHAT = '|'.join((*IMAGES, *LABELS))
_NAME = re.compile(f'(?:(?P<split>{_SPLIT})[_./ -]?)?(?P<what>{_WHAT})|(?P<what2>{_WHAT})[_./ -]?(?P<split2>{_SPLIT})')


def load(path: Path, split: str = 'train', name: str = '', channels: int = 0, value_range: float = 0) -> ArraySource:
    """Reads one split of an `.npz` or `.npy` file. Pickled objects are refused, so no code in the file can run.

    Args:
      path: the file; the top of this module says how its arrays may be named. Labels are optional: integers, or names
        of classes (strings).
      split: 'train', the evaluation split by any of its names, or 'all'.
      name: the name in logs and messages; by default the name of the file.
      channels, value_range: see `ArraySource`.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: the file is missing or damaged, it lacks the split, or its arrays do not fit `ArraySource`.
    """
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        near = did_you_mean(path.name, (p.name for p in path.parent.glob('*.npz'))) if path.parent.is_dir() else ''
        raise DataError(
            f"data.path '{path}' {what}; an .npz file is needed{near} -> set data.path to a file that np.savez wrote, "
            f'with the arrays {EXAMPLES}'
        )
    try:
        file = np.load(path, allow_pickle=False)
        made = partial(ArraySource, name=name or path.stem, channels=channels, value_range=value_range)
        if isinstance(file, np.ndarray):
            return _read({'images': file}, path, split, made)
        with file:
            return _read(file, path, split, made)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason, remedy = ' '.join(str(error).split()), 'write it again with np.savez, as uint8 arrays'
        if 'allow_pickle' in reason:
            reason = 'an array holds Python objects, and pickled objects are refused'
            remedy = 'save images as uint8, and labels as labels.astype(int) or labels.astype(str)'
        raise DataError(f"cannot read '{path}': {reason} -> {remedy}") from error


def _read(file: Mapping[str, np.ndarray], path: Path, split: str, make: Callable[..., ArraySource]) -> ArraySource:
    images, labels, others = _roles(list(file))
    if not images:
        held = ', '.join(file) or 'nothing'
        raise DataError(f"'{path}' has no images: it holds {held} -> name the arrays {EXAMPLES}")
    if lone := sorted(labels.keys() - images.keys()):
        raise DataError(
            f"'{path}' has labels {', '.join(labels[x] for x in lone)} without images -> name the arrays {EXAMPLES}"
        )
    skipped = {f'array {other}': 1 for other in others}
    arrays = {kind: file[key] for kind, key in labels.items()}
    wrong = {labels[kind]: x for kind, x in arrays.items() if x.dtype.kind not in 'US' and not are_classes(x)}
    if wrong:  # training needs no labels
        skipped |= {
            f'array {key} ({x.dtype}{list(x.shape)}, not one class for each image)': 1 for key, x in wrong.items()
        }
        labels, arrays = {}, {}
    numbered, classes = classes_of(arrays)

    def source(kind: str, place: str = '') -> ArraySource:
        made = make(file[images[kind]], numbered.get(kind), classes=classes)
        made.place, made.skipped = place or f'{images[kind]}{f", {labels[kind]}" if kind in labels else ""}', skipped
        return made

    def of_rows(first: ArraySource, rows: np.ndarray, labels: np.ndarray | None, place: str) -> ArraySource:
        made = ArraySource(rows, labels, name=first.name, classes=classes, channels=first.channels)
        made.place, made.skipped, made.remarks = place, skipped, first.remarks
        return made

    if split == 'all':
        parts = [source(kind) for kind in images]
        if len({(part.dtype, part.channels) for part in parts}) > 1:
            kinds = ', '.join(f'{part.dtype} with {part.channels} channels' for part in parts)
            raise DataError(f"the splits of '{path}' differ: {kinds} -> store them alike, or choose one split")
        known = all(part.labels is not None for part in parts)
        return of_rows(
            parts[0],
            np.concatenate([part.array for part in parts]),
            np.concatenate([part.labels for part in parts]) if known else None,
            ', '.join(part.place for part in parts),
        )
    if 'train' not in images or len(images) > 1:
        return source(resolve_split(split, tuple(images), f"'{path}'", lambda kind: kind in labels))
    everything = source('train')
    evaluation = 'the arrays test_images and test_labels'
    rows, added = without_splits(everything.labels, len(everything), split, f"'{path}'", evaluation)
    if len(rows) == len(everything):
        return everything
    some = None if everything.labels is None else everything.labels[rows]
    return of_rows(everything, everything.array[rows], some, f'{everything.place}{", " * bool(added)}{added}')


def _roles(names: list[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """The arrays of images and of labels by their split, and the arrays that are neither.

    Raises:
      DataError: two arrays have the same role.
    """
    images, labels, others = dict[str, str](), dict[str, str](), list[str]()
    for name in names:
        found = _NAME.fullmatch(name.lower())
        if found is None:
            others.append(name)
            continue
        given = found['split'] or found['split2'] or 'train'
        kind = next(kind for kind, spellings in NAMES.items() if given in spellings)
        role = images if (found['what'] or found['what2']) in IMAGES else labels
        if kind in role:
            raise DataError(f'the arrays {role[kind]} and {name} have the same role -> leave one of them out')
        role[kind] = name
    return images, labels, others
