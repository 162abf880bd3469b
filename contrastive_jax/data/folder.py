"""Folders of image files, with labels from the names of class folders or without labels.

  path/train/<class>/*.jpg and path/val/<class>/*.jpg    splits, by the names in splits.py, in any case
  path/<class>/*.jpg                                     labeled; 10 % of each class are held out as 'test'
  path/*.jpg, path/train/*.jpg, path/<one folder>/*.jpg  unlabeled

Subfolders are splits if one of them is called train (or training) and either another one has the name of a split, too,
or no other one holds images. Otherwise all subfolders are classes, also one that is called train. Class folders are
searched at every depth. Image files are known by their extension, in upper or lower case; hidden files and folders are
skipped. Links are followed, but no folder or file is counted twice because of a link. Files and classes are sorted by
the bytes of their names, so their order, and with it the labels, is the same on every machine.
"""

import collections
import copy
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from contrastive_jax.data import images
from contrastive_jax.data.sources import Source
from contrastive_jax.data.splits import resolve_split, split_kind
from contrastive_jax.errors import DataError, MissingSplitError

NOT_REGULAR, BROKEN_LINK, COUNTED = 'special files', 'broken links', 'links to files counted already'
LOOSE = 'images outside of the class folders'

SAMPLED = 16  # files that tell the range of values of deep images
# Images in formats that are not decoded here.
CONVERTIBLE = ('.heic', '.heif', '.cr2', '.cr3', '.nef', '.arw', '.dng', '.dcm')
# Folders that systems put among the files of users; some hold thumbnails of the images. They count as hidden.
SYSTEM_FOLDERS = frozenset(
    ('__MACOSX', '@eaDir', '#recycle', '@Recycle', '$RECYCLE.BIN', 'System Volume Information', 'lost+found')
)
FINGERPRINT_FILES = 4096  # whose sizes are a part of the fingerprint, evenly spaced


class FolderSource(Source):
    """Image files in a folder, decoded one by one.

    Args:
      root: the folder.
      files: [n] paths relative to `root`.
      labels: int32 [n], or None.
      classes: the names of the classes, indexed by label, or None.
      name: the name in logs and messages.
      image_size: height and width of the largest crop, in pixels; much larger JPEGs are decoded at a reduced size.
      place: the part of the folder that the files come from, for the summary of the data.
      skipped: number of skipped files by reason or extension.
      white: the largest value of gray images of more than 8 bits, see `images.decode`.
    """

    root: Path

    def __init__(
        self,
        root: Path,
        files: list[str],
        labels: np.ndarray | None,
        classes: tuple[str, ...] | None,
        *,
        name: str = 'folder',
        image_size: int = 224,
        place: str = '',
        skipped: dict[str, int] | None = None,
        white: float = 0,
    ):
        self.name = name
        self.classes = classes
        self.root = root
        self.place, self.skipped, self.white = place, skipped or {}, white
        self._files = files
        self._labels = labels
        self._image_size = image_size

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def __len__(self) -> int:
        return len(self._files)

    def image(self, i: int) -> np.ndarray:
        return images.decode(self.file_name(i), min_side=images.DRAFT_FACTOR * self._image_size, white=self.white)

    def stored_size(self, i: int) -> tuple[int, int]:
        return images.stored_size(self.file_name(i))

    def for_image_size(self, image_size: int) -> 'FolderSource':
        source = copy.copy(self)
        source._image_size = image_size
        return source

    def file_name(self, i: int) -> str:
        return os.path.join(self.root, self._files[i])

    def rows(self, chosen: np.ndarray, place: str = '') -> 'FolderSource':
        """A source of only these examples, int [m], in this order."""
        return FolderSource(
            self.root,
            [self._files[i] for i in chosen],
            None if self._labels is None else self._labels[chosen],
            self.classes,
            name=self.name,
            image_size=self._image_size,
            place=place or self.place,
            skipped=dict(self.skipped),
            white=self.white,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of labels, names and some sizes of the files; it does not depend on where the folder lies."""
        digest = hashlib.sha256(b'' if self._labels is None else self._labels.tobytes())
        for file in self._files:
            digest.update(os.fsencode(file) + b'\0')
        for file in self._files[:: max(1, len(self._files) // FINGERPRINT_FILES)]:
            try:
                size = os.stat(os.path.join(self.root, file)).st_size
            except OSError:  # the file has vanished; the loader reports it
                size = -1
            digest.update(f'{size} '.encode())
        return digest.hexdigest()[:16]


def load(
    path: Path, split: str = 'train', image_size: int = 224, name: str = '', value_range: float = 0
) -> FolderSource:
    """Opens one split of an image folder in any of the layouts at the top of this file.

    Args:
      path: the folder.
      split: 'train', the evaluation split by any of its names, or 'all': every image of the folder. If labeled data has
        no folder for evaluation, 10 % of each class with at least two images, at least one image, are held out from
        'train', evenly spaced among its sorted files.
      image_size: see `FolderSource`.
      name: the name in logs and messages; by default the name of the folder.
      value_range: the largest value of gray images of more than 8 bits; 0: derived from a sample of the training
        images, see `images.deep_white`.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: the folder does not exist or has no image.
      MissingSplitError: the folder has no images for evaluation.
    """
    source, train = _open(path, split, image_size, name or path.name)
    sample = [train.file_name(int(i)) for i in np.linspace(0, len(train) - 1, min(len(train), SAMPLED)).astype(int)]
    source.white = value_range or images.deep_white(sample)
    return source


def _open(path: Path, split: str, image_size: int, name: str) -> tuple[FolderSource, FolderSource]:
    """The split, and images that are representative of the training split."""
    found = _Folder(path)
    splits = found.splits()
    if not splits:
        everything = _source(found, None, name, image_size, '')
        return (everything if split == 'all' else _hold_out(everything, split)), everything
    if split == 'all':
        parts = [_source(_Folder(path / folder), None, name, image_size, f'{folder}/') for folder in splits]
        return _together(path, parts, splits), parts[0]
    train = next(folder for folder in splits if split_kind(folder) == 'train')
    training = _Folder(path / train)
    source = _source(training, None, name, image_size, f'{train}/')
    others = [folder for folder in splits if folder == train or _Folder(path / folder).count]
    if others == [train]:
        return _hold_out(source, split), source
    chosen = resolve_split(split, others, f"'{path}'", lambda folder: len(_Folder(path / folder).classes) > 1)
    if chosen == train:
        return source, source
    # Labels are indices into the classes of the training split; classes that it lacks follow them.
    inner, known = _Folder(path / chosen), list(source.classes or ())
    classes = [*known, *(other for other in inner.classes if other not in known)]
    return _source(inner, classes, name, image_size, f'{chosen}/'), source


@dataclasses.dataclass
class _Files:
    """Files of one folder at any depth: images, relative to the root, and the number of other files by reason."""

    images: list[str]
    skipped: collections.Counter[str]


class _Folder:
    """What lies in a folder: its subfolders, and the images below each of them. Each real folder is read once."""

    def __init__(self, path: Path):
        self.path = path
        self._seen: set[str] = set()
        self.subfolders = _subfolders(path)

    @functools.cached_property
    def loose(self) -> _Files:
        """Files directly in the folder."""
        return self._below('', recursive=False)

    @functools.cached_property
    def below(self) -> dict[str, _Files]:
        """Files in each subfolder. Links come last, so that what they lead to is counted where it really lies."""
        real = [name for name in self.subfolders if not os.path.islink(self.path / name)]
        linked = [name for name in self.subfolders if name not in real]
        return {name: self._below(name) for name in (*real, *linked)}

    @property
    def classes(self) -> list[str]:
        """Subfolders with images, sorted."""
        return [name for name in self.subfolders if self.below[name].images]

    @property
    def count(self) -> int:
        return len(self.loose.images) + sum(len(files.images) for files in self.below.values())

    @property
    def skipped(self) -> collections.Counter[str]:
        return sum((files.skipped for files in self.below.values()), self.loose.skipped.copy())

    def splits(self) -> list[str]:
        """The subfolders that are splits, the training split among them; [] if they are classes."""
        named = [name for name in self.subfolders if split_kind(name)]
        if not any(split_kind(name) == 'train' for name in named):
            return []
        kinds = {split_kind(name) for name in named}
        if len(kinds) > 1:
            return named
        return named if all(name in named for name in self.classes) else []

    def _below(self, start: str, recursive: bool = True) -> _Files:
        """The files below a subfolder; folders that a link leads to a second time are left out."""
        found, skipped = list[str](), collections.Counter[str]()
        pending, links = [start], list[tuple[str, str]]()
        while pending:
            relative = pending.pop()
            folder = os.path.join(self.path, relative)
            real = os.path.realpath(folder)
            if recursive and real in self._seen:
                continue
            if recursive:
                self._seen.add(real)
            for entry in _entries(folder):
                inner = os.path.join(relative, entry.name)
                kind = _kind(entry)
                if kind == 'folder':
                    if recursive:
                        pending.insert(0 if entry.is_symlink() else len(pending), inner)
                elif kind != 'file':
                    skipped[kind] += 1
                elif not entry.name.lower().endswith(images.EXTENSIONS):
                    skipped[os.path.splitext(entry.name)[1].lower() or 'files without extension'] += 1
                elif entry.is_symlink():
                    links.append((inner, os.path.realpath(entry.path)))
                else:
                    found.append(inner)
                    self._seen.add(os.path.join(real, entry.name))
        for inner, real in sorted(links, key=lambda link: os.fsencode(link[0])):
            if real in self._seen:
                skipped[COUNTED] += 1
            else:
                self._seen.add(real)
                found.append(inner)
        return _Files(sorted(found, key=os.fsencode), skipped)


def _subfolders(path: Path) -> list[str]:
    """The names of the subfolders that are not hidden, sorted by their bytes."""
    if not path.is_dir():
        what = 'is a file' if path.exists() else 'does not exist'
        raise DataError(
            f"data.path '{path}' {what}; a folder of images ({_extensions()}) is needed -> set data.path to a folder "
            'with train/<class>/ and val/<class>/, with <class>/, or with unlabeled images'
        )
    names = [entry.name for entry in _entries(str(path)) if entry.is_dir()]
    return sorted(names, key=os.fsencode)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies directly in a folder and is not hidden, sorted by the bytes of the names."""
    try:
        with os.scandir(folder) as entries:
            shown = (e for e in entries if e.name[0] != '.' and e.name not in SYSTEM_FOLDERS)
            return sorted(shown, key=lambda e: os.fsencode(e.name))
    except OSError as error:
        raise DataError(f"cannot list '{folder}': {error.strerror} -> check its permissions") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """'folder' or 'file' (a regular one), or the reason why it is skipped. It opens nothing: a FIFO would block."""
    try:
        if entry.is_dir():
            return 'folder'
        if entry.is_file():
            return 'file'
    except OSError:  # a link to itself
        return BROKEN_LINK
    return BROKEN_LINK if entry.is_symlink() else NOT_REGULAR


def _source(folder: _Folder, classes: Iterable[str] | None, name: str, image_size: int, place: str) -> FolderSource:
    """All images of a folder, labeled by class folder if more than one class folder has images.

    Args:
      folder: the folder.
      classes: the names of the classes, indexed by label; None: the class folders.
      name, image_size, place: see `FolderSource`.
    """
    present, skipped = folder.classes, folder.skipped
    if not folder.count:
        raise DataError(
            f"no images in '{folder.path}': it has {sum(skipped.values())} other files{_by_reason(skipped)}, none ends "
            f'in {_extensions()} -> set data.path to the folder with the images{remedy(skipped)}'
        )
    files, labels, index = list[str](), None, None
    if len(present) < 2 and not classes:  # with one folder all labels would be equal, so the images count as unlabeled
        files = [*folder.loose.images, *(file for label in present for file in folder.below[label].images)]
        files.sort(key=os.fsencode)
    else:
        if folder.loose.images:
            skipped[LOOSE] += len(folder.loose.images)
        index = {label: i for i, label in enumerate(present if classes is None else classes)}
        ordered = sorted(present, key=index.__getitem__)
        files = [file for label in ordered for file in folder.below[label].images]
        labels = np.repeat([index[label] for label in ordered], [len(folder.below[x].images) for x in ordered])
    return FolderSource(
        folder.path,
        files,
        None if labels is None else labels.astype(np.int32),
        None if index is None else tuple(index),
        name=name,
        image_size=image_size,
        place=place,
        skipped=dict(skipped),
    )


def _together(path: Path, parts: list[FolderSource], splits: list[str]) -> FolderSource:
    """Several splits as one source, in the order of their folders."""
    classes = tuple(dict.fromkeys(label for part in parts for label in part.classes or ()))
    files, labels, skipped = list[str](), list[int](), collections.Counter[str]()
    for folder, part in zip(splits, parts, strict=True):
        files += [os.path.join(folder, os.path.relpath(part.file_name(i), part.root)) for i in range(len(part))]
        own = [-1] * len(part) if part.labels is None else [classes.index((part.classes or ())[x]) for x in part.labels]
        labels += own
        skipped.update(part.skipped)
    first = parts[0]
    return FolderSource(
        path,
        files,
        np.array(labels, np.int32) if classes else None,
        classes or None,
        name=first.name,
        image_size=first._image_size,
        place=', '.join(f'{folder}/' for folder in splits),
        skipped=dict(skipped),
    )


def _hold_out(everything: FolderSource, split: str) -> FolderSource:
    """The training or the held-out part of data that has no folder for evaluation."""
    where = f"'{everything.root}'"
    if everything.labels is None:
        resolve_split(split, ('train',), f'{where} (unlabeled, without a folder for evaluation)')
        return everything
    split = resolve_split(split, ('train', 'test'), where)
    held = held_out(everything.labels)
    if split == 'test' and not held.any():
        raise MissingSplitError(
            f'{where} has no class with two images, one of which could be held out -> add images, or a folder test/'
        )
    place = f'{everything.place} 10 % of each class'.strip() if split == 'test' else everything.place
    return everything.rows(np.flatnonzero(held == (split == 'test')), place)


def held_out(labels: np.ndarray) -> np.ndarray:
    """Marks 10 % of each class with at least two images, at least one image, evenly spaced: bool [n]."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            count = max(1, round(len(rows) / 10))
            held[rows[((np.arange(count) + 0.5) * len(rows) / count).astype(int)]] = True
    return held


def remedy(skipped: dict[str, int] | collections.Counter[str]) -> str:
    """What to do about skipped photos in formats that Pillow cannot decode; '' if there are none."""
    convertible = [ending for ending in skipped if ending in CONVERTIBLE]
    return f'; convert {", ".join(convertible)} files to JPEG or PNG first' if convertible else ''


def _by_reason(skipped: collections.Counter[str]) -> str:
    return f' ({", ".join(f"{n} {reason}" for reason, n in skipped.most_common(5))})' if skipped else ''


def _extensions() -> str:
    return ', '.join(images.EXTENSIONS)
