"""What is free on the disk of a workdir, and the error when a file there cannot be written."""

import errno
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from contrastive_jax.errors import DiskFullError, UserError

METADATA = 1_000_000  # bytes that a checkpoint needs beside its arrays, and a run for a few lines of metrics

FULL = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))


class Room(NamedTuple):
    """What is free on a disk; infinite where its file system does not say it, as that of a bucket.

    Attributes:
      bytes: bytes that this user may still write. A quota may be lower.
      files: files and folders that may still be made (inodes).
    """

    bytes: float
    files: float

    def __str__(self) -> str:
        size = 'an unknown number of bytes' if math.isinf(self.bytes) else in_bytes(self.bytes)
        return size if math.isinf(self.files) else f'{size} and {self.files:,.0f} files'


def room(folder: Path) -> Room:
    """What is free where a folder is, or would be.

    Raises:
      OSError: the file system cannot be asked.
    """
    there = next(x for x in (folder, *folder.parents) if x.exists())
    if not hasattr(os, 'statvfs'):
        return Room(shutil.disk_usage(there).free, math.inf)
    found = os.statvfs(there)
    return Room(
        found.f_bavail * found.f_frsize if found.f_blocks else math.inf,
        found.f_favail if found.f_files else math.inf,
    )


def free(folder: Path) -> str:
    """What is free where a folder is, in words."""
    try:
        return str(room(folder))
    except OSError:
        return 'an unknown number of bytes'


def cannot_write(file: str | os.PathLike[str], error: OSError, what: str = '') -> UserError:
    """The error when a file of a run cannot be written.

    Args:
      file: the file.
      error: what the operating system said.
      what: what cannot be written, in words; by default the file.

    Returns:
      A DiskFullError if the disk is full or a quota is reached, otherwise a UserError.
    """
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return DiskFullError(
            f'cannot write {what or file}: {reason}; free are {free(Path(file).parent)}',
            remedy='make room; the same command goes on from the last checkpoint',
        )
    remedy = 'make it writable, or choose another workdir' if error.errno == errno.EROFS else 'choose another workdir'
    return UserError(f'cannot write {what or file}: {reason}', remedy=remedy)


def in_bytes(count: float) -> str:
    """A number of bytes, such as '97.5 MB'."""
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if count < 999.5:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:.3g} TB'
