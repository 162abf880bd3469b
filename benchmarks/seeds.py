"""What a group of runs in one program saves: its CPU time beside that of the runs alone, and of a step in both forms.

    python -m benchmarks.seeds runs [--config mocov2:digits] [--epochs 20] [--windows 3]
    python -m benchmarks.seeds steps [--config mocov2:digits] [--windows 9]

`runs` starts the command of each seed, one after the other, then that of the group, each window with an empty cache of
compiled programs that the runs alone share, and with a filled one. `steps` times, in interleaved windows, the step of
one member, of all in turn, and of all under `jax.vmap`.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.measure import Spread
from contrastive_jax.config.load import load
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.training.build import build_run
from contrastive_jax.training.fit import load_data
from contrastive_jax.training.group_feed import GroupFeeds
from contrastive_jax.training.session import Segment
from contrastive_jax.training.step import init_state

SEEDS = (0, 1, 2)


def cpu_of(commands: Sequence[Sequence[str]], cache: Path) -> float:
    """CPU seconds of commands, one after the other."""
    env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache)}
    began = _children_s()
    for command in commands:
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return _children_s() - began


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_runs(config: str, epochs: float, windows: int) -> None:
    """Prints the table of `runs`."""
    found: dict[str, list[tuple[float, float]]] = {'empty': [], 'filled': []}
    for _ in range(windows):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)

            def command(workdir: str, field: str, place: Path = place) -> list[str]:
                length = f'--config.epochs={epochs:g}'
                given = [f'--config={config}', f'--workdir={place / workdir}', field, length]
                return [sys.executable, '-m', 'contrastive_jax.main', *given]

            for cache in found:
                alone = [command(f'{cache}{seed}', f'--config.seed={seed}') for seed in SEEDS]
                group = [command(f'{cache}group', f'--config.seeds={",".join(map(str, SEEDS))}')]
                found[cache].append((cpu_of(alone, place / 'alone'), cpu_of(group, place / 'group')))
                print(f'cache {cache}: alone {found[cache][-1][0]:.1f}, group {found[cache][-1][1]:.1f}', flush=True)
    print(f'{config}, {epochs:g} epochs, {len(SEEDS)} seeds, n = {windows}; median [minimum, maximum]')
    print('| cache of programs | runs alone, CPU s | group, CPU s | group / alone |\n|---|---|---|---|')
    for cache, pairs in found.items():
        alone_s, group_s = np.array(pairs).T
        cells = [_bracket(alone_s, '.0f'), _bracket(group_s, '.0f'), _bracket(group_s / alone_s, '.2f')]
        print(f'| {cache} | {" | ".join(cells)} |')


def measure_steps(name: str, windows: int, steps: int) -> None:
    """Prints the table of `steps`."""
    config, devices = load(name), find_devices(count=1)
    source, _ = load_data(config)
    run, forms = build_run(config, len(source)), {'one member': (1, False), 'in turn': (3, False), 'vmap': (3, True)}
    calls: dict[str, Callable[[], float]] = {}
    for form, (count, vectorized) in forms.items():
        began = time.process_time()
        calls[form] = _steps(config, run, source, devices, count, vectorized, steps)
        calls[form]()
        print(f'{form}: {time.process_time() - began:.1f} CPU s until the first steps are done', flush=True)
    found: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(windows):
        for form, call in calls.items():
            found[form].append(call())
    print(f'{name}, 3 members, n = {windows} windows of {steps} steps; median [minimum, maximum]')
    print('| form | CPU ms a step | / 3 steps of one |\n|---|---|---|')
    one = np.array(found['one member'])
    for form, ms in found.items():
        ratio = _bracket(np.array(ms) / (3 * one), '.2f') if form != 'one member' else ''
        print(f'| {form} | {_bracket(ms, ".1f")} | {ratio} |')


def _steps(config, run, source, devices, count, vectorized, steps) -> Callable[[], float]:  # type: ignore[no-untyped-def]
    """A function that takes steps of `count` members and returns the CPU milliseconds of a step."""
    feeds = GroupFeeds(vectorized)
    own = [feeds.open(run, devices, source, config=config, values={'seed': seed}) for seed in range(count)]
    init = jax.jit(lambda: devices.padded(init_state(run), run.state_specs))
    states = [devices.place(init(), run.state_specs) for _ in own]

    def call() -> float:
        nonlocal states
        began = time.process_time()
        for step in range(steps):
            segments = [Segment(feed, state, step, step + 1) for feed, state in zip(own, states, strict=True)]
            states = [state for state, _, _ in feeds.advance(segments, step + 1)]
        jax.block_until_ready(states)
        return 1e3 * (time.process_time() - began) / steps

    return call


def _bracket(values: Sequence[float] | np.ndarray, form: str) -> str:
    s = Spread.of(values)
    return f'{s.median:{form}} [{s.low:{form}}, {s.high:{form}}]'


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=('runs', 'steps'))
    parser.add_argument('--config', default='mocov2:digits', help='a recipe whose data is in memory')
    parser.add_argument('--epochs', type=float, default=20.0, help='length of each run')
    parser.add_argument('--windows', type=int, default=3, help='interleaved measurements')
    parser.add_argument('--steps_per_window', type=int, default=5)
    args = parser.parse_args(argv)
    if args.what == 'runs':
        measure_runs(args.config, args.epochs, args.windows)
    else:
        measure_steps(args.config, args.windows, args.steps_per_window)


if __name__ == '__main__':
    main()
