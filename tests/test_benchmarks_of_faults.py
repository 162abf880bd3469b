"""The benchmarks of what protects a run, in their tiniest form: that they run, and find what is wrong."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import endurance, faults, protection
from benchmarks.endurance import Use
from contrastive_jax.workdir.described import FOLDER

ROOT = Path(__file__).parents[1]


def scene(folder: Path) -> faults.Scene:
    """A workdir with three checkpoints of files that differ."""
    for step in (3, 6, 9):
        (folder / 'run' / FOLDER / f'{step}').mkdir(parents=True)
        (folder / 'run' / FOLDER / f'{step}' / 'values').write_bytes(bytes(range(step, 200)))
    return faults.Scene(folder / 'run', None, folder, random.Random(0), lambda: 0, lambda pid: 0)


def content(folder: Path) -> dict[str, bytes]:
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob('*') if x.is_file()}


DAMAGE = ['flip_bit', 'truncate', 'delete_file', 'empty_folder', 'rename_to_later', 'older_copied_over']


@pytest.mark.parametrize('name', DAMAGE)
def test_damage_is_done_to_the_newest_checkpoint_and_leaves_a_good_one(name: str, tmp_path: Path) -> None:
    it = scene(tmp_path)
    inject = getattr(faults, name)
    before = content(tmp_path)
    assert inject(it) is not None
    changed = {x for x in before if content(tmp_path).get(x) != before[x]}
    assert changed == {'run/checkpoints/9/values'}
    while inject(it) is not None:
        pass
    assert content(tmp_path)['run/checkpoints/3/values'] == before['run/checkpoints/3/values']


def test_chaos(compiled: Path) -> None:
    """In a process of its own: it forks."""
    flags = {'JAX_COMPILATION_CACHE_DIR': str(compiled), 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'benchmarks.chaos', '--faults=3', '--seed=1']
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, timeout=500, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'all with the values and the log of the undisturbed one' in done.stdout


def test_growth() -> None:
    uses = [Use(step, 500.0 + max(0, step - 20), 10, 30, 40, 1.0) for step in range(60)]
    assert endurance.growth(uses) == 20
    assert endurance.growth([use._replace(memory=500.0) for use in uses]) == 0


@pytest.mark.usefixtures('quick_runs')
def test_endurance(capsys: pytest.CaptureFixture[str]) -> None:
    found = endurance.main(['--steps=60', '--saves=2'])
    assert len(found) == 60 and found[-1].step == 60
    assert all(use.memory > 50 and use.descriptors > 2 and use.threads > 1 for use in found)
    assert '| 60 | ' in capsys.readouterr().out


def test_protection(capsys: pytest.CaptureFixture[str]) -> None:
    protection.main(['--preset=tiny', '--windows=2', '--steps_per_window=1', '--saves=2'])
    said = capsys.readouterr().out
    assert 'with / without, CPU time' in said and 'the loop is held' in said
    with pytest.raises(SystemExit):
        protection.main(['--windows=0'])
