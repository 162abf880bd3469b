"""Folders of image files, with labels from the names of class folders or without labels.

  path/train/<class>/*.jpg and path/val/<class>/*.jpg   splits; the evaluation one may be named test, validation or val
  path/<class>/*.jpg                                    one split; labelled data holds out 10 % of each class as 'test'
  path/*.jpg, path/train/*.jpg, path/<one folder>/*.jpg  unlabelled

Below a class folder every level is searched. Files are recognised by extension, in any case; hidden files and folders
are skipped, links followed. Everything is ordered by the bytes of the names, so order and labels are the same anywhere.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from absl import logging

from contrastive_jax.data import images
from contrastive_jax.data.sources import EVALUATION_SPLITS, Source, resolve_split
from contrastive_jax.errors import DataError

# A crop holds at least 5 % of the area, 0.22 of the side, so from four times the size no crop is ever magnified.
DRAFT_FACTOR = 4


class FolderSource(Source):
    """Image files, decoded one by one.

    Args:
      root: the folder.
      files: paths below the root.
      labels: int32 [n], or None.
      classes: names of the labels.
      name: for messages.
      image_size: the largest crop to be cut, in pixels; much larger JPEGs are decoded at a reduced size.
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
        return images.decode(self.file_name(i), min_side=DRAFT_FACTOR * self._image_size)

    def file_name(self, i: int) -> str:
        return os.path.join(self.root, self._files[i])

    def rows(self, chosen: np.ndarray) -> 'FolderSource':
        """The part of this source that consists of these examples, in this order."""
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
    """Opens a split of an image folder, of any of the forms at the top of this file.

    Args:
      path: the folder.
      split: 'train', or the evaluation split by any of its names. Without a folder of its own, labelled data holds out
        every class's share of 10 %, at least one image, spread evenly over its sorted files; 'train' then lacks these.
      image_size: see FolderSource.
      name: for messages; by default the name of the folder.

    Raises:
      UserError: no split goes by that name.
      DataError: there is no such folder, no image in it, or no such split.
    """
    name = name or path.name
    folders = _subfolders(path)
    if 'train' not in folders:
        return _hold_out(_scan(path, folders, name, image_size), split)
    available = ['train', *(s for s in EVALUATION_SPLITS if s in folders)]
    if available == ['train']:
        return _hold_out(_scan(path / 'train', _subfolders(path / 'train'), name, image_size), split)
    # The training split numbers the classes for both.
    classes = _subfolders(path / 'train')
    split = resolve_split(split, available, f"'{path}'")
    strangers = sorted(set(_subfolders(path / split)) - set(classes)) if classes and split != 'train' else []
    if strangers:
        raise DataError(
            f"'{path / split}' has classes that '{path / 'train'}' lacks: {', '.join(strangers[:5])} -> "
            'give both the same class folders'
        )
    return _scan(path / split, classes or _subfolders(path / split), name, image_size)


def _subfolders(path: Path) -> list[str]:
    """Visible folders in a folder, sorted by the bytes of their names."""
    if not path.is_dir():
        what = 'is a file' if path.exists() else 'does not exist'
        raise DataError(
            f"data.path '{path}' {what}; looked for a folder of images ({_extensions()}) -> set --config.data.path to "
            'a folder with train/<class>/ and val/<class>/, with <class>/, or with unlabelled images'
        )
    try:
        with os.scandir(path) as entries:
            return sorted((e.name for e in entries if e.name[0] != '.' and e.is_dir()), key=os.fsencode)
    except OSError as error:
        raise DataError(f"cannot list '{path}': {error.strerror} -> check its permissions") from error


def _scan(path: Path, classes: list[str], name: str, image_size: int) -> FolderSource:
    """Every image below a folder, labelled by class folder if there are several."""
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
    labelled = len(set(labels)) > 1
    if labelled and loose:
        logging.warning("%d images lie directly in '%s', in no class folder, and are left out", len(loose), path)
    if not labelled:
        # One folder tells nothing apart: these are not labels.
        files = sorted(files + loose, key=os.fsencode)
    if not files:
        raise DataError(
            f"no images in '{path}': {others} other files seen, none ends in {_extensions()} -> "
            'point --config.data.path to the images'
        )
    if not labelled:
        return FolderSource(path, files, None, None, name=name, image_size=image_size)
    return FolderSource(path, files, np.array(labels, np.int32), tuple(classes), name=name, image_size=image_size)


def _images_below(root: Path, start: str, recursive: bool = True) -> tuple[list[str], int]:
    """Image files below root/start, relative to root and sorted by bytes; and how many other files there are."""
    found: list[str] = []
    others = 0
    pending = [(start, frozenset[str]())]
    while pending:
        relative, above = pending.pop()
        folder = os.path.join(root, relative)
        real = os.path.realpath(folder)
        if real in above:  # a link to a folder that holds it
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
    """The training or evaluation part of data that comes as one."""
    where = f"'{everything.root}'"
    if everything.labels is None:
        resolve_split(split, ('train',), f'{where} (unlabelled, without a folder for evaluation)')
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
