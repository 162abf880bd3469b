"""Trains the arms of an ablation with each seed, by the command that a user would type, and reads their results."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from contrastive_jax.ablate.ablations import Ablation, Arm, Data, changes_of, config_of
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.load import load
from contrastive_jax.config.overrides import override
from contrastive_jax.errors import Interrupted, UserError
from contrastive_jax.evaluate.verdict import comparable, verdict
from contrastive_jax.training.child import Children, children
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.folder import CONFIG_FILE, read_config

DONE = 'done.json'  # beside the workdir of a run: what was completed, see `described`


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to. Accuracies are in [0, 1]; what was not measured is NaN.

    Attributes:
      arm: the name of the arm.
      seed: the seed of the run.
      knn, probe: accuracy of kNN and of the linear probe on held-out images at the end.
      untrained: kNN accuracy at step 0.
      dip: the largest fall of the kNN accuracy from one evaluation to the next; 0 if it never fell.
      signal: the last value of the signal of the ablation.
      collapsed: whether the features of all images are nearly the same, by the rule of `evaluate.verdict`.
      error: the last line of a run that failed; '' if it did not.
    """

    arm: str
    seed: int
    knn: float = math.nan
    probe: float = math.nan
    untrained: float = math.nan
    dip: float = math.nan
    signal: float = math.nan
    collapsed: bool = False
    error: str = ''


def train(
    ablation: Ablation,
    data: Data,
    folder: Path,
    seeds: Sequence[int],
    fields: Sequence[str] = (),
    epochs: float | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> Iterator[Result]:
    """Trains every arm with every seed. Runs that were completed by an earlier call are not repeated.

    Args:
      ablation: the ablation.
      data: which recipes are used.
      folder: the folder of the ablation; the runs have workdirs in it.
      seeds: the seeds.
      fields: '--config.field=value', set in all runs.
      epochs: the length of the trainings, see `ablations.changes_of`.
      jobs: how many runs are trained at the same time.
      say: is called with a line for each run.

    Yields:
      The result of each run, as soon as it is complete.

    Raises:
      UserError: a field is wrong, or the folder holds trainings of another length; no run has begun.
      Interrupted: a signal arrived, and the running runs have saved themselves.
    """
    wanted: list[tuple[Arm, int, Path, list[str], list[str]]] = []
    for seed, arm in itertools.product(seeds, ablation.arms):  # the first seed of every arm comes first
        workdir = place(folder, arm, seed)
        given = arguments(ablation, arm, data, workdir, [*fields, f'--config.seed={seed}'], epochs)
        config = made_by(given)
        refuse_another_length(workdir, config)
        wanted.append((arm, seed, workdir, given, described(given, config)))
    with children() as processes, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_train_one, processes, ablation, *one) for one in wanted]
        try:
            for count, future in enumerate(concurrent.futures.as_completed(running), 1):
                found = future.result()
                value = f'failed: {found.error}' if found.error else f'kNN {found.knn:.1%}'
                note = ', collapsed' if found.collapsed else ''
                say(f'{found.arm}, seed {found.seed}: {value}{note} ({count} of {len(wanted)})')
                yield found
        except BaseException:
            for future in running:
                future.cancel()
            raise


def place(folder: Path, arm: Arm, seed: int) -> Path:
    """The workdir of a run."""
    return folder / re.sub(r'[^a-z0-9.]+', '_', arm.name.lower()).strip('_') / f'seed{seed}'


def arguments(
    ablation: Ablation, arm: Arm, data: Data, workdir: Path, fields: Sequence[str], epochs: float | None = None
) -> list[str]:
    """The arguments of `contrastive_jax.main` for an arm; `fields` have the last word."""
    file = f'configs/{_file(config_of(ablation, arm, data))}'
    own = {field.partition('=')[0] for field in fields}  # not given twice: the command would join the two tuples
    flags = {f'--config.{name}': value for name, value in changes_of(arm, data, load(file), epochs).items()}
    changes = [f'{flag}={value}' for flag, value in flags.items() if flag not in own]
    return [f'--config={file}', f'--workdir={workdir}', *changes, *fields]


def made_by(given: Sequence[str]) -> ConfigDict:
    """The config that the arguments of `contrastive_jax.main` make, as `arguments` returns them.

    Raises:
      UserError: a field is wrong.
    """
    config = load(given[0].removeprefix('--config='))
    if problems := override(config, [text for text in given[1:] if text.startswith('--config.')], sections_of):
        raise UserError.of(problems)
    return config


def described(given: Sequence[str], config: ConfigDict) -> list[str]:
    """What a run trains: its arguments, and a checksum of the config that they make, as a recipe may change later."""
    return [*given, hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest()[:12]]


def refuse_another_length(workdir: Path, config: ConfigDict) -> None:
    """Refuses a workdir whose run is shorter or longer: `main` would go on with another schedule, or refuse it late.

    Raises:
      UserError: it holds such a run.
    """
    if not (workdir / CONFIG_FILE).exists():
        return
    before = read_config(workdir)
    for name in ('epochs', 'steps'):
        if before.get(name) != config[name]:
            raise UserError(
                f'{workdir} holds a run with {name} {before.get(name)}, and this one has {name} {config[name]}',
                remedy='choose another --workdir, or the --epochs of before',
            )


def _file(config: str) -> str:
    """'simclr:digits' -> 'simclr.py:digits'."""
    name, _, variant = config.partition(':')
    return f'{name}.py:{variant}'


def _train_one(
    processes: Children,
    ablation: Ablation,
    arm: Arm,
    seed: int,
    workdir: Path,
    given: Sequence[str],
    description: Sequence[str],
) -> Result:
    done, log = workdir.with_name(f'seed{seed}.{DONE}'), workdir.with_name(f'seed{seed}.log')
    there = done.exists() and (workdir / metrics.FILE).exists()  # a workdir that was deleted is trained again
    if not there or json.loads(done.read_text(encoding='utf-8')) != [*description]:
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, '-m', 'contrastive_jax.main', *given]
        with log.open('wb') as file:
            code = processes.run(command, file)
        if code == Interrupted.exit_code:
            raise Interrupted(f'{arm.name}, seed {seed}: interrupted and saved; run the same command to continue')
        if code:
            last = [line for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
            return Result(arm.name, seed, error=f'exit code {code}: {last[-1] if last else "it printed nothing"}')
        write_atomically(done, json.dumps([*description]).encode())
    return read(arm.name, seed, workdir, ablation.signal)


def read(arm: str, seed: int, workdir: Path, signal: str = '') -> Result:
    """Reads the result of a completed run from its workdir."""
    lines = metrics.read(workdir)
    last: Mapping[str, float] = {k: v for line in lines for k, v in line.items() if v is not None}
    accuracies = [line['eval/knn_top1'] for line in lines if line.get('eval/knn_top1') is not None]
    falls = [before - after for before, after in itertools.pairwise(accuracies)]
    knn, probe = (comparable(last, f'eval/{name}_top1') for name in ('knn', 'probe'))
    return Result(
        arm,
        seed,
        math.nan if knn is None else knn,
        math.nan if probe is None else probe,
        last.get('baseline/knn_top1', math.nan),
        max([0.0, *falls]),
        last.get(signal, math.nan),
        any(sentence.startswith('collapsed') for sentence in verdict(last)),
    )
