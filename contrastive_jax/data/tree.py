"""What lies in a folder: its subfolders, the images below each of them, and what is skipped."""

import collections
import dataclasses
import functools
import os
from pathlib import Path

from contrastive_jax.data import images
from contrastive_jax.data.splits import split_kind
from contrastive_jax.errors import DataError

NOT_REGULAR, BROKEN_LINK, COUNTED = 'special files', 'broken links', 'links to files counted already'
UPWARDS = 'links to a folder above'
# Folders that systems put among the files of users; some hold thumbnails of the images. They count as hidden.
SYSTEM_FOLDERS = frozenset(
    ('__MACOSX', '@eaDir', '#recycle', '@Recycle', '$RECYCLE.BIN', 'System Volume Information', 'lost+found')
)


@dataclasses.dataclass
class Files:
    """Files of one folder at any depth: images, relative to the root, and the number of other files by reason."""

    images: list[str]
    skipped: collections.Counter[str]


class Folder:
    """What lies in a folder: its subfolders, and the images below each of them. Each real folder is read once."""

    def __init__(self, path: Path):
        self.path = path
        self._real = os.path.realpath(path)
        self._seen: set[str] = set()
        self.subfolders = _subfolders(path)

    @functools.cached_property
    def loose(self) -> Files:
        """Files directly in the folder."""
        return self._below('', recursive=False)

    @functools.cached_property
    def below(self) -> dict[str, Files]:
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
        """The subfolders that are splits; [] if they are classes.

        Raises:
          DataError: two folders with images are training splits.
        """
        named = [name for name in self.subfolders if split_kind(name)]
        kinds = {split_kind(name) for name in named}
        training = [name for name in named if split_kind(name) == 'train']
        alone = all(name in named for name in self.classes)
        if len(kinds) > 1 and (training or alone):
            filled = [name for name in training if name in self.classes]
            if len(filled) > 1:
                raise DataError(
                    f"'{self.path}' has {len(filled)} training splits, {' and '.join(filled)} -> merge or rename them"
                )
            return [name for name in named if name not in training or name in (filled or training)]
        return named if len(training) == 1 and alone else []

    def inmost(self) -> 'Folder':
        """This folder, or the one that it wraps, as an archive does: a lone subfolder with splits, at any depth."""
        folder, seen = self, {os.path.realpath(self.path)}
        while not folder.splits() and not folder.loose.images and len(folder.classes) == 1:
            folder = Folder(folder.path / folder.classes[0])
            if os.path.realpath(folder.path) in seen:
                return self
            seen.add(os.path.realpath(folder.path))
        return folder if folder.splits() else self

    def _below(self, start: str, recursive: bool = True) -> Files:
        """The files below a subfolder; folders that a link leads to a second time are left out."""
        found, skipped = list[str](), collections.Counter[str]()
        pending, links = [start], list[tuple[str, str]]()
        while pending:
            relative = pending.pop()
            folder = os.path.join(self.path, relative)
            real = os.path.realpath(folder)
            if recursive and real in self._seen:
                continue
            if relative and os.path.join(self._real, '').startswith(os.path.join(real, '')):
                skipped[UPWARDS] += 1  # it would bring in what lies beside this folder, such as another split
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
        return Files(sorted(found, key=os.fsencode), skipped)


def all_files(path: Path) -> tuple[list[str], collections.Counter[str]]:
    """All regular files below a folder that are not hidden, relative to it and sorted by their bytes.

    Links are followed; a folder that several lead to is read once. Broken links and special files are counted.
    """
    found, skipped = list[str](), collections.Counter[str]()
    pending, seen = [''], set[str]()
    while pending:
        relative = pending.pop()
        folder = os.path.join(path, relative)
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        for entry in _entries(folder):
            inner = os.path.join(relative, entry.name)
            kind = _kind(entry)
            if kind == 'folder':
                pending.insert(0 if entry.is_symlink() else len(pending), inner)
            elif kind == 'file':
                found.append(inner)
            else:
                skipped[kind] += 1
    return sorted(found, key=os.fsencode), skipped


def _subfolders(path: Path) -> list[str]:
    """The names of the subfolders that are not hidden, sorted by their bytes."""
    if not path.is_dir():
        what = 'is a file' if path.exists() else 'does not exist'
        raise DataError(
            f"data.path '{path}' {what}; a folder of images ({extensions()}) is needed -> set data.path to a folder "
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


def extensions() -> str:
    """The endings of image files, for messages."""
    return ', '.join(images.EXTENSIONS)
