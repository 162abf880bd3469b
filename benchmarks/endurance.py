"""Whether a long run needs more and more: tens of thousands of tiny steps and hundreds of saves through the real loop.

python -m benchmarks.endurance [--steps 30000] [--saves 300] [--feed resident|stream]

Prints memory, file descriptors, threads and files of the workdir at ten times, and at the end how much memory grows
from the first third of the run to the last. The run logs every 10 steps, and evaluates by kNN and a linear probe.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.configs.mocov2 import get_config
from contrastive_jax.training.evaluators import Context, Evaluator
from contrastive_jax.training.fit import fit

MEASUREMENTS = 60
ROWS = 10


class Use(NamedTuple):
    """What the process and its workdir use at a step; memory in MB (resident), workdir in MB."""

    step: int
    memory: float
    descriptors: int
    threads: int
    files: int
    disk: float


def use_of(step: int, workdir: Path) -> Use:
    """What this process and a workdir use now."""
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    files = [path for path in workdir.rglob('*') if path.is_file()]
    size = 0
    for path in files:
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # a checkpoint that is deleted now
            continue
    return Use(
        step,
        pages * os.sysconf('SC_PAGE_SIZE') / 1e6,
        len(os.listdir('/proc/self/fd')),
        len(os.listdir('/proc/self/task')),
        len(files),
        size / 1e6,
    )


class Meter(Evaluator):
    """Measures what the run uses.

    Args:
      every: steps between two measurements.
      workdir: the workdir of the run.
    """

    name, at_start, shown = 'use', False, ()

    def __init__(self, every: int, workdir: Path):
        self.every_steps, self._workdir = every, workdir
        self.found: list[Use] = []

    def __call__(self, step: int, state: Any) -> dict[str, float]:
        del state
        self.found.append(use_of(step, self._workdir))
        return {}


def growth(found: Sequence[Use]) -> float:
    """MB by which the median of the memory in the last third of the measurements is above that in the second."""
    third = len(found) // 3
    memory = np.array([use.memory for use in found])
    return float(np.median(memory[-third:]) - np.median(memory[third : 2 * third]))


def main(argv: Sequence[str] | None = None) -> list[Use]:
    """Runs, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--steps', type=int, default=30_000)
    parser.add_argument('--saves', type=int, default=300)
    parser.add_argument('--feed', choices=('resident', 'stream'), default='resident')
    args = parser.parse_args(argv)
    if not 1 <= args.saves <= args.steps or args.steps < MEASUREMENTS:
        parser.error(f'--steps {args.steps} --saves {args.saves} -> give at least {MEASUREMENTS} steps, and 1 save')
    config = get_config('tiny')
    config.update(steps=args.steps, log_every_steps=10, checkpoint_every_steps=args.steps // args.saves)
    config.update(eval_every_steps=max(args.steps // 10, 1))
    config.data.on_device = args.feed == 'resident'
    with config.unlocked():
        config.encoder.stage_sizes = (1,)
    config.augment.update(jitter_probability=0.0, grayscale=0.0, blur=(0.0, 0.0))
    config.eval.evaluators = ('knn', 'probe')
    config.eval.update(knn_k=4, max_train=64, max_test=16)
    with tempfile.TemporaryDirectory() as name:
        meters: list[Meter] = []

        def meter(context: Context) -> Evaluator:
            del context
            meters.append(Meter(args.steps // MEASUREMENTS, Path(name) / 'run'))
            return meters[0]

        fit(config, str(Path(name) / 'run'), evaluators=[meter])
        found = meters[0].found
    print(f'\n{args.steps} steps, {args.saves} saves, feed {args.feed}')
    print('| step | memory, MB | descriptors | threads | files | workdir, MB |\n|---|---|---|---|---|---|')
    for i in np.linspace(0, len(found) - 1, ROWS).round().astype(int):
        use = found[i]
        print(f'| {use.step} | {use.memory:.1f} | {use.descriptors} | {use.threads} | {use.files} | {use.disk:.2f} |')
    print(f'\nmemory grows by {growth(found):.1f} MB from the second third to the last')
    return found


if __name__ == '__main__':
    main()
