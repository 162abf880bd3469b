"""Trains and evaluates an experiment. Stages that were completed earlier are not repeated."""

import importlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import DataError, Interrupted, UserError
from contrastive_jax.reproduce.references import IMAGES, Experiment
from contrastive_jax.reproduce.results import compare_with_references, environment
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir import metrics, run_record
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.folder import changed_fields, open_workdir, read_config
from contrastive_jax.workdir.inputs import check_inputs, differ

PRETRAINING = 'pretraining'  # the workdir of the training, in the folder of an experiment
SECONDS, RESULT = 'seconds.json', 'result.json'  # files in the folder of an experiment

# How users provide the data sets that may not be redistributed.
DATA_REMEDY = {
    'cifar10': (
        'give an .npz file, written by np.savez(file, train_images=..., train_labels=..., test_images=..., '
        'test_labels=...) with images uint8[n, 32, 32, 3], or the data_dir of TFDS'
    ),
    'imagenet2012': 'give the data_dir of TFDS in which imagenet2012 is prepared',
}


def run_experiment(
    name: str,
    experiment: Experiment,
    folder: Path,
    data: str = '',
    command: str = '',
    train: Callable[[ConfigDict, str], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Runs the stages of an experiment that are not complete: its training and its evaluations.

    Args:
      name: the name of the experiment.
      experiment: the experiment.
      folder: the folder of this experiment; the training and each evaluation have a workdir in it.
      data: an .npz file, or the data_dir of TFDS; '' for embedded data.
      command: the command that started this, for the result.
      train: trains a config in a workdir and returns the last metrics; None: `training.fit.fit`.

    Returns:
      The result, which is also written to the folder. If the experiment is complete, its result as it was written.

    Raises:
      UserError: an argument or the data is wrong, or the folder holds the result of another recipe; it is raised before
        anything is compiled.
      Interrupted: a signal arrived; everything that was done is saved.
    """
    from contrastive_jax.training.fit import fit  # imported after the hosts are connected: jax finds its devices once

    config, evaluations = load_configs(experiment, folder, data)
    if jax.process_index() == 0:
        protocols = ', '.join(reference.protocol for reference in experiment.references)
        print(
            f'{name}: trains {experiment.config}, then evaluates with {protocols}; expected cost: {experiment.cost}',
            flush=True,
        )
    with Interrupt() as interrupt:  # training and probes handle signals themselves; this one is for the time between

        def stop_if_interrupted() -> None:
            if multihost_utils.process_allgather(np.array(interrupt.requested is not None)).any():
                raise Interrupted('a signal between two stages; run the same command to continue')

        inputs = check_images(config)
        check_inputs(folder / PRETRAINING, inputs, write=False)  # also for results that are complete
        if (result := completed(config, folder)) is not None:
            return result
        stop_if_interrupted()
        start = time.monotonic() - (read_json(folder / SECONDS) or 0)  # the file has the time of earlier starts
        try:
            trained = (train or fit)(config, str(folder / PRETRAINING))
            measured = []
            for reference, evaluation in zip(experiment.references, evaluations, strict=True):
                stop_if_interrupted()
                measured.append(evaluate(evaluation, folder / reference.protocol.replace(':', '_'), inputs))
        finally:
            seconds = round(time.monotonic() - start, 1)
            write_json(folder / SECONDS, seconds)
    # The key is 'anchor' because files of results that were written earlier use it.
    result = {
        'anchor': name,
        **compare_with_references(experiment, trained, measured),
        **environment(),
        'seconds': seconds,
    }
    result |= {
        'config': experiment.config,
        'changes': dict(experiment.changes),
        'command': command,
        'pretraining': trained,
    }
    write_json(folder / RESULT, result)
    return result


def completed(config: ConfigDict, folder: Path) -> dict[str, Any] | None:
    """The result of an experiment that is complete; None if it is not.

    Args:
      config: the config of the training as it is now.
      folder: the folder of the experiment.

    Raises:
      UserError: the training that the result is of had another config or another length.
    """
    from contrastive_jax.config.stored import defaults_of
    from contrastive_jax.training.fit import with_stored_choices

    result: dict[str, Any] | None = read_json(folder / RESULT)
    if result is None:
        return None
    config, trained = with_stored_choices(config, str(folder / PRETRAINING))
    if trained:
        before = read_config(folder / PRETRAINING)
        changes = changed_fields(folder / PRETRAINING, config, defaults_of(config))
        changes += [f'{x}: {before.get(x)} -> {config[x]}' for x in ('epochs', 'steps') if before.get(x) != config[x]]
        if changes:
            raise UserError(
                f'{folder} holds the result of another recipe ({"; ".join(changes)})',
                remedy='choose another workdir, or move this folder away',
            )
    return result


def load_configs(experiment: Experiment, folder: Path, data: str) -> tuple[ConfigDict, list[ConfigDict]]:
    """Loads the config of the training and those of the evaluations.

    Args:
      experiment: the experiment.
      folder: the folder of the experiment.
      data: an .npz file, or the data_dir of TFDS; '' for embedded data.

    Raises:
      UserError: a config has an illegal value, or data is given that is not used.
      DataError: no data is given, and the experiment has no embedded data.
    """
    from contrastive_jax.config.check import check
    from contrastive_jax.protocols.run import check_protocol

    config = load_config(experiment.config, experiment.changes)
    if config.data.source == 'digits':
        if data:
            raise UserError(f'data {data} is given, but {experiment.config} has embedded data -> leave it out')
    elif not data:
        raise DataError(f'{experiment.config} needs data -> {DATA_REMEDY[config.data.name]}')
    else:
        config.data.update({'source': 'npz'} if data.endswith('.npz') else {}, path=data)
    evaluations = [load_config(f'eval.{reference.protocol}', reference.changes) for reference in experiment.references]
    for evaluation in evaluations:
        evaluation.init = str(folder / PRETRAINING)
    devices = find_devices().count
    problems = check(config, devices, jax.process_count())
    problems += [
        problem for evaluation in evaluations for problem in check_protocol(evaluation, devices, jax.process_count())
    ]
    if problems:
        raise UserError.of(problems)
    return config, evaluations


def load_config(name: str, changes: Mapping[str, Any]) -> ConfigDict:
    """The config of a recipe, such as 'mocov2:digits' or 'eval.knn:digits', with changed fields."""
    file, _, variant = name.partition(':')
    config = importlib.import_module(f'contrastive_jax.configs.{file}').get_config(variant)
    config.update_from_flattened_dict(dict(changes))
    return config


def check_images(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """Checks that the data is complete, because the references hold for the complete data set.

    Returns:
      The data as inputs of a workdir, see `workdir.inputs.check_inputs`.

    Raises:
      DataError: the data cannot be read, or the number of images is wrong.
    """
    from contrastive_jax.training.fit import load_data

    source, held_out = load_data(config)
    (n, m), (N, M) = (len(source), 0 if held_out is None else len(held_out)), IMAGES[config.data.name]
    if (n, m) != (N, M):
        raise DataError(
            f'{config.data.path or source.name} has {n} training and {m} held-out images, {config.data.name} has {N} '
            f'and {M} -> give the complete data set; contrastive_jax.main trains on other data'
        )
    assert held_out is not None
    splits = {'training images': source, 'held-out images': held_out}
    return {name: (split.fingerprint, f'{len(split):,} of {split.name}') for name, split in splits.items()}


def evaluate(
    config: ConfigDict, folder: Path, inputs: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> dict[str, float]:
    """Evaluates the encoder, or reads the result if this checkpoint was already evaluated on this data.

    Args:
      config: the config of the evaluation.
      folder: its workdir.
      inputs: the data, as `check_images` returns it; an earlier result on other data is not used.

    Returns:
      'eval/NAME' -> value.

    Raises:
      UserError: the folder belongs to an evaluation with other settings or other inputs.
    """
    from contrastive_jax.protocols.run import RESULTS_FOLDER, defaults_of, run_protocol

    done = read_json(folder / RESULTS_FOLDER / f'{config.protocol}.json')
    run = run_record.read(Path(config.init)).get('id', '')
    if (
        done is not None
        and done['step'] == metrics.read(Path(config.init))[-1]['step']
        and done.get('run') in (None, run)  # older versions recorded neither run nor data
        and not any(differ(done.get('fingerprints', {}).get(name, value), value) for name, (value, _) in inputs.items())
    ):
        # Raises an error if the settings differ.
        open_workdir(str(folder), config, write=False, defaults=defaults_of(config))
        return {key: value for key, value in done.items() if key.startswith('eval/')}
    return run_protocol(config, str(folder))


def read_json(file: Path) -> Any:
    """The content of a file that `write_json` wrote; None if it does not exist.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding='utf-8')) if file.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {file}: {" ".join(str(error).split())} -> delete it') from error


def write_json(file: Path, value: Any) -> None:
    """Writes a file atomically, on the first host. It does nothing if the folder of the file does not exist."""
    if jax.process_index() == 0 and file.parent.exists():
        write_atomically(file, json.dumps(value).encode() + b'\n')
