"""`contrastive-jax doctor` is right about every fault that can be made in a workdir, and changes nothing."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contrastive_jax import doctor
from contrastive_jax.errors import CheckpointError, DataError, DiskFullError, Interrupted, NumericalError, UserError
from contrastive_jax.workdir import about, ended, lock
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.lock import Lock
from tests import complete_runs, small_disks, untrained_workdirs
from tests.complete_runs import tiny_config
from tests.workdir.test_lock import hold

TOTAL = 6


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    """A finished run with the checkpoints of steps 4 and 6; copied, never changed."""
    workdir = tmp_path_factory.mktemp('made')
    untrained_workdirs.save(tiny_config('mocov2'), workdir, steps=(4, TOTAL))
    (workdir / about.FILE).write_text(json.dumps({'run': {'total_steps': TOTAL, 'steps_per_epoch': 4}}))
    return workdir


@pytest.fixture
def workdir(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / 'run'))


@pytest.fixture
def longer(workdir) -> Path:
    """The same run, which is not finished."""
    (workdir / about.FILE).write_text(json.dumps({'run': {'total_steps': TOTAL + 2}}))
    return workdir


def look(capsys: pytest.CaptureFixture[str], workdir: Path, *args: str) -> tuple[int, str, str, str]:
    """The exit code of the command, the state, all lines, and what to do next."""
    before = complete_runs.tree_digest(workdir) if workdir.is_dir() else {}
    code = doctor.main([f'--workdir={workdir}', *args])
    assert (complete_runs.tree_digest(workdir) if workdir.is_dir() else {}) == before
    out = capsys.readouterr().out
    lines = out.splitlines()
    return code, lines[0].removeprefix(f'{workdir}: '), out, lines[-1].removeprefix('next: ')


def test_a_finished_run(workdir, capsys):
    code, state, out, todo = look(capsys, workdir, '--config=tests/tiny_configs.py:mocov2', f'--config.steps={TOTAL}')
    assert (code, state) == (0, 'finished')
    assert 'checkpoints that can be used: 4, 6 of 6 steps' in out and 'space: a checkpoint needs ' in out
    assert todo == f'python -m contrastive_jax.report --workdir={workdir}' and 'other config' not in out


def test_another_config(workdir, capsys):
    args = ['--config=tests/tiny_configs.py:mocov2', '--config.seed=7', '--config.epochs=3', '--config.steps=0']
    code, _, out, _ = look(capsys, workdir, *args)
    assert code == 2 and 'other config: seed: 0 -> 7' in out and 'epochs' not in out
    assert doctor.main([f'--workdir={workdir}', '--config=nope']) == 2
    assert doctor.main([f'--workdir={workdir}', '--config=tests/tiny_configs.py:mocov2', '--config.sed=7']) == 2
    assert doctor.main([f'--workdir={workdir}', '--confg=x']) == 2


@pytest.mark.parametrize(
    ('length', 'code', 'line', 'todo'),
    [
        ('--config.steps=5', 2, 'other length: 6 -> 5 steps', '(choose another workdir, or give the length of before)'),
        ('--config.steps=6', 0, '', 'python -m contrastive_jax.report'),
        ('--config.epochs=2.0', 42, 'other length: 6 -> 8 steps', 'python -m contrastive_jax.main --config=tests/tiny'),
    ],
)
def test_another_length(workdir, capsys, length, code, line, todo):
    """What the command with that length would say."""
    steps = () if 'steps' in length else ('--config.steps=0',)
    found, state, out, then = look(capsys, workdir, '--config=tests/tiny_configs.py:mocov2', *steps, length)
    assert (found, state) == (code, 'finished') and then.startswith(todo)
    assert line in out if line else 'other length' not in out
    assert length in then or code != 42


def test_a_stopped_run_goes_on_with_the_length_that_is_given(longer, capsys):
    (longer / about.FILE).write_text(json.dumps({'run': {'total_steps': TOTAL + 2, 'steps_per_epoch': 4}}))
    args = '--config=tests/tiny_configs.py:mocov2', '--config.steps=10'
    code, state, out, todo = look(capsys, longer, *args)
    assert (code, state) == (42, 'stopped') and 'other length: 8 -> 10 steps' in out
    assert todo == f'python -m contrastive_jax.main {args[0]} --workdir={longer} {args[1]}'


def test_a_run_that_trains_is_stopped_or_was_killed(longer, capsys, children):
    assert look(capsys, longer)[:2] == (42, 'stopped')
    with Lock(longer):
        code, state, out, _ = look(capsys, longer)
    assert (code, state) == (0, 'running') and 'alive' in out
    (longer / ended.FILE).unlink()
    child = hold(longer, children)
    child.send_signal(signal.SIGSTOP)
    complete_runs.wait_until(lambda: lock._start_and_state(child.pid)[1] == 'T', lambda: True)
    code, state, out, todo = look(capsys, longer)
    assert (code, state, todo) == (142, 'running', f'kill -CONT {child.pid}') and 'as by SIGSTOP' in out
    child.kill()
    child.wait()
    code, state, out, todo = look(capsys, longer)
    assert (code, state) == (42, 'killed') and 'which has ended' in out and 'next: python -c' in out


ENDS = [
    (Interrupted('SIGTERM at step 6 of 8, saved'), 42, 'stopped', ''),
    (DataError('no images'), 3, 'failed', 'when the data is repaired'),
    (NumericalError('5 steps in a row'), 4, 'failed', '--rollback=6 --config.optimizer.learning_rate='),
    (DiskFullError('full'), 42, 'failed', ''),  # there is room now
    (CheckpointError('cannot write'), 42, 'failed', ''),
    (UserError('a wrong field'), 2, 'failed', 'mended'),
    (ZeroDivisionError(), 1, 'failed', 'mended'),
    (KeyboardInterrupt(), 1, 'failed', 'mended'),
]


@pytest.mark.parametrize(('error', 'code', 'state', 'todo'), ENDS, ids=lambda x: type(x).__name__)
def test_how_the_last_start_ended(error, code, state, todo, longer, capsys):
    with pytest.raises(type(error)), Lock(longer):
        raise error
    found = look(capsys, longer)
    assert found[:2] == (code, state)
    assert f'exit code {getattr(error, "exit_code", 1)}: {str(error) or type(error).__name__}' in found[2]
    assert todo in found[3] and ended.this_command()['command'] in found[3]


def largest(workdir: Path, step: int) -> Path:
    files = (file for file in (workdir / FOLDER / str(step)).rglob('*') if file.is_file())
    return max(files, key=lambda file: file.stat().st_size)


def cut(workdir: Path) -> None:
    file = largest(workdir, 6)
    file.write_bytes(file.read_bytes()[:1000])


def flip(workdir: Path) -> None:
    file = largest(workdir, 6)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rename(workdir: Path) -> None:
    (workdir / FOLDER / '6').rename(workdir / FOLDER / '7')


def of_another_run(workdir: Path) -> None:
    (workdir / 'run.json').write_text('{"id": "other"}')


DAMAGES: list[tuple[Callable[[Path], object], int, str]] = [
    (cut, 42, 'checkpoint of step 6 cannot be used: '),
    (flip, 42, 'checkpoint of step 6 cannot be used: '),
    (rename, 42, 'checkpoint of step 7 cannot be used: it was written as step 6'),
    (lambda w: shutil.rmtree(w / FOLDER / '6' / 'default'), 42, 'checkpoint of step 6 cannot be used: '),
    (lambda w: shutil.rmtree(w / FOLDER / '6'), 42, 'checkpoints that can be used: 4 of 6 steps'),
    (of_another_run, 5, 'it belongs to another run'),
    (lambda w: (w / 'run.json').write_text('{'), 2, 'run.json cannot be read'),
    (lambda w: (w / 'kept.json').write_text('[]'), 2, 'kept.json cannot be read'),
    (lambda w: (w / 'inputs.json').write_text('1'), 2, 'inputs.json cannot be read'),
    (lambda w: (w / 'config.json').write_text('{'), 2, 'is not the JSON of a run'),
    (lambda w: (w / 'config.json').unlink(), 2, 'config.json is gone'),
    (lambda w: shutil.rmtree(w / FOLDER), 42, 'checkpoints that can be used: none of 6 steps'),
]


@pytest.mark.parametrize(('damage', 'code', 'said'), DAMAGES)
def test_damages(damage, code, said, workdir, capsys):
    damage(workdir)
    found = look(capsys, workdir)
    assert found[0] == code and said in found[2]


def test_what_is_no_run(tmp_path, capsys):
    assert look(capsys, tmp_path / 'none')[:2] == (0, 'empty')
    assert look(capsys, tmp_path)[:2] == (0, 'empty')
    (tmp_path / 'photos').mkdir()
    assert look(capsys, tmp_path)[:2] == (2, 'not a workdir')
    (tmp_path / 'file').touch()
    assert look(capsys, tmp_path / 'file')[:2] == (2, 'not a workdir')
    with Lock(tmp_path / 'new'):
        assert look(capsys, tmp_path / 'new')[:2] == (0, 'running')


def test_a_full_and_read_only_disk(made, tmp_path, capsys):
    with small_disks.mounted(tmp_path / 'disk', 30_000_000) as disk:
        workdir = Path(shutil.copytree(made, disk / 'run'))
        (workdir / about.FILE).write_text(json.dumps({'run': {'total_steps': TOTAL + 2}}))
        small_disks.fill(disk, 1000)
        small_disks.read_only(disk)
        code, state, _, todo = look(capsys, workdir)
    assert (code, state) == (5, 'stopped') and todo.startswith('df -h ')


def test_an_evaluation(workdir, capsys):
    config: dict[str, Any] = json.loads((workdir / 'config.json').read_text())
    (workdir / 'config.json').write_text(json.dumps({**config, 'protocol': 'knn'}))
    assert look(capsys, workdir)[:2] == (42, 'stopped')
    (workdir / 'eval').mkdir()
    (workdir / 'eval' / 'knn.json').write_text('{}')
    assert look(capsys, workdir)[:2] == (0, 'finished')


def test_another_process_asks(workdir):
    """As users do: jax is not initialized before, and the exit code is that of the process."""
    done = subprocess.run(
        [sys.executable, '-m', 'contrastive_jax', 'doctor', f'--workdir={workdir}'], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == '' and done.stdout.startswith(f'{workdir}: finished\n')
