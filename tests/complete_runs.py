"""Whole runs, in this process by `training.fit` or in other processes by the command, and the files that they leave."""

import dataclasses
import functools
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from contrastive_jax.config.check import check
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices, find_devices
from contrastive_jax.errors import Interrupted
from contrastive_jax.methods import Method
from contrastive_jax.training.build import build_run
from contrastive_jax.training.evaluators import Context, Evaluator
from contrastive_jax.training.fit import build_trainer, load_data
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.rollback import roll_back
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_state, train_step
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.checkpoint import Checkpoints
from contrastive_jax.workdir.folder import open_workdir
from contrastive_jax.workdir.trackers import Tracker
from tests.tiny_configs import get_config

REPOSITORY = Path(__file__).parents[1]
TIMEOUT_S = 300
# The pieces that Gloo writes one by one, with numbers between them.
GLOO = re.compile(r'\[Gloo\] Rank | is connected to | peer ranks\. ?|Expected number of connected peer ranks is : ?')


class Cut(Interrupt):
    """Asks a run to stop once a step is done, as a SIGTERM at that moment would."""

    at: int | None = None  # None: never
    done = 0

    @property
    def requested(self) -> str | None:
        return 'SIGTERM' if Cut.at is not None and Cut.done >= Cut.at else None

    @requested.setter
    def requested(self, value: str | None) -> None:
        pass

    def __enter__(self) -> 'Cut':
        return self

    def __exit__(self, *exception: Any) -> None:
        pass


# Equal configs share their run and its compiled programs: what these tests are about is what happens between steps.
RUNS: dict[Any, Run] = {}
PROGRAMS: dict[Any, Callable[..., Any]] = {}


class SharedDevices(Devices):
    """Devices that compile equal programs once, and tell `Cut` which step is done."""

    @classmethod
    def of(cls, mode: Any, count: int) -> 'SharedDevices':
        return cls(find_devices(mode, count).mesh, mode)

    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        if not isinstance(step, functools.partial):
            return super().run(step, *args, **kwargs)
        key = self, step.func, step.keywords['step'], id(step.keywords['run'])
        if key not in PROGRAMS:
            PROGRAMS[key] = super().run(step, *args, **kwargs)

        def call(*given: Any) -> Any:
            state, sums = PROGRAMS[key](*given)
            if step.keywords['step'] is train_step:
                Cut.done = int(self.fetch(state.step))
            return state, sums

        return call


def tiny_config(name: str, **changes: Any) -> ConfigDict:
    """A config of tiny_configs.py without pictures, with dotted fields changed."""
    config = get_config(name)
    config.eval.evaluators = ('knn', 'probe', 'signals')
    config.update_from_flattened_dict(changes)
    return config


def fit(
    config: ConfigDict,
    workdir: Path,
    count: int = 2,
    at: int | None = None,
    evaluators: Sequence[Callable[[Context], Evaluator]] = (),
    rollback: int | None = None,
    method: Method | None = None,
    track: Callable[[Path, Callable[[str], None]], Sequence[Tracker]] | None = None,
) -> dict[str, float] | str:
    """Trains as `training.fit` does, on the first `count` devices; interrupted after step `at`, if given.

    Args:
      config, workdir, evaluators, rollback: as for `training.fit`.
      count: number of devices.
      at: a step.
      method: takes the place of the method of the config.
      track: opens trackers in the workdir, given a function that prints.

    Returns:
      The last evaluation, or what the interruption said.
    """
    Cut.at, Cut.done = at, 0
    devices = SharedDevices.of(config.parallel, count)
    assert check(config, count) == []
    source, held_out = load_data(config)
    same = config.copy_and_resolve_references()
    same.data.update(source='', path='')  # of the data, a run and its programs depend on the number of images alone
    key = same.to_json(), len(source), method
    run = build_run(config, len(source))
    run = RUNS.setdefault(key, run if method is None else dataclasses.replace(run, method=method))
    path = open_workdir(str(workdir), config, may_differ=rollback is not None)
    try:
        trainer = build_trainer(config, path, devices, run, source, held_out, evaluators)
        trainer.track = None if track is None else functools.partial(track, path)
        if rollback is not None:
            roll_back(trainer, rollback, config, {})
        return trainer.fit(Cut())
    except Interrupted as stop:
        return str(stop)


def saved(config: ConfigDict, workdir: Path) -> tuple[int, TrainState]:
    """The newest checkpoint, as numpy in the global layout."""
    source, _ = load_data(config)
    run = build_run(config, len(source))
    devices = find_devices('jit', 1)
    checkpoints = Checkpoints(workdir, devices, run.state_specs)
    found = checkpoints.restore(jax.eval_shape(lambda: init_state(run)))
    checkpoints.close()
    assert found is not None
    return found.step, jax.device_get(found.state)


def digest(state: PyTree) -> str:
    """Of every bit of a state."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        x = np.asarray(leaf)
        sha.update(f'{jax.tree_util.keystr(path)} {x.dtype}{x.shape}'.encode() + x.tobytes())
    return sha.hexdigest()


def lines(workdir: Path) -> list[dict[str, float]]:
    """What `metrics.jsonl` holds, without what no two runs have in common."""
    text = (workdir / metrics.FILE).read_text()
    return [{k: v for k, v in json.loads(x).items() if k != 'images_per_second'} for x in text.splitlines()]


def tree_digest(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    below = (p for p in sorted(folder.rglob('*')) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in below}


def write_npz(path: Path, train_images: int, test_images: int = 32) -> Path:
    """The first of the digits as an .npz file: a data set of a few steps an epoch."""
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    rows, held_out = slice(0, train_images), slice(1000, 1000 + test_images)
    np.savez(
        path,
        train_images=images[rows],
        train_labels=data.target[rows],
        test_images=images[held_out],
        test_labels=data.target[held_out],
    )
    return path


# ================================ in other processes ================================


def start(
    name: str, workdir: Path, *args: str, devices: int = 2, file: str = 'tests/tiny_configs.py'
) -> subprocess.Popen[str]:
    """Starts the command on a tiny config and virtual devices; what it says goes to files beside the workdir."""
    flags = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag]
    env = {
        **os.environ,
        'XLA_FLAGS': ' '.join([*flags, f'--xla_force_host_platform_device_count={devices}']),
        'JAX_DEFAULT_MATMUL_PRECISION': 'highest',  # as in conftest.py
    }
    command = [sys.executable, '-m', 'contrastive_jax.main', f'--config={file}:{name}', f'--workdir={workdir}']
    number = len(list(workdir.parent.glob('*.out')))
    streams = [workdir.parent / f'{number}.{name}' for name in ('out', 'err')]
    with streams[0].open('w') as out, streams[1].open('w') as err:
        child = subprocess.Popen([*command, *args], cwd=REPOSITORY, env=env, stdout=out, stderr=err, text=True)
    child.streams = streams  # type: ignore[attr-defined]
    return child


def start_together(
    name: str, workdir: Path, *fields: Mapping[str, object], devices: int = 4
) -> list[subprocess.Popen[str]]:
    """Starts the command in a process for each of `fields`, with equal parts of the devices, on the loopback."""
    address = free_address()
    return [
        start(
            name,
            workdir,
            *(f'--config.{field}={value}' for field, value in given.items()),
            *(f'--coordinator_address={address}', f'--num_processes={len(fields)}', f'--process_id={i}'),
            devices=devices // len(fields),
        )
        for i, given in enumerate(fields)
    ]


def free_address() -> str:
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return f'localhost:{s.getsockname()[1]}'


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for the end. Returns the exit code, stdout and stderr, without what the CPU's collectives say."""
    code = child.wait(TIMEOUT_S)
    out, err = (path.read_text() for path in child.streams)  # type: ignore[attr-defined]
    return code, without_gloo(out), without_waiting(err)


def without_gloo(text: str) -> str:
    """Gloo's threads write a message in pieces, and so into each other's lines: those are left out whole."""
    lines = [GLOO.sub(' ', line) for line in text.splitlines()]
    return ''.join(f'{line}\n' for line in lines if line.strip(' 0123456789'))


def without_waiting(text: str) -> str:
    """Orbax says so when a save takes longer than the steps up to the next one, as on a slow machine."""
    return ''.join(line for line in text.splitlines(keepends=True) if 'Waiting for previous save' not in line)


def wait_for_step(workdir: Path, step: int, *running: subprocess.Popen[str]) -> None:
    """Until the log has reached a step, while the processes are alive."""

    def reached() -> bool:
        return any(line['step'] >= step for line in metrics.read(workdir))

    wait_until(reached, lambda: all(child.poll() is None for child in running))


def wait_until(done: Callable[[], bool], alive: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not done():
        assert alive(), 'a process ended too early'
        assert time.monotonic() < end, 'nothing happens'
        time.sleep(0.01)
