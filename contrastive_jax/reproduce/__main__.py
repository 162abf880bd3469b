"""Trains and judges what a stated number was measured on, and says whether it is met.

    python -m contrastive_jax.reproduce --list
    python -m contrastive_jax.reproduce mocov2_digits
    python -m contrastive_jax.reproduce mocov2_cifar10 --data=cifar10.npz

Without a name, or with --list: the table of the references (contrastive_jax/reproduce/references.py). At the end it
prints reference, tolerance, ours and the verdict, and appends one line of JSON with all numbers, hardware, commit, time
and command to the results file. Pretraining and each evaluation have a folder of their own in WORKDIR/NAME: the same
command goes on where it was stopped, and nothing is run or recorded twice. On several hosts start it on each, with a
WORKDIR that all of them see.

Exit codes: 0 every number is met, 7 one is missed, 42 interrupted and saved (start it again), 2 a mistake in what was
given, 3 a problem of the data, 4 loss or state went to NaN, 5 no checkpoint can be read, or written.
"""

import argparse
import datetime
import importlib
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.distributed.hosts import connect, enable_compilation_cache
from contrastive_jax.errors import DataError, Interrupted, UserError, exit_code_of
from contrastive_jax.reproduce.references import IMAGES, REFERENCES, Reference
from contrastive_jax.rules import did_you_mean
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir import about, metrics
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.folder import open_workdir

MISSED = 7  # exit code

PRETRAINING = 'pretraining'  # folder of a reference's training
SECONDS, RESULT = 'seconds.json', 'result.json'  # in a reference's folder
RESULTS = 'results.jsonl'  # of all references

# How data that nobody may download for others becomes a file.
REMEDY = {
    'cifar10': (
        '--data=cifar10.npz, written by np.savez(file, train_images=..., train_labels=..., test_images=..., '
        'test_labels=...) with images uint8[n, 32, 32, 3], or --data=DIR, the data_dir of TFDS'
    ),
    'imagenet2012': '--data=DIR, the data_dir of TFDS in which imagenet2012 is prepared',
}


def reproduce(name: str, reference: Reference, folder: Path, data: str = '', command: str = '') -> dict[str, Any]:
    """Runs what is not yet done of a reference: its training, its evaluations.

    Args:
      name: of the reference.
      reference: what is run.
      folder: of this reference.
      data: an .npz file, or the data_dir of TFDS; empty for embedded data.
      command: for the result.

    Returns:
      The result, which is also in the folder. Of a reference that is finished, as it was.

    Raises:
      UserError: something that the user can mend, told before anything is compiled.
      Interrupted: a signal came; all that was done is saved.
    """
    from contrastive_jax.training.fit import fit  # after the hosts are connected: jax finds its devices once

    config, judges = load_configs(reference, folder, data)
    if jax.process_index() == 0:
        evaluations = ', '.join(number.protocol for number in reference.numbers)
        print(f'{name}: trains {reference.config}, then {evaluations}; expect {reference.cost}', flush=True)
    with Interrupt() as interrupt:  # training and probes have their own; this is for what lies between

        def heed() -> None:
            if multihost_utils.process_allgather(np.array(interrupt.requested is not None)).any():
                raise Interrupted('a signal between two stages; the same command goes on from there')

        check_images(config)
        if (result := read(folder / RESULT)) is not None:
            return result
        heed()
        began = time.monotonic() - (read(folder / SECONDS) or 0)  # of earlier sittings
        try:
            trained = fit(config, str(folder / PRETRAINING))
            found = []
            for number, judge in zip(reference.numbers, judges, strict=True):
                heed()
                found.append(evaluate(judge, folder / number.protocol.replace(':', '_')))
        finally:
            seconds = round(time.monotonic() - began, 1)
            write(folder / SECONDS, seconds)
    result = {'anchor': name, **verdict(reference, trained, found), **environment(), 'seconds': seconds}
    result |= {
        'config': reference.config,
        'changes': dict(reference.changes),
        'command': command,
        'pretraining': trained,
    }
    write(folder / RESULT, result)
    return result


def load_configs(reference: Reference, folder: Path, data: str) -> tuple[ConfigDict, list[ConfigDict]]:
    """The config of the training, and those of its evaluations.

    Raises:
      UserError: a config is wrong, or `data` does not suit it.
    """
    from contrastive_jax.config.check import check
    from contrastive_jax.protocols.run import check_protocol

    config = load_config(reference.config, reference.changes)
    if config.data.source == 'digits':
        if data:
            raise UserError(f'--data={data} is given, and {reference.config} has embedded data -> leave it out')
    elif not data:
        raise DataError(f'{reference.config} needs data -> {REMEDY[config.data.name]}')
    else:
        config.data.update({'source': 'npz'} if data.endswith('.npz') else {}, path=data)
    judges = [load_config(f'eval.{number.protocol}', number.changes) for number in reference.numbers]
    for judge in judges:
        judge.init = str(folder / PRETRAINING)
    devices = find_devices().count
    problems = check(config, devices, jax.process_count())
    problems += [problem for judge in judges for problem in check_protocol(judge, devices)]
    if problems:
        raise UserError.of(problems)
    return config, judges


def load_config(name: str, changes: Mapping[str, Any]) -> ConfigDict:
    """The config of a recipe such as 'mocov2:digits' or 'eval.knn:digits', with fields changed."""
    file, _, variant = name.partition(':')
    config = importlib.import_module(f'contrastive_jax.configs.{file}').get_config(variant)
    config.update_from_flattened_dict(dict(changes))
    return config


def check_images(config: ConfigDict) -> None:
    """Raises DataError unless the data is there, and whole: of another set the reference says nothing."""
    from contrastive_jax.training.fit import load_data

    source, held_out = load_data(config)
    there = len(source), 0 if held_out is None else len(held_out)
    if there != IMAGES[config.data.name]:
        (n, m), (N, M) = there, IMAGES[config.data.name]
        raise DataError(
            f'{config.data.path or source.name} has {n} training and {m} held-out images, {config.data.name} has {N} '
            f'and {M} -> give all of it; other data is for contrastive_jax.main'
        )


def evaluate(judge: ConfigDict, folder: Path) -> dict[str, float]:
    """What a protocol measures, or has measured on this encoder."""
    from contrastive_jax.protocols.run import RESULTS_FOLDER, run_protocol

    done = read(folder / RESULTS_FOLDER / f'{judge.protocol}.json')
    if done is not None and done['step'] == metrics.read(Path(judge.init))[-1]['step']:
        open_workdir(str(folder), judge, write=False)  # were these its settings?
        return {key: value for key, value in done.items() if key.startswith('eval/')}
    return run_protocol(judge, str(folder))


def verdict(reference: Reference, trained: Mapping[str, float], found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What is measured beside what should be, in percent, and whether all of it is met."""
    numbers = []
    for number, values in zip(reference.numbers, found, strict=True):
        ours = percent(values[f'eval/{number.metric}'])
        held = {'protocol': number.protocol, 'metric': number.metric, 'ours': ours, 'reference': number.reference}
        held |= {'tolerance': number.tolerance, 'source': number.source}
        numbers.append({**held, 'met': ours is not None and ours >= number.reference - number.tolerance})
    before, after = (percent(trained.get(f'{when}/knn_top1')) for when in ('baseline', 'eval'))
    gain = None if before is None or after is None else round(after - before, 2)
    improved = not reference.gain or (gain is not None and gain >= reference.gain)
    return {
        'passed': improved and all(number['met'] for number in numbers),
        'numbers': numbers,
        'gain': {'ours': gain, 'required': reference.gain, 'met': improved},
    }


def percent(accuracy: float | None) -> float | None:
    """Of a fraction, to two digits; None where nothing or nothing finite was measured."""
    return None if accuracy is None or not math.isfinite(accuracy) else round(100 * accuracy, 2)


def environment() -> dict[str, Any]:
    """When, where and of what code."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    return {
        'date': now,
        'commit': about.commit(),
        'jax': jax.__version__,
        'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'hosts': f'{jax.process_count()} x {os.cpu_count()} CPU cores, {processor()}',
    }


def processor() -> str:
    """The model of the CPU, or at least its kind."""
    try:
        models = re.findall(r'^model name\s*: (.*)$', Path('/proc/cpuinfo').read_text(encoding='utf-8'), re.MULTILINE)
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def read(file: Path) -> Any:
    """What `write` wrote; None if it has not."""
    try:
        return json.loads(file.read_text(encoding='utf-8')) if file.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {file}: {" ".join(str(error).split())} -> delete it') from error


def write(file: Path, value: Any) -> None:
    """Writes JSON whole or not at all, from the first host, if the run got as far as to make its folder."""
    if jax.process_index() == 0 and file.parent.exists():
        write_atomically(file, json.dumps(value).encode() + b'\n')


def record(result: Mapping[str, Any], file: Path) -> None:
    """Appends the result as a line, unless the file has it."""
    line = json.dumps(result)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = file.read_text(encoding='utf-8') if file.exists() else ''
        if line not in held.splitlines():
            with file.open('a', encoding='utf-8') as stream:
                stream.write('\n' * (held != '' and not held.endswith('\n')) + line + '\n')
    except OSError as error:
        raise UserError(f'cannot write --results {file}: {error.strerror} -> choose another') from error


def report(result: Mapping[str, Any]) -> str:
    """The last lines: a table of the numbers, and the verdict."""
    lines = [('', 'reference', 'tolerance', 'ours', '')]
    for x in result['numbers']:
        numbers = points(x['reference']), points(x['tolerance']), points(x['ours'])
        lines.append((f'{x["protocol"]} {x["metric"]}', *numbers, 'met' if x['met'] else 'MISSED'))
    if (gain := result['gain'])['required']:
        numbers = points(gain['required']), '', points(gain['ours'])
        lines.append(('above the untrained encoder', *numbers, 'met' if gain['met'] else 'MISSED'))
    sources = '; '.join(dict.fromkeys(x['source'] for x in result['numbers']))
    return f'{columns(lines)}\nreference: {sources}\n{result["anchor"]}: {"pass" if result["passed"] else "FAIL"}'


def points(value: float | None) -> str:
    return 'none' if value is None else f'{value:.1f}'


def columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, line, widths)).rstrip() for line in lines)


def table(chosen: Mapping[str, Reference]) -> str:
    """The references, a line a number."""
    lines = [('name', 'trains', 'judged by', 'reference', 'tolerance', 'cost', 'source of the reference')]
    for name, reference in chosen.items():
        for number in reference.numbers:
            numbers = points(number.reference), points(number.tolerance)
            lines.append((name, reference.config, number.protocol, *numbers, reference.cost, number.source))
            name = ''
    return columns(lines)


def choose(name: str) -> Reference:
    """The reference of a name.

    Raises:
      UserError: there is none.
    """
    if name not in REFERENCES:
        remedy = '--list shows all of them'
        raise UserError(f'no reference is called {name!r}{did_you_mean(name, REFERENCES)}', remedy=remedy)
    return REFERENCES[name]


def run(given: argparse.Namespace, command: str) -> int:
    """The command; returns the exit code."""
    if given.list or not given.name:
        print(table(REFERENCES))
        return 0
    reference = choose(given.name)
    if '://' in given.workdir:
        raise UserError(f'--workdir {given.workdir} is not local -> mount the bucket and give the mounted folder')
    folder = Path(given.workdir).expanduser().absolute()
    file = Path(given.results).expanduser() if given.results else folder / RESULTS
    if file.is_dir():
        raise UserError(f'--results {file} is a folder -> name a file in it: {file / RESULTS}')
    connect(given.coordinator_address, given.num_processes, given.process_id)
    enable_compilation_cache()
    result = reproduce(given.name, reference, folder / given.name, given.data, command)
    if jax.process_index() == 0:
        record(result, file)
        print(f'\n{report(result)}\nrecorded in {file}', flush=True)
    passed = result['passed']
    if jax.process_count() > 1:  # only the first host has seen all of it
        passed = bool(multihost_utils.broadcast_one_to_all(np.array(passed)))
    return 0 if passed else MISSED


def main(argv: Sequence[str]) -> int:
    """Parses and runs; returns the exit code."""
    parser = argparse.ArgumentParser('contrastive_jax.reproduce', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('name', nargs='?', help='of the reference')
    parser.add_argument('--list', action='store_true', help='show the references, and run nothing')
    parser.add_argument('--data', default='', help='an .npz file, or the data_dir of TFDS; the digits are embedded')
    parser.add_argument('--workdir', default='runs/reproduce', help='each reference gets a folder in it')
    parser.add_argument('--results', default='', help=f'a JSON object a line; default: WORKDIR/{RESULTS}')
    parser.add_argument('--coordinator_address', help='on several hosts, as in contrastive_jax.main')
    parser.add_argument('--num_processes', type=int)
    parser.add_argument('--process_id', type=int)
    given, command = parser.parse_args(argv), shlex.join(['python', '-m', 'contrastive_jax.reproduce', *argv])
    return exit_code_of(lambda: run(given, command))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
