"""A file is replaced as a whole or not at all, and no temporary file is left."""

import os
from pathlib import Path

import pytest

from contrastive_jax.workdir.atomic import write_atomically


@pytest.mark.parametrize('content', [b'new', lambda path: path.write_bytes(b'new')])
def test_a_file_is_replaced(tmp_path: Path, content: object) -> None:
    path = tmp_path / 'x'
    path.write_bytes(b'old, and longer')
    write_atomically(path, content)  # type: ignore[arg-type]
    assert path.read_bytes() == b'new' and os.listdir(tmp_path) == ['x']
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_the_old_content_is_there_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / 'x'
    path.write_bytes(b'old')

    def write(temporary: Path) -> None:
        temporary.write_bytes(b'new')
        assert path.read_bytes() == b'old' and temporary.parent == tmp_path

    write_atomically(path, write)
    assert path.read_bytes() == b'new'


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'x'
    path.write_bytes(b'old')

    def interrupted(temporary: Path) -> None:
        temporary.write_bytes(b'half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x']
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk')))
    with pytest.raises(OSError, match='disk'):
        write_atomically(path, b'new')
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x']


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / 'missing' / 'x', b'new')


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
