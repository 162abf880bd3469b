"""A cache of resized images: `array_record` files beside `cache.json`, which tells what they were made of.

`contrastive_jax.prepare` writes it, and the source `array_record` reads it. Record i is image i of the split that it
was made of, an uncompressed PPM or PGM file or a JPEG file; images that could not be read are empty records, which the
loader replaces as it does damaged files. `cache.json` holds the labels, which records of images cannot.
"""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contrastive_jax.data.images import ImageError
from contrastive_jax.data.sources import DataSetupError, Source
from contrastive_jax.distributed.cores import usable_cores
from contrastive_jax.errors import DataError, DiskFullError, UserError
from contrastive_jax.workdir.disk import FULL, free

FILE = 'cache.json'
PER_FILE = 4096  # images in a file: what a kill costs at most
AHEAD = 64  # images that threads resize ahead of the writer
PARTIAL = '.partial'  # of a file that is being written


@dataclasses.dataclass(frozen=True)
class Split:
    """What the cache says of a split.

    Attributes:
      images: the number of images.
      fingerprint: the fingerprint of the source that the cache is made of.
      labels: [n], -1 where unknown; None: there are none.
      classes: the names of the classes, or None.
      per_file: the number of images in each file but the last.
    """

    images: int
    fingerprint: str
    labels: list[int] | None = None
    classes: list[str] | None = None
    per_file: int = PER_FILE

    @classmethod
    def of(cls, source: Source, per_file: int = PER_FILE) -> 'Split':
        labels = None if source.labels is None else source.labels.tolist()
        classes = None if source.classes is None else list(source.classes)
        return cls(len(source), source.fingerprint, labels, classes, per_file)


def read(folder: Path) -> dict[str, Split]:
    """The splits of a cache; {} if the folder holds none.

    Raises:
      DataError: the file cannot be read.
    """
    file = folder / FILE
    try:
        splits = json.loads(file.read_text(encoding='utf-8'))['splits'] if file.is_file() else {}
        return {name: Split(**split) for name, split in splits.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read '{file}': {error} -> prepare the data again, in another folder") from error


def plan(folder: Path, splits: Mapping[str, Source], size: int, quality: int, per_file: int = PER_FILE) -> None:
    """Notes what a folder is to hold, or checks that it is what the folder holds already.

    Raises:
      UserError: the folder holds something else, or cannot be written.
      DataError: what it holds cannot be read.
    """
    described = {
        'size': size,
        'quality': quality,
        'splits': {name: dataclasses.asdict(Split.of(source, per_file)) for name, source in splits.items()},
    }
    file = folder / FILE
    if file.is_file():
        read(folder)
        if json.loads(file.read_text(encoding='utf-8')) != described:
            raise UserError(
                f"'{folder}' holds a cache of other images, or of another size or quality",
                remedy='give another folder, or remove this one',
            )
        return
    partial = folder / f'{FILE}{PARTIAL}'  # of a start that was killed, or for which the disk had no room
    if folder.is_dir() and any(other != partial for other in folder.iterdir()):
        raise UserError(f"'{folder}' is not empty and holds no cache", remedy='give another folder')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(described), encoding='utf-8')
        os.replace(partial, file)
    except OSError as error:
        if error.errno in FULL:
            raise _full(partial, error.strerror or str(error)) from error
        raise UserError(f"cannot write to '{folder}': {error.strerror}", remedy='give another folder') from error


def files_of(split: str, n: int, per_file: int = PER_FILE) -> list[tuple[str, int, int]]:
    """The files of a split: name, and the images [start, end) in it."""
    count = -(-n // per_file)
    return [
        (f'{split}.array_record-{k:05}-of-{count:05}', k * per_file, min((k + 1) * per_file, n)) for k in range(count)
    ]


def write(
    folder: Path,
    split: str,
    source: Source,
    size: int,
    quality: int,
    *,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
    per_file: int = PER_FILE,
) -> int:
    """Writes the files of a split that are not there yet.

    Args:
      folder: the folder of the cache, see `plan`.
      split: the name of the split.
      source: its images.
      size: the shorter side of larger images, in pixels; smaller ones stay as they are.
      quality: of JPEG files, 1 to 100; 0: uncompressed.
      say: gets a line for each file.
      check: is called between images; what it raises ends the writing, and complete files stay.
      per_file: number of images in a file.

    Returns:
      The number of images that could not be read, in the files that were written.

    Raises:
      DataSetupError: array_record is not installed.
      DiskFullError: the disk is full.
      UserError: a file cannot be written for another reason.
    """
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError as error:
        raise DataSetupError(f'array_record files need array_record ({error}) -> pip install array_record') from error
    unreadable = 0
    for name, start, end in (files := files_of(split, len(source), per_file)):
        file, partial = folder / name, folder / f'{name}{PARTIAL}'
        if file.exists():
            continue
        partial.unlink(missing_ok=True)
        with _writing(partial):
            writer = ArrayRecordWriter(str(partial), 'group_size:1')
        try:
            for record in _in_order(lambda i: resized(source, i, size, quality), range(start, end)):
                check()
                with _writing(partial):
                    writer.write(record)
                unreadable += not record
        finally:
            with _writing(partial):
                writer.close()
        os.replace(partial, file)
        say(f'{split}: {end:,} of {len(source):,} images, file {files.index((name, start, end)) + 1} of {len(files)}')
    return unreadable


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turns what array_record raises, a RuntimeError with the reason in its text, into an error of one line."""
    try:
        yield
    except RuntimeError as error:
        reason = ' '.join(str(error).split(';')[0].split())
        if any(os.strerror(number) in reason for number in FULL):
            raise _full(file, reason) from error
        raise UserError(f"cannot write '{file}': {reason}", remedy='give another folder') from error


def _full(file: Path, reason: str) -> DiskFullError:
    return DiskFullError(
        f"cannot write '{file}': {reason}; free are {free(file.parent)}",
        remedy='make room; complete files stay, the same command goes on from there',
    )


def resized(source: Source, i: int, size: int, quality: int) -> bytes:
    """Image i as an encoded file whose shorter side is at most `size`; b'' if it cannot be read."""
    try:
        pixels = source.image(i)
    except ImageError:
        return b''
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    short = min(image.size)
    if short > size:
        width, height = (max(1, round(side * size / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if quality:
        image.save(file, 'JPEG', quality=quality, subsampling=0)
    else:
        image.save(file, 'PPM')
    return file.getvalue()


def check_kind(source: Source) -> None:
    """Raises UserError if images are not RGB or gray of 8 bits: the files of a cache hold nothing else."""
    if source.channels not in (1, 3) or source.dtype != np.uint8:
        raise UserError(
            f'{source.name} has {source.channels} channels of {8 * source.dtype.itemsize} bits, and a cache holds RGB '
            'or gray of 8 bits',
            remedy='train on the data itself',
        )


def check_complete(folder: Path, known: Mapping[str, Split], found: Mapping[str, Sequence[str]] | None) -> None:
    """Checks that all files of a cache are there.

    Args:
      folder: the folder of the cache.
      known: its splits.
      found: the files of each split; None: a part of the cache was chosen, which need not be complete.

    Raises:
      DataError: a file is missing.
    """
    for name, split in known.items() if found is not None else ():
        wanted, there = len(files_of(name, split.images, split.per_file)), len((found or {}).get(name, ()))
        if there != wanted:
            raise DataError(
                f"'{folder}' has {there} of the {wanted} files of {name}: the cache is not complete -> run the same "
                'command of contrastive_jax.prepare again'
            )


def _in_order(make: Callable[[int], bytes], ids: Sequence[int]) -> Iterator[bytes]:
    """The results for all ids, in their order, made by threads that are at most AHEAD of it."""
    with futures.ThreadPoolExecutor(usable_cores()) as threads:
        waiting: list[Any] = [threads.submit(make, i) for i in ids[:AHEAD]]
        for k in range(len(ids)):
            yield waiting.pop(0).result()
            if k + AHEAD < len(ids):
                waiting.append(threads.submit(make, ids[k + AHEAD]))
