"""Runs an evaluation protocol: the fields of its config, the check of a config, and the evaluation.

A protocol turns an encoder and labeled data into numbers. `config.protocol` names it.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from contrastive_jax.data.open import SOURCES
from contrastive_jax.distributed.devices import Devices, find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained.encoder import WEIGHTS, Encoder
from contrastive_jax.pretrained.load import load as load_encoder
from contrastive_jax.protocols import distill, finetune, knn, linear, readout
from contrastive_jax.protocols.base import Data, load_data
from contrastive_jax.rules import Rules
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.folder import open_workdir
from contrastive_jax.workdir.inputs import check_inputs

PROTOCOLS = {'knn': knn.KNN, 'linear': linear.LINEAR, 'finetune': finetune.FINETUNE, 'distill': distill.DISTILL}

RESULTS_FOLDER = 'eval'  # in a workdir: one JSON file for each protocol


def protocol_config(protocol: str) -> ConfigDict:
    """The fields of the config of an evaluation.

    Args:
      protocol: a key of PROTOCOLS; it adds fields, among them a section of this name.
    """
    c = ConfigDict()
    c.protocol = protocol
    c.init = ''  # workdir of the run, or file of weights, whose encoder is evaluated
    c.weights = 'online'  # 'online': the trained network; 'target': its moving average, such as DINO's teacher
    c.parallel = 'jit'  # 'jit': jit(shard_map) over all devices; 'pmap'
    c.batch_size = 512  # global batch size

    c.data = ConfigDict()
    c.data.source = ''  # 'digits', 'npz', 'folder', 'tfds'; empty: the data of the run
    c.data.name = ''  # name of the TFDS data set
    c.data.path = ''  # the .npz file, the image folder, or the TFDS data_dir
    c.data.split = 'train'
    c.data.eval_split = 'test'  # 'test', 'validation' and 'val' may replace each other
    c.data.image_size = 0  # height and width of the images; 0: as in the run

    PROTOCOLS[protocol].fields(c)
    return c


def check_protocol(config: ConfigDict, devices: int = 1) -> list[str]:
    """All errors of an evaluation's config, one line each, found without compiling anything."""
    model = protocol_config(config.protocol) if config.protocol in PROTOCOLS else None
    if model is None:
        return [f'protocol {config.protocol!r} is unknown -> choose from {", ".join(PROTOCOLS)}']
    lacking = [name for name in model if name not in config]
    for section in (name for name, value in model.items() if isinstance(value, ConfigDict)):
        lacking += [f'{section}.{name}' for name in model[section] if name not in config.get(section, {})]
    if lacking:
        return [f'the config lacks {", ".join(lacking)} -> start from protocols.run.protocol_config(...)']
    rules = Rules(config)
    rules.rule(
        bool(config.init),
        'init is empty -> set it to the workdir of a run, such as runs/digits, or to a file of weights',
    )
    rules.one_of('weights', tuple(WEIGHTS))
    rules.one_of('parallel', ('jit', 'pmap'))
    rules.within('batch_size', 1)
    rules.within('data.image_size', 0)
    rules.rule(
        config.batch_size % jax.process_count() == 0,
        f'batch_size {config.batch_size} is not divisible by {jax.process_count()} hosts -> use a multiple',
    )
    if config.data.source:
        rules.one_of('data.source', SOURCES)
    else:
        for name in ('name', 'path'):
            rules.rule(not config.data[name], f'data.{name} is given without data.source -> give both')
    PROTOCOLS[config.protocol].rules(config, devices, rules)
    return rules.found


def run_protocol(
    config: ConfigDict,
    workdir: str,
    *,
    devices: Devices | None = None,
    interrupt: Callable[[], Interrupt] = Interrupt,
) -> dict[str, float]:
    """Evaluates an encoder. The numbers go to the terminal, eval/PROTOCOL.json, metrics.jsonl and TensorBoard.

    Args:
      config: a config with the fields of `protocol_config`.
      workdir: the folder of the evaluation, another than that of the run.
      devices: the devices to use; None: all of them, in the mode of `config.parallel`.
      interrupt: makes the object that says whether a training was asked to stop.

    Returns:
      The numbers, such as 'eval/knn20_top1'.

    Raises:
      UserError: config, run or data are wrong; nothing was computed or lost.
    """
    began = time.monotonic()
    devices = devices or find_devices(config.parallel if config.get('parallel') == 'pmap' else 'jit')
    if problems := check_protocol(config, devices.count):
        raise UserError.of(problems)
    if Path(workdir).expanduser().absolute() == Path(config.init).expanduser().absolute():
        raise UserError(f'the workdir {workdir} is that of the run -> give the evaluation a folder of its own')
    section = config.features if 'features' in config else config[config.protocol]  # it says which features are used
    # 'online' is the default of the field; for a published checkpoint it leaves the choice to the authors' default.
    weights = None if config.weights == 'online' else config.weights
    encoder = load_encoder(config.init, weights, section.get('projector_layers', 0))
    encoder = encoder.at_size(config.data.image_size or encoder.image_size)
    if 'features' in config:
        encoder = readout.of(config, encoder)
    data = load_data(config, encoder, PROTOCOLS[config.protocol].labeled)
    PROTOCOLS[config.protocol].check(config, encoder, data)
    path = open_workdir(workdir, config, write=jax.process_index() == 0)
    if PROTOCOLS[config.protocol].resumes:
        check_inputs(path, inputs_of(config, encoder, data), write=jax.process_index() == 0)
    found = PROTOCOLS[config.protocol].run(config, encoder, data, devices, path, interrupt)
    if jax.process_index() != 0:
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
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(found, indent=2).encode() + b'\n')
    except OSError as error:
        raise UserError(f'cannot write {file}: {error.strerror} -> choose another workdir') from error
