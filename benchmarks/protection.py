"""The cost of what protects a run: of the train step with and without it, and how long a save holds the loop.

    python -m benchmarks.protection [--preset r18_cifar] [--windows 9] [--saves 9]

*With*: updates that are not finite are dropped inside the step, the watchdog looks every second, the lock of the
workdir shows a sign of life, and signals are heeded, all as in `training/loop.py`. *Without*: none of this. Windows
alternate, so that other load on the machine affects both alike. CPU time is that of all threads of the process.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import programs
from benchmarks.measure import Spread
from benchmarks.step import PRESETS, build
from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS, REPLICATED, Devices, find_devices
from contrastive_jax.distributed.stopping import agreed
from contrastive_jax.training import step as step_module
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir.checkpoint import Checkpoints
from contrastive_jax.workdir.checksum import checksums
from contrastive_jax.workdir.lock import Lock


def keep(dropped: PyTree, step: Array, looked_at: PyTree, new: PyTree, *rest: Any) -> tuple[PyTree, PyTree, Array]:
    """Takes the place of `finite.keep_if_finite`: keeps every update."""
    del step, looked_at, rest
    return new, dropped, jnp.asarray(True)


class Side:
    """The train step with or without protection.

    Args:
      run: what is constant in the run.
      state: the state before the first step; it is copied.
      batch: the batch of every step.
      devices: one device.
      protected: whether it is protected.
    """

    def __init__(self, run: Run, state: PyTree, batch: PyTree, devices: Devices, protected: bool):
        self.protected, self.wall = protected, list[float]()
        self.cpu = list[float]()
        self._state = devices.place(jax.tree.map(np.array, state), REPLICATED)
        self._batch = devices.place(batch, REPLICATED)
        replaced = () if protected else ((step_module, 'keep_if_finite', keep),)
        program = programs.Program(programs.step(run), state, batch, replaced)
        with program.tracing():
            mapped: Any = devices.run(partial(program.step, axis_name=AXIS), (REPLICATED,) * 2, (REPLICATED,) * 2, (0,))
            self._call = mapped.lower(self._state, self._batch).compile()
        self._step()

    def window(self, steps: int, workdir: Path) -> None:
        """Runs and times the steps of one window."""
        with guarded(workdir) if self.protected else contextlib.nullcontext() as interrupt:
            wall, cpu = time.perf_counter(), time.process_time()
            for i in range(steps):
                if interrupt is not None:
                    watchdog.mark(f'training step {i}')
                    agreed(interrupt.requested)
                self._step()
            self.wall.append((time.perf_counter() - wall) / steps)
            self.cpu.append((time.process_time() - cpu) / steps)

    def _step(self) -> None:
        self._state, sums = self._call(self._state, self._batch)
        jax.block_until_ready((self._state, sums))


@contextlib.contextmanager
def guarded(workdir: Path) -> Iterator[Interrupt]:
    """What stands around the loop of a training."""
    with Interrupt() as interrupt, Lock(workdir), watchdog.stage('training', 'step'):
        yield interrupt


def measure_saves(run: Run, state: PyTree, devices: Devices, workdir: Path, count: int) -> dict[str, list[float]]:
    """Seconds of saves of a state: until `save` returns, until the arrays are on the host, until all is on disk."""
    seconds: dict[str, list[float]] = {'held': [], 'on the host': [], 'on disk': [], 'checksums': []}
    checkpoints = Checkpoints(workdir, devices, run.state_specs)
    placed = jax.block_until_ready(devices.place(jax.tree.map(np.array, state), run.state_specs))
    for step in range(count + 1):
        began = time.perf_counter()
        jax.block_until_ready(checksums(placed, devices.sharding(REPLICATED)))
        marks = [time.perf_counter() - began]
        began = time.perf_counter()
        for done in (lambda step=step: checkpoints.save(step, placed), lambda: checkpoints.steps, checkpoints.wait):
            done()
            marks.append(time.perf_counter() - began)
        if step:  # the first one compiles
            for name, value in zip(('checksums', 'held', 'on the host', 'on disk'), marks, strict=True):
                seconds[name].append(value)
    checkpoints.close()
    return seconds


def line(name: str, values: Sequence[float] | np.ndarray, scale: float = 1e3, unit: str = 'ms') -> str:
    found = Spread.of(np.asarray(values) * scale)
    return f'{name:44} {found.median:9.2f} [{found.low:.2f}, {found.high:.2f}] {unit}'


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--preset', choices=('tiny', 'r18_cifar'), default='r18_cifar')
    parser.add_argument('--batch_size', type=int, help='batch size; the default depends on the preset')
    parser.add_argument('--windows', type=int, default=9, help='interleaved measurements of the step')
    parser.add_argument('--steps_per_window', type=int, default=2)
    parser.add_argument('--saves', type=int, default=9)
    args = parser.parse_args(argv)
    for name in ('windows', 'steps_per_window', 'saves'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)} -> it must be at least 1')
    preset, devices = PRESETS[args.preset], find_devices('jit', 1)
    batch_size = args.batch_size or preset.batch_sizes[jax.default_backend() != 'cpu']
    run = build(preset.methods['MoCo v2'], preset, batch_size, 'float32')
    state = jax.jit(partial(init_state, run))()
    size = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    print(f'MoCo v2, {args.preset}, batch {batch_size}, on {jax.devices()[0].device_kind}, jax {jax.__version__}')
    with tempfile.TemporaryDirectory() as name:
        seconds = measure_saves(run, state, devices, Path(name) / 'saves', args.saves)
        print(f'\n{args.saves} saves of {size:.0f} MB; median [minimum, maximum]')
        print(line('the loop is held', seconds['held']))
        print(line('until the arrays are on the host', seconds['on the host']))
        print(line('until all is on disk', seconds['on disk']))
        print(line('of it checksums', seconds['checksums']))
        batch = programs.resident(run, preset.classes, np.random.default_rng(0))
        sides = [Side(run, state, batch, devices, protected) for protected in (False, True)]
        for _ in range(args.windows):
            for side in sides:
                side.window(args.steps_per_window, Path(name) / 'run')
    without, protected = sides
    print(f'\n{args.windows} interleaved windows of {args.steps_per_window} steps; median [minimum, maximum]')
    print(line('a step without protection', without.wall))
    print(line('a step with it', protected.wall))
    print(line('with / without, time', np.divide(protected.wall, without.wall), 1, ''))
    print(line('with / without, CPU time', np.divide(protected.cpu, without.cpu), 1, ''))


if __name__ == '__main__':
    main()
