"""Runs an ablation of a paper: trains each arm with each seed, and writes a page with a table and a picture.

    python -m contrastive_jax.ablate
    python -m contrastive_jax.ablate simsiam --workdir=runs/ablate
    python -m contrastive_jax.ablate temperature --workdir=runs/ablate --seeds=0,1,2 --jobs=2 --epochs=30
    python -m contrastive_jax.ablate momentum --workdir=runs/ablate --data=cifar10.npz

Without a name it lists the ablations. The digits are trained on, which are embedded; with --data the images of an .npz
file of CIFAR-10, for 20 epochs. With --epochs the schedule of the learning rate fits into that length, and arms that
are trained longer have a multiple of it. Each run is started by `contrastive_jax.main` in a workdir of its own in
WORKDIR/NAME; what it prints is in a file beside it. The page is ablation.html, written again after every run. The same
command continues after an interruption and does not repeat completed runs. --config.field=value is set in all runs; it
cannot be a field in which they differ.

Exit codes: 0 all runs were trained, 1 a run failed, 2 an argument is wrong, 42 interrupted and saved.
"""

import argparse
import functools
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive_jax.ablate import page
from contrastive_jax.ablate.ablations import ABLATIONS, Data
from contrastive_jax.ablate.runs import Result, train
from contrastive_jax.config.group import refuse_lists
from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.rules import did_you_mean


def listing() -> str:
    """The ablations, a line each: how many runs, and the question."""
    width = max(map(len, ABLATIONS))
    found = {name: make('digits') for name, make in ABLATIONS.items()}
    return '\n'.join(f'{name:{width}}  {len(a.arms):2} runs  {a.question}' for name, a in found.items())


def seeds_of(text: str) -> list[int]:
    """'0,1,2' -> [0, 1, 2].

    Raises:
      UserError: it is no list of different integers from 0 on.
    """
    parts = [part.strip() for part in text.split(',')]
    seeds = [int(part) for part in parts if part.isdecimal()]
    if len(set(seeds)) < len(parts):
        raise UserError(f'--seeds {text!r} is no list of different integers -> give for example 0,1,2')
    return seeds


def run(given: argparse.Namespace, fields: Sequence[str], command: str) -> int:
    """Runs an ablation, or lists all.

    Args:
      given: the parsed arguments of the command.
      fields: '--config.field=value', set in all runs.
      command: the command as text, for the page.

    Returns:
      The exit code.

    Raises:
      UserError: an argument is wrong.
      Interrupted: a run was interrupted and is saved.
    """
    if not given.name:
        print(listing())
        return 0
    if given.name not in ABLATIONS:
        meant = did_you_mean(given.name, ABLATIONS)
        raise UserError(f'there is no ablation {given.name!r}{meant}', remedy=f'choose from {", ".join(ABLATIONS)}')
    if not given.workdir:
        raise UserError('--workdir is missing', remedy='give a folder for the runs and the page')
    if given.jobs < 1:
        raise UserError(f'--jobs {given.jobs} is below 1', remedy='give the number of runs at the same time')
    if given.epochs is not None and not 0 < given.epochs < math.inf:
        raise UserError(f'--epochs {given.epochs:g} is no length above 0', remedy='give that of a training')
    data: Data = 'cifar10' if given.data else 'digits'
    refuse_lists(fields, 'give --seeds=0,1,2 for several seeds')
    fields = [*fields]
    if given.data:
        file = Path(given.data).expanduser().absolute()
        if file.suffix != '.npz' or not file.is_file():
            raise UserError(f'--data {given.data} is no .npz file', remedy='see docs/results.md for how to write one')
        fields += ['--config.data.source=npz', f'--config.data.path={file}']
    seeds = seeds_of(given.seeds)
    if any(field.partition('=')[0] == '--config.seed' for field in fields):
        raise UserError(
            '--config.seed would be the same in all runs, which have those of --seeds', remedy='use --seeds'
        )
    ablation, folder = ABLATIONS[given.name](data), Path(given.workdir).expanduser().absolute() / given.name
    varied = {name for arm in ablation.arms for name in arm.changes}
    for name in ('--config.epochs', '--config.steps'):
        if any(field.partition('=')[0] == name for field in fields):
            raise UserError(f'{name} leaves the rest of the schedule as it is', remedy='use --epochs')
    if fixed := sorted(varied & {field.partition('=')[0].removeprefix('--config.') for field in fields}):
        raise UserError(f'--config.{fixed[0]} would be the same in all arms, which differ in it', remedy='leave it out')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot write to --workdir {folder}: {error.strerror}', remedy='choose another') from error
    print(f'{given.name}: {ablation.question}\n{len(ablation.arms) * len(seeds)} runs on {data}', flush=True)
    results: list[Result] = []
    say = functools.partial(print, flush=True)
    for result in train(ablation, data, folder, seeds, fields, given.epochs, given.jobs, say):
        results.append(result)
        page.write(ablation, results, folder, command, data)
    print('\n'.join(['', *page.sentences(ablation, results), '', page.markdown(page.table(ablation, results))]), end='')
    print(f'page: {folder / page.PAGE}')
    return 1 if any(result.error for result in results) else 0


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.ablate', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('name', nargs='?', help='the name of an ablation')
    parser.add_argument('--workdir', default='', help='a folder; each ablation has its own folder in it')
    parser.add_argument('--data', default='', help='an .npz file of CIFAR-10, instead of the digits')
    parser.add_argument('--seeds', default='0', help='the seeds of each arm, separated by commas; default: 0')
    parser.add_argument('--epochs', type=float, help="the length of a run; default: the recipe's, or 20 with --data")
    parser.add_argument('--jobs', type=int, default=1, help='how many runs are trained at the same time; default: 1')
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments, runs the ablation, and returns the exit code."""
    command = shlex.join(['python', '-m', 'contrastive_jax.ablate', *argv])

    def parse_and_run() -> int:
        parser = options()
        given, rest = parser.parse_known_args(argv)
        if unknown := [arg for arg in rest if not arg.startswith('--config.')]:
            parser.error(f'unexpected {" ".join(unknown)} -> set fields of the configs with --config.field=value')
        return run(given, rest, command)

    return exit_code_of(parse_and_run)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
