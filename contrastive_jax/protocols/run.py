"""Runs an evaluation protocol: the fields of its config, the check of a config, and the evaluation.

A protocol turns an encoder and labeled data into numbers. `config.protocol` names it.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from contrastive_jax.config.stored import default_values
from contrastive_jax.distributed.agree import check_same, together
from contrastive_jax.distributed.devices import Devices, find_devices
from contrastive_jax.distributed.watchdog import opening
from contrastive_jax.errors import Problem, UserError
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.load import load as load_encoder
from contrastive_jax.protocols import distill, finetune, knn, linear, readout
from contrastive_jax.protocols.base import Asked, Data, load_data
from contrastive_jax.rules import Rules, declared_fields, defaults, wrong_kind
from contrastive_jax.training.fit import check_length
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir import run_record
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write
from contrastive_jax.workdir.folder import open_workdir, resolve
from contrastive_jax.workdir.inputs import check_inputs
from contrastive_jax.workdir.kept import parse_step
from contrastive_jax.workdir.lock import Lock, say_takeover
from contrastive_jax.workdir.lock import check as check_lock

PROTOCOLS = {'knn': knn.KNN, 'linear': linear.LINEAR, 'finetune': finetune.FINETUNE, 'distill': distill.DISTILL}

RESULTS_FOLDER = 'eval'  # in a workdir: one JSON file for each protocol


def protocol_config(protocol: str) -> ConfigDict:
    """The config of an evaluation: the sections of its protocol with their defaults.

    Args:
      protocol: a key of PROTOCOLS.
    """
    p = PROTOCOLS[protocol]
    c = defaults(p.sections[''], protocol=protocol)
    for path, section in p.sections.items():
        if path:
            c[path] = defaults(section)
    c.update_from_flattened_dict(dict(p.values))
    return c


def sections_of(config: ConfigDict) -> dict[str, type]:
    """The class that declares each section of an evaluation's config, as `config.fields.sections_of` of the others.

    Sections that are missing are left out; there is none if the protocol is unknown.
    """
    protocol = config.get('protocol')
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        return {}
    sections = PROTOCOLS[protocol].sections
    return {path: section for path, section in sections.items() if not path or isinstance(config.get(path), ConfigDict)}


def defaults_of(config: ConfigDict) -> dict[str, Any]:
    """The defaults of an evaluation's fields by their paths, as `workdir.folder.open_workdir` compares with them."""
    changed = PROTOCOLS[config.protocol].values
    return {**default_values(sections_of(config)), **json.loads(json.dumps(dict(changed)))}


def check_protocol(config: ConfigDict, devices: int = 1, processes: int = 1) -> list[str]:
    """All errors of an evaluation's config, one line each, found without compiling anything.

    Args:
      config: a config with the fields of `protocol_config`.
      devices: the number of devices that the evaluation uses.
      processes: the number of hosts.
    """
    rules = Rules(config)
    if problem := wrong_kind('protocol', config.protocol, str, 'knn'):
        return [problem]
    if config.protocol not in PROTOCOLS:
        rules.one_of('protocol', tuple(PROTOCOLS))
        return rules.found
    lacking = []
    for path, section in PROTOCOLS[config.protocol].sections.items():
        held = config.get(path) if path else config
        if not isinstance(held, ConfigDict):
            lacking.append(path)
            continue
        lacking += [f'{path}.{name}' if path else name for name in declared_fields(section) if name not in held]
    if lacking:
        remedy = 'start from protocols.run.protocol_config(...)'
        return [Problem(f'the config lacks {", ".join(lacking)}', field=lacking[0], remedy=remedy)]
    unusable = [path for section, declared in sections_of(config).items() for path in rules.declared(section, declared)]
    if unusable:
        return rules.found  # the rules of several fields need values of the right type
    rules.rule(
        bool(config.init),
        'init is empty',
        field='init',
        remedy='set it to the workdir of a run, such as runs/digits, or to a file of weights',
    )
    try:
        parse_step(config.step)
    except UserError as error:
        rules.found += error.problems
    # Training splits each batch; features are computed of incomplete batches, too, which the hosts alone split.
    parts, what = (devices, 'devices') if 'epochs' in config else (processes, 'hosts')
    B = config.batch_size
    near = max(round(B / parts), 1) * parts
    rules.rule(
        B % parts == 0,
        f'batch_size {B} is not divisible by {parts} {what}',
        field='batch_size',
        remedy=f'use {near}',
        value=near,
    )
    if not config.data.source:
        for name in ('name', 'path', 'value_range', 'image_key', 'label_key'):
            rules.rule(
                not config.data.get(name),
                f'data.{name} is given without data.source',
                field=f'data.{name}',
                remedy='give both',
            )
    PROTOCOLS[config.protocol].rules(config, rules)
    return rules.found


def run_protocol(
    config: ConfigDict,
    workdir: str,
    *,
    devices: Devices | None = None,
    interrupt: Asked = Interrupt,
) -> dict[str, float]:
    """Evaluates an encoder. The numbers go to the terminal, eval/PROTOCOL.json, metrics.jsonl and TensorBoard.

    Args:
      config: a config with the fields of `protocol_config`.
      workdir: the folder of the evaluation, another than that of the run.
      devices: the devices to use; None: all of them, in the mode of `config.parallel`.
      interrupt: makes the context in which a training is told whether it was asked to stop.

    Returns:
      The numbers, such as 'eval/knn20_top1'.

    Raises:
      UserError: config, run or data are wrong; nothing was computed or lost.
    """
    devices = devices or find_devices(config.parallel if config.get('parallel') == 'pmap' else 'jit')
    if problems := check_protocol(config, devices.count, jax.process_count()):
        raise UserError.of(problems)
    path, first = resolve(workdir), jax.process_index() == 0
    if path == Path(config.init).expanduser().absolute():
        raise UserError(f'the workdir {workdir} is that of the run -> give the evaluation a folder of its own')
    with interrupt() as asked, contextlib.ExitStack() as held:  # a signal while the data is read is not lost
        together(lambda: say_takeover(held.enter_context(Lock(path))) if first else None)
        return _evaluate(config, path, devices, lambda: contextlib.nullcontext(asked))


def _evaluate(config: ConfigDict, path: Path, devices: Devices, interrupt: Asked) -> dict[str, float]:
    """`run_protocol` in a workdir that this process holds."""
    began, first = time.monotonic(), jax.process_index() == 0
    section = config.features if 'features' in config else config[config.protocol]  # it says which features are used
    # 'online' is the default of the field; for a published checkpoint it leaves the choice to the authors' default.
    weights = None if config.weights == 'online' else config.weights
    encoder = load_encoder(config.init, weights, section.get('projector_layers', 0), step=config.step)
    encoder = encoder.at_size(config.data.image_size or encoder.image_size)
    if 'features' in config:
        encoder = readout.of(config, encoder)
    data = together(opening(lambda: load_data(config, encoder, PROTOCOLS[config.protocol].labeled)))
    if jax.process_count() > 1:
        check_same({'the checksum of the images': f'{data.train.fingerprint[:12]}, {data.test.fingerprint[:12]}'})
    steps = PROTOCOLS[config.protocol].check(config, encoder, data)

    def open_own() -> None:
        if steps:
            check_length(config, path, steps)
        open_workdir(str(path), config, write=first, defaults=defaults_of(config))
        if PROTOCOLS[config.protocol].resumes:
            check_inputs(path, inputs_of(config, encoder, data), write=first)

    together(open_own)  # no process begins to write there before the first one has looked
    found = PROTOCOLS[config.protocol].run(config, encoder, data, devices, path, interrupt)
    if not first:
        return found
    about = {
        'protocol': config.protocol,
        'init': str(Path(config.init).expanduser().absolute()),
        'weights': config.weights,
        'step': encoder.step or 0,
        'data': data.train.name,
        'train_images': len(data.train_ids),
        'test_images': len(data.test_ids),
        'classes': data.classes,
        'devices': f'{devices.count} x {jax.devices()[0].device_kind}',
        'seconds': round(time.monotonic() - began, 1),
    }
    about['run'] = run_record.read(Path(config.init).expanduser()).get('id', '')
    about['fingerprints'] = {name: value for name, (value, _) in inputs_of(config, encoder, data).items()}
    if 'teacher' in config:
        about['teacher'] = str(Path(config.teacher).expanduser().absolute())
    _write(path / RESULTS_FOLDER / f'{config.protocol}.json', {**about, **found})
    for name, value in found.items():
        if name.endswith(('top1', 'top5')):
            title = name.removeprefix('eval/')
            print(f'{title} on {len(data.test_ids)} held-out images of {data.test.name}: {value:.1%}')
    if unseen_classes := data.unseen_classes:
        print(
            f'{unseen_classes} test images belong to classes absent from the training split; '
            'they always count as errors'
        )
    print(f'numbers: {path / RESULTS_FOLDER / config.protocol}.json')
    return found


def inputs_of(config: ConfigDict, encoder: Encoder, data: Data) -> dict[str, tuple[str, str]]:
    """What an evaluation is computed from, see `workdir.inputs.check_inputs`."""
    where = str(config.init) if encoder.step is None else f'{config.init} at step {encoder.step}'
    given = {
        'encoder': (encoder.fingerprint, where),
        'training images': (data.train.fingerprint, f'{len(data.train):,} of {data.train.name}'),
        'held-out images': (data.test.fingerprint, f'{len(data.test):,} of {data.test.name}'),
    }
    return given


def _write(file: Path, found: dict[str, Any]) -> None:
    check_lock(file.parents[1])
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(found, indent=2).encode() + b'\n')
    except OSError as error:
        raise cannot_write(file, error) from error
