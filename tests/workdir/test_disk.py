"""A disk that is full, read-only or gone: what is said, and that nothing is torn."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest

from contrastive_jax.errors import DiskFullError, UserError
from contrastive_jax.plots import figures
from contrastive_jax.workdir import disk, metrics
from contrastive_jax.workdir.disk import cannot_write
from contrastive_jax.workdir.lock import Lock
from contrastive_jax.workdir.metrics import MetricWriter
from tests import small_disks
from tests.workdir.test_checkpoint import SPECS, Run, assert_restores, make_state


def test_what_is_free(tmp_path: Path) -> None:
    found = disk.room(tmp_path / 'not' / 'yet')
    assert 0 < found.bytes <= shutil.disk_usage(tmp_path).total and found.files > 0
    assert str(disk.Room(1.5e9, 12_345)) == '1.5 GB and 12,345 files'
    assert str(disk.Room(float('inf'), float('inf'))) == 'an unknown number of bytes'


@pytest.mark.parametrize(('number', 'code', 'remedy'), [
    (errno.ENOSPC, 5, 'make room; the same command goes on'), (errno.EDQUOT, 5, 'make room'),
    (errno.EROFS, 2, 'make it writable'), (errno.EACCES, 2, 'choose another workdir'),
])  # fmt: skip
def test_the_error_of_a_file(number: int, code: int, remedy: str, tmp_path: Path) -> None:
    error = cannot_write(tmp_path / 'x', OSError(number, os.strerror(number)))
    assert error.exit_code == code and f'-> {remedy}' in str(error) and os.strerror(number) in str(error)
    assert (' files' in str(error) or ' free' in str(error)) == (code == 5)


def test_metrics_on_a_full_device(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path)
    (tmp_path / metrics.FILE).symlink_to('/dev/full')
    with pytest.raises(DiskFullError, match=rf'cannot write metrics to {tmp_path}: No space left on device; free are'):
        writer.write(1, {'loss': 1.0})
    writer.close()


def test_a_line_is_whole_or_not_there(tmp_path: Path) -> None:
    """Where a disk becomes full, the system writes the beginning of a line and says so, without an error."""
    limit = 2**20  # files of this process end there: a line later the disk is full
    file = tmp_path / metrics.FILE
    writer = MetricWriter(tmp_path)
    file.write_bytes(b'#' * (limit - 101) + b'\n')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        writer.write(1, {'loss': 1.0})
        with pytest.raises(DiskFullError, match='No space left on device after'):
            writer.write(2, {f'loss{i}': 1.0 for i in range(9)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [line['step'] for line in metrics.read(tmp_path)] == [1] and file.read_bytes().endswith(b'}\n')
    writer.write(2, {'loss': 1.0})
    assert [line['step'] for line in metrics.read(tmp_path)] == [1, 2]
    writer.close()


def test_a_workdir_that_is_deleted_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """Whether the save has ended by then or not: it is named, and the disk is not blamed."""
    workdir = tmp_path / 'run'
    with Lock(workdir):
        run = Run(workdir, width=20_000)
        run.save(3)
        state = run.devices.place(make_state(6, 20_000), SPECS)
        with pytest.raises(UserError, match='while this run was using it -> nothing more is written'):
            run.checkpoints.save(6, state)
            workdir.rename(tmp_path / 'away')  # at once, while files are written
            run.checkpoints.wait()
            run.checkpoints.save(9, state)


def test_a_disk_without_room(tmp_path: Path) -> None:
    """Bytes or files: nobody can start; a checkpoint that does not fit leaves the one before; with room it goes on."""
    with small_disks.mounted(tmp_path / 'disk', 20_000_000, 300) as folder:
        run = Run(folder / 'run', width=20_000)
        run.save(3)
        for fill in (small_disks.fill, small_disks.use_files):
            for left in (100_000, 0) if fill is small_disks.fill else (5, 0):
                filler = fill(folder, left)
                if left:
                    with pytest.raises(UserError, match=r'No space left.*it needs .* MB, and free are') as error:
                        run.save(6)
                    assert error.value.exit_code == 5 and error.value.remedy.endswith('goes on from step 3')
                    assert sorted(x.name for x in (folder / 'run' / 'checkpoints').iterdir()) == ['3']
                else:
                    with pytest.raises(DiskFullError, match=r'cannot write to workdir .*: No space left on device'):
                        Lock(folder / 'run').__enter__()
                small_disks.make_room(filler)
                run = Run(folder / 'run', width=20_000)
                assert_restores(run, 3)
        run.save(6)
        assert_restores(run, 6)
        run.checkpoints.close()


def test_a_read_only_disk(tmp_path: Path) -> None:
    with small_disks.mounted(tmp_path / 'disk', 1_000_000) as folder:
        small_disks.read_only(folder)
        with pytest.raises(UserError, match=r'cannot write to workdir .*: Read-only file system -> make it') as error:
            Lock(folder / 'run').__enter__()
        assert error.value.exit_code == 2


def test_a_picture_on_a_full_disk(tmp_path: Path) -> None:
    with small_disks.mounted(tmp_path / 'disk', 1_000_000) as folder:
        filler = small_disks.fill(folder)
        with pytest.raises(DiskFullError, match=rf'cannot write {folder}/curves.png: No space left on device; free'):
            figures.curves([{'step': 1, 'loss': 1.0}], folder / 'curves.png')
        assert [x.name for x in folder.iterdir()] == ['filler']
        small_disks.make_room(filler)
        figures.curves([{'step': 1, 'loss': 1.0}], folder / 'curves.png')
