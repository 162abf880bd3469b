"""The result of an experiment: our accuracies compared with the references, the machine, and the file of results."""

import datetime
import errno
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from contrastive_jax.errors import UserError
from contrastive_jax.reproduce.references import Experiment
from contrastive_jax.workdir import about


def compare_with_references(
    experiment: Experiment, trained: Mapping[str, float], measured: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Compares accuracies, in percent, with the references.

    Args:
      experiment: the experiment.
      trained: metrics of the training: 'eval/knn_top1' and 'baseline/knn_top1', that of the untrained encoder.
      measured: 'eval/NAME' -> value, for each reference of the experiment.

    Returns:
      'passed', 'numbers' (one entry for each reference) and 'gain' (the improvement by training). An accuracy that was
      not measured, or is not finite, is None and does not pass.
    """
    numbers = []
    for reference, values in zip(experiment.references, measured, strict=True):
        ours = percent(values[f'eval/{reference.metric}'])
        numbers.append(
            {
                'protocol': reference.protocol,
                'metric': reference.metric,
                'ours': ours,
                'reference': reference.accuracy,
                'tolerance': reference.tolerance,
                'source': reference.source,
                'met': ours is not None and ours >= reference.accuracy - reference.tolerance,
            }
        )
    before, after = (percent(trained.get(f'{when}/knn_top1')) for when in ('baseline', 'eval'))
    gain = None if before is None or after is None else round(after - before, 2)
    improved = not experiment.min_gain or (gain is not None and gain >= experiment.min_gain)
    return {
        'passed': improved and all(number['met'] for number in numbers),
        'numbers': numbers,
        'gain': {'ours': gain, 'required': experiment.min_gain, 'met': improved},
    }


def percent(accuracy: float | None) -> float | None:
    """A fraction in percent, with two decimals; None if it is None or not finite."""
    return None if accuracy is None or not math.isfinite(accuracy) else round(100 * accuracy, 2)


def environment() -> dict[str, Any]:
    """The date, the commit of the code, the version of jax, and the hardware."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    return {
        'date': now,
        'commit': about.commit(),
        'jax': jax.__version__,
        'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'hosts': f'{jax.process_count()} x {os.cpu_count()} CPU cores, {processor()}',
    }


def processor() -> str:
    """The model name of the CPU, or its architecture if the name is not known."""
    try:
        models = re.findall(r'^model name\s*: (.*)$', Path('/proc/cpuinfo').read_text(encoding='utf-8'), re.MULTILINE)
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def check_writable(file: Path) -> None:
    """Makes the folder of a file of results, and checks that the file can be written: before a training, not after it.

    Raises:
      UserError: it cannot.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _cannot_write(file, error) from error


def append_result(result: Mapping[str, Any], file: Path) -> None:
    """Appends a result to a JSON-lines file, unless the file already contains it.

    Raises:
      UserError: the file cannot be written.
    """
    line = json.dumps(result)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding='utf-8') if file.exists() else ''
        if line not in text.splitlines():
            with file.open('a', encoding='utf-8') as stream:
                stream.write('\n' * (text != '' and not text.endswith('\n')) + line + '\n')
    except OSError as error:
        raise _cannot_write(file, error) from error


def _cannot_write(file: Path, error: OSError) -> UserError:
    return UserError(f'cannot write the results to {file}: {error.strerror} -> choose another file')
