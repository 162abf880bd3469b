"""Runs the experiments that fit a given time, in an order of worth: `python -m contrastive_jax.reproduce --gpu`."""

import dataclasses
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contrastive_jax.errors import CheckpointError, Interrupted, NumericalError, UserError
from contrastive_jax.reproduce import timing
from contrastive_jax.reproduce.references import Experiment
from contrastive_jax.reproduce.results import append_result
from contrastive_jax.reproduce.run_experiment import (
    PRETRAINING,
    RESULT,
    check_images,
    completed,
    load_config,
    load_configs,
    read_json,
    run_experiment,
    write_json,
)
from contrastive_jax.reproduce.table import align, one_decimal
from contrastive_jax.reproduce.timing import Timing
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir import metrics

TIMINGS = 'timings.json'  # in WORKDIR: what was measured, by config
# The experiments that are run first: published accuracies on CIFAR-10, the cheapest for what they show first. All
# others follow in the order of the table: the digits, then ImageNet.
WORTH = (
    'mocov2_cifar10', 'mocov2_cifar10_symmetric', 'instdis_cifar10', 'invaspread_cifar10', 'mocov2_cifar10_400',
    'simclr_cifar10', 'mocov2_cifar10_symmetric_400', 'mocov2_cifar10_800', 'mocov2_cifar10_symmetric_800',
)  # fmt: skip


@dataclasses.dataclass
class Outcome:
    """What became of an experiment.

    Attributes:
      what: 'pass', 'MISSED', 'stopped', 'failed' or 'left out'.
      why: the accuracies, or the reason.
      estimated_s: what it was estimated to take, in seconds; None: it was not estimated.
      took_s: what it took in this call.
    """

    what: str
    why: str
    estimated_s: float | None = None
    took_s: float | None = None


def in_order(experiments: Mapping[str, Experiment]) -> list[str]:
    """The names of experiments, the most worthwhile first."""
    first = [name for name in WORTH if name in experiments]
    return [*first, *(name for name in experiments if name not in first)]


def run_all(
    experiments: Mapping[str, Experiment],
    place: Callable[[str], tuple[Experiment, Path]],
    *,
    minutes: float,
    data: str,
    folder: Path,
    results: Path,
    command: str,
) -> dict[str, Outcome]:
    """Runs each experiment that fits what is left of the time, and appends its result to a file.

    Args:
      experiments: all of them, by name.
      place: gives an experiment, with its seed, and its folder.
      minutes: the time for everything. At its end the running experiment is saved, and the same call continues it.
      data: an .npz file, or the data_dir of TFDS; '': only experiments with embedded data can run.
      folder: exists, and keeps what was measured, for the next call.
      results: the file of results.
      command: the command that started this, for the results.

    Returns:
      The outcomes, in the order of worth.

    Raises:
      Interrupted: a signal arrived; everything that was done is saved.
    """
    end = time.monotonic() + 60 * minutes
    outcomes: dict[str, Outcome] = {}
    with Interrupt() as interrupt:

        def stop_if_asked() -> None:
            if interrupt.requested:
                raise Interrupted(f'{interrupt.requested} between two experiments; run the same command to continue')

        for name in in_order(experiments):
            stop_if_asked()
            experiment, own = place(name)
            try:
                outcome = _run(name, experiment, own, folder, data, end, command, stop_if_asked)
                if result := read_json(own / RESULT):
                    append_result(result, results)
            except (NumericalError, CheckpointError) as error:
                outcome = Outcome('failed', str(error).split(' -> ')[0])
            except UserError as error:
                outcome = Outcome('left out', str(error).split(' -> ')[0])
            except Interrupted:
                raise
            except Exception as error:  # one experiment that fails must not cost the others their time
                traceback.print_exc()
                outcome = Outcome('failed', ' '.join(f'{type(error).__name__}: {error}'.split())[:200])
            outcomes[name] = outcome
            print(f'{name}: {outcome.what}: {outcome.why}', flush=True)
    return outcomes


def _run(
    name: str,
    experiment: Experiment,
    own: Path,
    folder: Path,
    data: str,
    end: float,
    command: str,
    stop_if_asked: Callable[[], None],
) -> Outcome:
    """Runs one experiment until `end`, if it fits."""
    from contrastive_jax.training.fit import load_data  # jax finds its devices once, after the hosts are connected

    embedded = load_config(experiment.config, experiment.changes).data.source == 'digits'
    config, evaluations = load_configs(experiment, own, '' if embedded else data)
    if (result := completed(config, own)) is not None:
        return _judged(result, None)
    if end <= time.monotonic():
        return Outcome('left out', 'the time is over')
    check_images(config)
    source, held_out = load_data(config)
    if hours := timing.hours_on_a_cpu(config, len(source), most_s=end - time.monotonic()):
        return Outcome('left out', f'needs about {hours:.0f} h on this CPU by its operations', 3600 * hours)
    measured = _measured(folder, _key(experiment), lambda: timing.measure(config, source, held_out))
    done = max((line['step'] for line in metrics.read(own / PRETRAINING)), default=0)
    needs = timing.estimate(config, evaluations, measured, (len(source), len(held_out or ())), done)
    left = end - time.monotonic()
    if needs > left:
        rate = f'{1e3 * measured.step_s:.3g} ms a step'
        why = f'needs about {needs / 60:.1f} min ({rate}), and {max(left, 0) / 60:.1f} are left'
        return Outcome('left out', why, needs)
    stop_if_asked()  # the experiment does not hear of a signal that came while it was measured
    began, over = time.monotonic(), threading.Event()

    def stop() -> None:
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(min(left, threading.TIMEOUT_MAX), stop)
    timer.daemon = True
    timer.start()
    try:
        result = run_experiment(name, experiment, own, '' if embedded else data, command)
    except Interrupted as error:
        if not over.is_set():
            raise
        return Outcome('stopped', f'the time is over: {error}', needs, time.monotonic() - began)
    finally:
        timer.cancel()
    return dataclasses.replace(_judged(result, needs), took_s=time.monotonic() - began)


def _key(experiment: Experiment) -> str:
    """What the time of a step depends on: the config and its changes, but not its length."""
    changes = {name: x for name, x in experiment.changes.items() if name not in ('epochs', 'steps', 'seed')}
    return ' '.join([experiment.config, *([json.dumps(changes, default=str)] if changes else [])])


def _measured(folder: Path, key: str, measure: Callable[[], Timing]) -> Timing:
    """What was measured on this device, in this call or an earlier one."""
    known = read_json(folder / TIMINGS) or {}
    if key in known and known[key]['device'] == timing.this_device():
        return Timing(**known[key])
    print(f'measuring {key} ...', flush=True)
    found = measure()
    write_json(folder / TIMINGS, {**known, key: dataclasses.asdict(found)})
    return found


def _judged(result: Mapping[str, Any], needs: float | None) -> Outcome:
    numbers = (
        f'{x["metric"]} {one_decimal(x["ours"])} (reference {one_decimal(x["reference"])}, tolerance '
        f'{one_decimal(x["tolerance"])})'
        for x in result['numbers']
    )
    return Outcome('pass' if result['passed'] else 'MISSED', ', '.join(numbers), needs, result['seconds'])


def outcomes_table(outcomes: Mapping[str, Outcome]) -> str:
    """A table of what was run, what was left out, and why."""
    minutes = lambda s: '' if s is None else f'{s / 60:.1f}'  # noqa: E731
    lines = [('experiment', 'outcome', 'estimated min', 'took min', '')]
    for name, outcome in outcomes.items():
        lines.append((name, outcome.what, minutes(outcome.estimated_s), minutes(outcome.took_s), outcome.why))
    return align(lines)
