"""Folders of image files, with labels from the names of class folders or without labels.

  path/train/<class>/*.jpg and path/val/<class>/*.jpg    two splits; the second is named test, validation or val
  path/<class>/*.jpg                                     labeled; 10 % of each class are held out as 'test'
  path/*.jpg, path/train/*.jpg, path/<one folder>/*.jpg  unlabeled

Class folders are searched at every depth. Image files are known by their extension, in upper or lower case; hidden
files and folders are skipped, links are followed. Files and classes are sorted by the bytes of their names, so their
order, and with it the labels, is the same on every machine.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from absl import logging

from contrastive_jax.data import images
from contrastive_jax.data.sources import EVALUATION_SPLITS, Source, resolve_split
from contrastive_jax.errors import DataError


class FolderSource(Source):
    """Image files in a folder, decoded one by one.

    Args:
      root: the folder.
      files: [n] paths relative to `root`.
      labels: int32 [n], or None.
      classes: the names of the classes, indexed by label, or None.
      name: the name in logs and messages.
      image_size: height and width of the largest crop, in pixels; much larger JPEGs are decoded at a reduced size.
    """

    def __init__(
        self,
        root: Path,
        files: list[str],
        labels: np.ndarray | None,
        classes: tuple[str, ...] | None,
        *,
        name: str = 'folder',
        image_size: int = 224,
    ):
        self.name = name
        self.classes = classes
        self.root = root
        self._files = files
        self._labels = labels
        self._image_size = image_size

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def __len__(self) -> int:
        return len(self._files)

    def image(self, i: int) -> np.ndarray:
        return images.decode(self.file_name(i), min_side=images.DRAFT_FACTOR * self._image_size)

    def file_name(self, i: int) -> str:
        return os.path.join(self.root, self._files[i])

    def rows(self, chosen: np.ndarray) -> 'FolderSource':
        """A source of only these examples, int [m], in this order."""
        files = [self._files[i] for i in chosen]
        labels = None if self._labels is None else self._labels[chosen]
        return FolderSource(self.root, files, labels, self.classes, name=self.name, image_size=self._image_size)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(os.fsencode(file) + b'\0')
        return digest.hexdigest()[:16]


def load(path: Path, split: str = 'train', image_size: int = 224, name: str = '') -> FolderSource:
    """Opens one split of an image folder in any of the layouts at the top of this file.

    Args:
      path: the folder.
      split: 'train', or the evaluation split by any of its names. If labeled data has no folder for evaluation, 10 % of
        each class, at least one image, are held out from 'train', evenly spaced among its sorted files.
      image_size: see `FolderSource`.
      name: the name in logs and messages; by default the name of the folder.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: the folder does not exist, has no image, or lacks the split.
    """
    name = name or path.name
    folders = _subfolders(path)
    if 'train' not in folders:
        return _hold_out(_scan(path, folders, name, image_size), split)
    available = ['train', *(s for s in EVALUATION_SPLITS if s in folders)]
    if available == ['train']:
        return _hold_out(_scan(path / 'train', _subfolders(path / 'train'), name, image_size), split)
    # Labels are indices into the classes of the training split, in both splits.
    classes = _subfolders(path / 'train')
    split = resolve_split(split, available, f"'{path}'")
    unseen = sorted(set(_subfolders(path / split)) - set(classes)) if classes and split != 'train' else []
    if unseen:
        raise DataError(
            f"'{path / split}' has classes that '{path / 'train'}' lacks: {', '.join(unseen[:5])} -> "
            'give both the same class folders'
        )
    return _scan(path / split, classes or _subfolders(path / split), name, image_size)


def _subfolders(path: Path) -> list[str]:
    """The names of the subfolders that are not hidden, sorted by their bytes."""
    if not path.is_dir():
        what = 'is a file' if path.exists() else 'does not exist'
        raise DataError(
            f"data.path '{path}' {what}; a folder of images ({_extensions()}) is needed -> set data.path to a folder "
            'with train/<class>/ and val/<class>/, with <class>/, or with unlabeled images'
        )
    try:
        with os.scandir(path) as entries:
            return sorted((e.name for e in entries if e.name[0] != '.' and e.is_dir()), key=os.fsencode)
    except OSError as error:
        raise DataError(f"cannot list '{path}': {error.strerror} -> check its permissions") from error


def _scan(path: Path, classes: list[str], name: str, image_size: int) -> FolderSource:
    """All images below a folder, labeled by class folder if more than one class folder has images."""
    files: list[str] = []
    labels: list[int] = []
    others = 0
    for label, subfolder in enumerate(classes):
        if (path / subfolder).is_dir():
            found, ignored = _images_below(path, subfolder)
            files += found
            labels += [label] * len(found)
            others += ignored
    loose, ignored = _images_below(path, '', recursive=False)
    others += ignored
    labeled = len(set(labels)) > 1
    if labeled and loose:
        logging.warning("%d images directly in '%s' are skipped because they are in no class folder", len(loose), path)
    if not labeled:
        # With one folder all labels would be equal, so the images count as unlabeled.
        files = sorted(files + loose, key=os.fsencode)
    if not files:
        raise DataError(
            f"no images in '{path}': it has {others} other files, none ends in {_extensions()} -> "
            'set data.path to the folder with the images'
        )
    if not labeled:
        return FolderSource(path, files, None, None, name=name, image_size=image_size)
    return FolderSource(path, files, np.array(labels, np.int32), tuple(classes), name=name, image_size=image_size)


def _images_below(root: Path, start: str, recursive: bool = True) -> tuple[list[str], int]:
    """The image files below root/start, relative to root and sorted by bytes; and the number of other files."""
    found: list[str] = []
    others = 0
    pending = [(start, frozenset[str]())]
    while pending:
        relative, above = pending.pop()
        folder = os.path.join(root, relative)
        real = os.path.realpath(folder)
        if real in above:  # a link to one of its own parent folders
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith('.'):
                        continue
                    if entry.is_dir():
                        if recursive:
                            pending.append((os.path.join(relative, entry.name), above | {real}))
                    elif entry.name.lower().endswith(images.EXTENSIONS):
                        found.append(os.path.join(relative, entry.name))
                    else:
                        others += 1
        except OSError as error:
            raise DataError(f"cannot list '{folder}': {error.strerror} -> check its permissions") from error
    return sorted(found, key=os.fsencode), others


def _hold_out(everything: FolderSource, split: str) -> FolderSource:
    """The training or the held-out part of data that has no folder for evaluation."""
    where = f"'{everything.root}'"
    if everything.labels is None:
        resolve_split(split, ('train',), f'{where} (unlabeled, without a folder for evaluation)')
        return everything
    split = resolve_split(split, ('train', 'test'), where)
    held = np.zeros(len(everything), bool)
    for label in range(len(everything.classes or ())):
        rows = np.flatnonzero(everything.labels == label)
        if len(rows) > 1:
            count = max(1, round(len(rows) / 10))
            held[rows[((np.arange(count) + 0.5) * len(rows) / count).astype(int)]] = True
    return everything.rows(np.flatnonzero(held == (split == 'test')))


def _extensions() -> str:
    return ', '.join(images.EXTENSIONS)
