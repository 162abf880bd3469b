"""Learning curves beside peers: each method with this package and with an independent one in PyTorch.

    python -m benchmarks.curves --data cifar10.npz
    python -m benchmarks.curves --data cifar10.npz --methods mocov2,byol --side torch
    python -m benchmarks.curves --report

Both sides train the same small network on the same images, as many of them, by the recipe in `curve_recipes.py`: ours
by `training.fit`, the other with lightly's and timm's parts (`torch_recipes.py`). Features of both are measured by the
same kNN and linear probe. Every finished run is a line in the results; the same command does only what is missing, and
continues an interrupted run of ours. It prints the table, and draws curves.png in the workdir. The sides may run in
different environments; only `--side torch` needs torch, lightly and timm.
"""

import argparse
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.curve_recipes import METHODS, Size, recipe
from benchmarks.curve_table import SIDES, append, draw, missing, read, table
from contrastive_jax.ablate.__main__ import seeds_of
from contrastive_jax.data import npz
from contrastive_jax.distributed.hosts import enable_compilation_cache
from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.evaluate.linear import linear_probe
from contrastive_jax.evaluate.online import FEW_TEST, evenly_spaced
from contrastive_jax.reproduce.results import environment
from contrastive_jax.rules import did_you_mean
from contrastive_jax.workdir import metrics

Point = dict[str, float]


def cut(data: Path, size: Size, folder: Path) -> Path:
    """Writes the first images of both splits of an .npz file to a file of their own, which both sides read.

    Raises:
      UserError: the file cannot be read, or has too few images.
    """
    file = folder / f'images_{size.train_images}_{size.test_images}.npz'
    if file.exists():
        return file
    arrays: dict[str, np.ndarray] = {}
    for split, count in (('train', size.train_images), ('test', size.test_images)):
        source = npz.load(data, split)
        if source.labels is None or len(source) < count:
            raise UserError(f'{data} has {len(source)} labeled {split} images, {count} are needed', remedy='give more')
        arrays |= {f'{split}_images': source.array[:count], f'{split}_labels': source.labels[:count]}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


def train_ours(config: ConfigDict, workdir: Path) -> list[Point]:
    """Trains with `training.fit`, and reads what its evaluators measured."""
    from contrastive_jax.training.fit import fit

    fit(config, str(workdir))
    return [
        {'images': line['step'] * config.batch_size, 'knn': line['eval/knn_top1'], 'probe': line['eval/probe_top1']}
        for line in metrics.read(workdir)
        if 'eval/knn_top1' in line
    ]


def train_torch(config: ConfigDict, images: Path) -> list[Point]:
    """Trains with PyTorch, and measures its features as our evaluators do: the untrained encoder on fewer images."""
    from benchmarks.torch_recipes import Features, train

    points: list[Point] = []
    with np.load(images) as file:
        data = dict(file)

    def evaluate(step: int, features: Features) -> None:
        rows = evenly_spaced(len(data['test_images']), FEW_TEST if step == 0 else len(data['test_images']))
        labels, test_labels = data['train_labels'], data['test_labels'][rows]
        found, test = features(data['train_images']), features(data['test_images'][rows])
        given = found, labels, test, test_labels, 1 + int(labels.max())
        knn = knn_accuracy(*given, k=config.eval.knn_k, temperature=config.eval.knn_temperature)['top1']
        probe = linear_probe(*given)['top1']
        points.append({'images': step * config.batch_size, 'knn': knn, 'probe': probe})
        print(f'step {step}: kNN {knn:.1%}, linear probe {probe:.1%}', flush=True)

    train(config, data['train_images'], evaluate)
    return points


def run_one(method: str, side: str, seed: int, size: Size, images: Path, workdir: Path, command: str) -> dict[str, Any]:
    """Trains one seed of a method on one side.

    Returns:
      The line for the results.
    """
    config = recipe(method, size, seed)
    with config.unlocked():
        config.data.update(source='npz', path=str(images))
    began = time.monotonic()
    if side == 'ours':
        parts = '_'.join(map(str, dataclasses.astuple(size)))
        points = train_ours(config, workdir / f'{method}_{parts}_seed{seed}')
        versions = {}
    else:
        points = train_torch(config, images)
        versions = {name: version(name) for name in ('torch', 'lightly', 'timm')}
    return {
        'method': method, 'side': side, 'seed': seed, 'size': dataclasses.asdict(size), 'points': points,
        'seconds': round(time.monotonic() - began, 1), 'cores': len(os.sched_getaffinity(0)), **environment(),
        **versions, 'command': command,
    }  # fmt: skip


def listed(text: str, legal: Sequence[str], flag: str) -> list[str]:
    """'a,b' -> ['a', 'b'], each of which must be legal.

    Raises:
      UserError: one is not.
    """
    names = text.split(',')
    for name in names:
        if name not in legal:
            remedy = f'choose from {", ".join(legal)}'
            raise UserError(f'{flag} {name!r} is unknown{did_you_mean(name, legal)}', remedy=remedy)
    return names


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('benchmarks.curves', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--data', default='', help='an .npz file of CIFAR-10 or of other labeled images of 32 pixels')
    parser.add_argument('--methods', default=','.join(METHODS), help='separated by commas; default: all')
    parser.add_argument(
        '--side', default=','.join(SIDES), help='ours, torch, or both, separated by a comma; the default'
    )
    parser.add_argument('--seeds', default='0,1,2', help='separated by commas; default: 0,1,2')
    for field in dataclasses.fields(Size):
        help_text = f'{field.name.replace("_", " ")}; default: {field.default}'
        parser.add_argument(f'--{field.name}', type=int, default=field.default, help=help_text)
    parser.add_argument('--results', default='results/curves.jsonl', help='the file of results')
    parser.add_argument('--workdir', default='runs/curves', help='a folder for our runs and the picture')
    parser.add_argument('--report', action='store_true', help='print the table and draw the picture, train nothing')
    return parser


def main(argv: Sequence[str]) -> int:
    """Trains what is missing, and reports; returns the exit code."""
    command = shlex.join(['python', '-m', 'benchmarks.curves', *argv])

    def run() -> int:
        given = options().parse_args(argv)
        size = Size(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Size)})
        methods = listed(given.methods, list(METHODS), '--methods')
        sides, seeds = listed(given.side, SIDES, '--side'), seeds_of(given.seeds)
        file, workdir = Path(given.results), Path(given.workdir).absolute()
        if problem := size.problem():
            raise UserError(problem)
        if not given.report:
            if not given.data:
                raise UserError('--data is missing', remedy='give an .npz file, see docs/results.md')
            enable_compilation_cache()
            images = cut(Path(given.data), size, workdir)
            todo = missing(read(file), methods, sides, seeds, dataclasses.asdict(size))
            for i, (method, side, seed) in enumerate(todo, 1):
                print(f'{method}, {side}, seed {seed} ({i} of {len(todo)})', flush=True)
                append(run_one(method, side, seed, size, images, workdir, command), file)
        runs = [run for run in read(file) if run['size'] == dataclasses.asdict(size)]
        workdir.mkdir(parents=True, exist_ok=True)
        draw(runs, workdir / 'curves.png')
        print(f'\n{table(runs)}\n\npicture: {workdir / "curves.png"}')
        return 0

    return exit_code_of(run)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
