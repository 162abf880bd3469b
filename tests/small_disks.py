"""Disks that are small enough to be filled: file systems in memory, which only root can mount."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, size: int, files: int = 10_000) -> Iterator[Path]:
    """A disk of `size` bytes and so many files at a new folder; skips the test where it cannot be mounted."""
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', f'size={size},nr_inodes={files}', 'small', str(folder)]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip('only root can mount a small disk')
    except FileNotFoundError:
        pytest.skip('there is no mount')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Fills the disk of a folder up to so many bytes; deleting the file that it returns makes room."""
    filler = folder / 'filler'
    with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        found = os.statvfs(folder)
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - left, 1))
    return filler


def use_files(folder: Path, left: int = 0) -> Path:
    """Uses the files that a disk can have up to so many; deleting the folder that it returns makes room."""
    filler = folder / 'files'
    filler.mkdir()
    for i in range(os.statvfs(folder).f_favail - left):
        (filler / str(i)).touch()
    return filler


def read_only(folder: Path) -> None:
    """Makes the disk at a folder read-only."""
    subprocess.run(['mount', '-o', 'remount,ro', str(folder)], check=True)


def make_room(filler: Path) -> None:
    """Deletes what `fill` or `use_files` has made."""
    if filler.is_dir():
        shutil.rmtree(filler)
    else:
        filler.unlink()
