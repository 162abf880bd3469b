"""Where the samples of a tar file lie, so that each can be read on its own; kept in a cache.

The members of a sample have the same name up to the first dot, as in the WebDataset format: `a/0001.jpg` and
`a/0001.cls` are the sample `a/0001` with an image and a label. They need not follow each other.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from absl import logging

from contrastive_jax.data import images
from contrastive_jax.data.tree import SYSTEM_FOLDERS
from contrastive_jax.errors import DataError
from contrastive_jax.workdir.atomic import write_atomically

NO_IMAGE, REPLACED, NO_FILES = 'samples without an image', 'members that a later one replaces', 'links in tar files'
VERSION = 1  # of the index; a cached index of another version is not read
LABEL, JSON = 'cls', 'json'  # members with a label
LABEL_BYTES = 1 << 20  # larger members hold no label
_NAME = re.compile(r'((?:.*/)?[^/.]+)\.([^/]*)')


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """The samples of a tar file that have an image, in the order of their first members.

    Attributes:
      names: bytes [n], the names of the images in the file.
      offsets, sizes: int64 [n], where the content of the images is, in bytes.
      labels: str [n], the labels as they are written; '' where there is none.
      skipped: number of samples and members that were left out, by reason or ending.
    """

    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    skipped: Counter[str]


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def read(file: str, image_key: str = '', label_key: str = '') -> TarIndex:
    """The index of a tar file: from the cache, or made by reading the headers of its members, and the labels.

    Args:
      file: an uncompressed tar file.
      image_key: the ending of the members that are the images, such as 'jpg' or 'left.png'; '': that of an image.
      label_key: the ending of the members that are labels, or the key of the label in `.json` members; '': 'cls', or
        the key 'label'.

    Raises:
      DataError: the file cannot be read, is compressed or damaged; or a sample has several images.
    """
    try:
        state = os.stat(file)
        key = f'{VERSION}\0{file}\0{state.st_size}\0{state.st_mtime_ns}\0{image_key}\0{label_key}'
        cached = cache_folder() / f'{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz'
        found = _load(cached)
        if found is None:
            found = scan(file, image_key, label_key)
            _save(cached, found)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise DataError(
            f"cannot read '{file}' as an uncompressed tar file: {reason} -> unpack it (gunzip, xz -d) if it is "
            'compressed, or get it again'
        ) from error
    return found


def cache_folder() -> Path:
    """The folder of the cache: $XDG_CACHE_HOME/contrastive_jax/tar_index, by default below ~/.cache."""
    return Path(os.path.expanduser(os.environ.get('XDG_CACHE_HOME') or '~/.cache')) / 'contrastive_jax' / 'tar_index'


def scan(file: str, image_key: str = '', label_key: str = '') -> TarIndex:
    """Makes the index; arguments and errors as in `read`, and the exceptions of tarfile."""
    samples, texts = dict[str, dict[str, _Member]](), dict[str, dict[str, str]]()
    skipped = Counter[str]()
    wanted = {label_key or LABEL, JSON}
    with open(file, 'rb') as stream, tarfile.open(fileobj=stream, mode='r:') as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else all headers would stay in memory
            if member.isdir():
                continue
            if not member.isreg() or member.sparse is not None:
                skipped[NO_FILES] += 1
                continue
            match = _NAME.fullmatch(member.name)
            if match is None or any(part in SYSTEM_FOLDERS for part in member.name.split('/')):
                continue  # hidden files, and files without an ending
            sample, ending = match[1], match[2].lower()
            members = samples.setdefault(sample, {})
            skipped[REPLACED] += ending in members
            members[ending] = _Member(member.name, member.offset_data, member.size)
            if ending in wanted and member.size <= LABEL_BYTES:
                stream.seek(member.offset_data)
                text = _label(stream.read(member.size), ending, label_key)
                if text is not None:
                    texts.setdefault(sample, {})[ending] = text
        _check_end(stream, archive.offset)
    found, labels = list[_Member](), list[str]()
    for sample, members in samples.items():
        image = image_key if image_key in members else '' if image_key else _image(file, sample, members)
        if not image:
            skipped[NO_IMAGE] += 1
            continue
        label = next((ending for ending in (label_key or LABEL, JSON) if ending in texts.get(sample, ())), '')
        found.append(members[image])
        labels.append(texts[sample][label] if label else '')
        skipped.update(f'.{ending}' for ending in members if ending not in (image, label))
    return TarIndex(
        np.array([os.fsencode(member.name) for member in found], dtype=bytes),
        np.array([member.offset for member in found], np.int64),
        np.array([member.size for member in found], np.int64),
        np.array(labels, dtype=str),
        +skipped,
    )


def _image(file: str, sample: str, members: dict[str, _Member]) -> str:
    """The ending of the image of a sample, '' if there is none; one without a dot is preferred: jpg to mask.png."""
    endings = [ending for ending in members if f'.{ending.rsplit(".", 1)[-1]}' in images.EXTENSIONS]
    plain = [ending for ending in endings if '.' not in ending] or endings
    if len(plain) > 1:
        raise DataError(
            f"'{file}': sample {sample} has {len(plain)} images, {' and '.join(plain)} -> set data.image_key to one of "
            'these endings; if they are separate samples, rename the files: the name of a sample ends at the first dot'
        )
    return plain[0] if plain else ''


def _label(content: bytes, ending: str, label_key: str) -> str | None:
    """The label that a member holds; None if it holds none."""
    if ending == JSON and label_key != JSON:
        try:
            value = json.loads(content)[label_key or 'label']
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(int(value) if isinstance(value, bool) else value) if isinstance(value, int | str) else None
    return content.decode('utf-8', 'replace').strip()


def _check_end(stream: BinaryIO, end: int) -> None:
    """Raises ValueError if tarfile has stopped before the end: it takes a damaged header for the end of the archive."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(end)
    while block := stream.read(1 << 20):
        if block.strip(b'\0'):
            raise ValueError(f'the header at byte {end:,} of {size:,} is damaged, or another archive was appended')


def _load(cached: Path) -> TarIndex | None:
    try:
        with np.load(cached, allow_pickle=False) as file:
            names, offsets, sizes, labels = (file[key] for key in ('names', 'offsets', 'sizes', 'labels'))
            return TarIndex(names, offsets, sizes, labels, Counter(json.loads(str(file['skipped']))))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _save(cached: Path, index: TarIndex) -> None:
    def write(path: Path) -> None:
        with path.open('wb') as stream:
            np.savez(stream, **{**vars(index), 'skipped': np.array(json.dumps(index.skipped))})

    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, write)
    except OSError as error:  # the index is made anew at the next start
        _warn_once(f'cannot keep the index of tar files in {cached.parent}: {error.strerror}')


@functools.cache
def _warn_once(message: str) -> None:
    logging.warning('%s', message)
