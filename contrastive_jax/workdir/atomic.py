"""Atomic writing of files: a reader never sees a part of a file, even if the process that writes it is killed."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes | Callable[[Path], object]) -> None:
    """Writes a file so that its path holds the old content or all of the new content at any time.

    Args:
      path: the file; its folder must exist.
      content: the new content, or a function that writes it to the path that it is given, a temporary file in the same
        folder.

    Raises:
      OSError: the file cannot be written; the old content is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            if isinstance(content, bytes):
                file.write(content)
        if callable(content):
            content(temporary)
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
