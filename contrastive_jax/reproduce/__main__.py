"""Runs an experiment: trains, evaluates, and compares the accuracies with published or earlier ones.

    python -m contrastive_jax.reproduce --list
    python -m contrastive_jax.reproduce mocov2_digits
    python -m contrastive_jax.reproduce mocov2_digits --seed=1
    python -m contrastive_jax.reproduce mocov2_cifar10 --data=cifar10.npz
    python -m contrastive_jax.reproduce --gpu --minutes=60 --data=cifar10.npz

Without a name, or with --list, it prints the table of all experiments (contrastive_jax/reproduce/references.py). At the
end it prints the reference accuracies, tolerances, our accuracies and whether the experiment passed. It appends one
JSON object with all accuracies, hardware, commit, time and command to the file of results. Training and each evaluation
have their own workdir in WORKDIR/NAME, with --seed=N in WORKDIR/NAME_seedN: run the same command again to continue
after an interruption; completed stages are not repeated, and a result is recorded once. On several hosts, run the
command on each of them with a WORKDIR that all of them can access.

--gpu runs the experiments that fit --minutes, those with published accuracies on CIFAR-10 first. It measures a short
run of each on this device to estimate its time, and says at the end what it left out and why. When the time is over the
running experiment is saved; the same command goes on with it. Without a GPU it does the same on the CPU, where only the
digits fit an hour.

Exit codes: 0 all references are met, 7 a reference is missed, 42 interrupted and saved (run the same command again), 2
an argument is wrong, 3 the data is missing or wrong, 4 loss or state became NaN, 5 a checkpoint cannot be read or
written.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from contrastive_jax.distributed.hosts import connect, enable_compilation_cache, end_alone
from contrastive_jax.errors import UserError
from contrastive_jax.reproduce.budget import outcomes_table, run_all
from contrastive_jax.reproduce.references import EXPERIMENTS, Experiment
from contrastive_jax.reproduce.results import append_result, check_writable, environment
from contrastive_jax.reproduce.run_experiment import run_experiment
from contrastive_jax.reproduce.table import experiments_table, result_table
from contrastive_jax.rules import did_you_mean
from contrastive_jax.training.interrupt import RESTART

MISSED = 7  # exit code
MINUTES = 60.0  # the time for --gpu
RESULTS = 'results.jsonl'  # the file of results in WORKDIR


def find_experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
      UserError: there is none of this name.
    """
    if name not in EXPERIMENTS:
        raise UserError(f'there is no experiment {name!r}{did_you_mean(name, EXPERIMENTS)} -> --list shows all of them')
    return EXPERIMENTS[name]


def with_seed(experiment: Experiment, name: str, seed: int) -> tuple[Experiment, str]:
    """An experiment with another seed of the training, and its folder in WORKDIR.

    Args:
      experiment: an experiment, whose recipe has the seed 0.
      name: its name.
      seed: the seed; 0 changes nothing.
    """
    if not seed:
        return experiment, name
    return dataclasses.replace(experiment, changes={**experiment.changes, 'seed': seed}), f'{name}_seed{seed}'


def run(given: argparse.Namespace, command: str) -> int:
    """Runs the experiment, or prints the table of all.

    Args:
      given: the parsed arguments of the command.
      command: the command as text, for the result.

    Returns:
      The exit code.
    """
    if given.list or not (given.name or given.gpu):
        print(experiments_table(EXPERIMENTS))
        return 0
    if given.gpu and given.name:
        raise UserError(f'--gpu chooses the experiments, and {given.name} is given -> leave one of them out')
    experiment, place = None, ''
    if given.name:
        experiment, place = with_seed(find_experiment(given.name), given.name, given.seed)
    if given.minutes is not None and not given.gpu:
        raise UserError(f'--minutes {given.minutes:g} is for --gpu -> leave it out')
    minutes = MINUTES if given.minutes is None else given.minutes
    if not minutes > 0:
        raise UserError(f'--minutes {given.minutes:g} is out of range -> give a time above 0')
    if '://' in given.workdir:
        raise UserError(f'--workdir {given.workdir} is not local -> mount the bucket and give the mounted folder')
    folder = Path(given.workdir).expanduser().absolute()
    file = Path(given.results).expanduser() if given.results else folder / RESULTS
    if file.is_dir():
        raise UserError(f'--results {file} is a folder -> give a file, e.g. {file / RESULTS}')
    connect(given.coordinator_address, given.num_processes, given.process_id)
    enable_compilation_cache()
    if given.results and jax.process_index() == 0:
        check_writable(file)
    if experiment is None:
        return run_gpu(given, minutes, folder, file, command)
    result = run_experiment(given.name, experiment, folder / place, given.data, command)
    if jax.process_index() == 0:
        append_result(result, file)
        print(f'\n{result_table(result)}\nrecorded in {file}', flush=True)
    passed = result['passed']
    if jax.process_count() > 1:  # only the first host has the results of all stages
        passed = bool(multihost_utils.broadcast_one_to_all(np.array(passed)))
    return 0 if passed else MISSED


def run_gpu(given: argparse.Namespace, minutes: float, folder: Path, file: Path, command: str) -> int:
    """Runs the experiments that fit the time, and prints what became of all of them.

    Args:
      given: the parsed arguments of the command.
      minutes: the time for all of them.
      folder: the folder of all experiments.
      file: the file of results.
      command: the command as text, for the results.

    Returns:
      The exit code.
    """
    if jax.process_count() > 1:
        raise UserError('--gpu is for one host -> run single experiments on several')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot write to --workdir {folder}: {error.strerror}', remedy='choose another') from error
    on_gpu = jax.default_backend() == 'gpu'
    machine = environment()
    print(f'{minutes:g} min on {machine["devices"]}, {machine["hosts"]}' + '; no GPU' * (not on_gpu), flush=True)

    def place(name: str) -> tuple[Experiment, Path]:
        experiment, own = with_seed(EXPERIMENTS[name], name, given.seed)
        return experiment, folder / own

    outcomes = run_all(
        EXPERIMENTS, place, minutes=minutes, data=given.data, folder=folder, results=file, command=command
    )
    print(f'\n{outcomes_table(outcomes)}\nresults: {file}', flush=True)
    found = {outcome.what for outcome in outcomes.values()}
    return RESTART if 'stopped' in found else MISSED if found & {'MISSED', 'failed'} else 0


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.reproduce', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('name', nargs='?', help='the name of an experiment')
    parser.add_argument('--list', action='store_true', help='print the table of all experiments and exit')
    parser.add_argument(
        '--gpu', action='store_true', help='run the experiments that fit --minutes, in an order of worth'
    )
    parser.add_argument('--minutes', type=float, help=f'the time for --gpu; default: {MINUTES:g}')
    parser.add_argument(
        '--data', default='', help='an .npz file, or the data_dir of TFDS; not for the digits, which are embedded'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='the seed of the training, instead of 0: for the mean of several runs'
    )
    parser.add_argument(
        '--workdir', default='runs/reproduce', help='a folder; each experiment has its own folder in it'
    )
    parser.add_argument(
        '--results', default='', help=f'the file of results, one JSON object per line; default: WORKDIR/{RESULTS}'
    )
    parser.add_argument(
        '--coordinator_address', help='host:port of process 0, for several hosts, as in contrastive_jax.main'
    )
    parser.add_argument('--num_processes', type=int, help='the number of hosts, with --coordinator_address')
    parser.add_argument('--process_id', type=int, help='the number of this host, with --coordinator_address')
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments, runs the command, and returns the exit code."""
    command = shlex.join(['python', '-m', 'contrastive_jax.reproduce', *argv])
    return end_alone(lambda: run(options().parse_args(argv), command))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
