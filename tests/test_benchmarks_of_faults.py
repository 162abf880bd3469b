"""The benchmarks of what protects a run, in their tiniest form: that they run, and find what is wrong."""

import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import endurance, faults, protection
from benchmarks.endurance import Use
from benchmarks.step import PRESETS, build
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.training.step import init_state
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
    inject(it)
    assert {x: content(tmp_path)[x] for x in before if '/9/' not in x} == {
        x: before[x] for x in before if '/9/' not in x
    }


@pytest.mark.usefixtures('one_device')
def test_chaos() -> None:
    """In a process of its own: it forks."""
    command = [sys.executable, '-m', 'benchmarks.chaos', '--faults=1', '--seed=1']
    done = subprocess.run(
        command, env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, timeout=500, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'all with the values and the log of the undisturbed one' in done.stdout


def test_growth() -> None:
    uses = [Use(step, 500.0 + max(0, step - 20), 10, 30, 40, 1.0) for step in range(60)]
    assert endurance.growth(uses) == 20
    assert endurance.growth([use._replace(memory=500.0) for use in uses]) == 0


def test_saves_are_measured_in_order(tmp_path: Path) -> None:
    run = build('mocov2:tiny', PRESETS['tiny'], 16, 'float32')
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(partial(init_state, run)))
    found = protection.measure_saves(run, state, find_devices('jit', 1), tmp_path, 2)
    for held, host, disk in zip(found['held'], found['on the host'], found['on disk'], strict=True):
        assert 0 < held < host < disk
    assert len(found['checksums']) == 2


def test_a_step_without_protection_keeps_every_update() -> None:
    with pytest.raises(SystemExit):
        protection.main(['--windows=0'])
    new, dropped, kept = protection.keep('counts', 3, {}, {'w': np.nan}, {'w': 1.0}, 5, None)
    assert (list(new), dropped, bool(kept)) == (['w'], 'counts', True) and np.isnan(new['w'])
