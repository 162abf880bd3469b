"""How the encoder of a run is judged: the configs of configs/eval/, what is wrong with one, and what it does.

A protocol is a function of an encoder and labelled data that returns numbers. It goes by the name `config.protocol`.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax import parallel
from contrastive_jax.data import sources
from contrastive_jax.data.sampler import steps_per_epoch
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.evaluate import finetune, probe
from contrastive_jax.evaluate.encoder import WEIGHTS, Encoder, load_encoder
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import MIN_TEMPERATURE, check_labels, knn_accuracy
from contrastive_jax.interrupt import Interrupt
from contrastive_jax.metrics import MetricWriter, replace_file
from contrastive_jax.rules import Rules
from contrastive_jax.workdir import open_workdir

FOLDER = 'eval'  # of a workdir: a JSON file a protocol


def base(protocol: str) -> ConfigDict:
    """The fields that every config of an evaluation has.

    Args:
      protocol: a key of PROTOCOLS; its own fields are a section of this name.
    """
    c = ConfigDict()
    c.protocol = protocol
    c.init = ''  # workdir of the run whose encoder is judged
    c.weights = 'online'  # 'online': what was trained; 'target': its moving average, such as DINO's teacher
    c.parallel = 'jit'  # 'jit': jit(shard_map) over all devices; 'pmap'
    c.batch_size = 512  # images at a time, over all devices

    c.data = ConfigDict()
    c.data.source = ''  # 'digits', 'npz', 'folder', 'tfds'; empty: the data of the run
    c.data.name = ''  # of the TFDS data set
    c.data.path = ''  # the .npz file, the image folder, or the TFDS data_dir
    c.data.split = 'train'
    c.data.eval_split = 'test'  # 'test', 'validation' and 'val' stand in for each other

    c[protocol] = ConfigDict()
    if protocol == 'knn':
        c.knn.k = (20,)  # neighbours that vote; each k is an evaluation
        c.knn.temperature = 0.07  # a neighbour's vote is exp(cosine / temperature)
    if protocol == 'linear':
        c.linear.init_std = 0.01  # deviation of the classifier's first weights; 0: zeros
        c.linear.selection = 0.1  # part of each class that chooses among the settings, if there are several
        _training(c, epochs=100.0, milestones=(60, 80), factor=0.1)
        # A classifier is trained for every pair of the two, all at once; the best is chosen by `linear.selection`.
        c.optimizer.learning_rates = (30.0,)
        c.optimizer.weight_decays = (0.0,)
        c.optimizer.name = 'sgd'  # 'sgd', 'larc'
    if protocol == 'finetune':
        c.finetune.init_std = 0.01  # deviation of the classifier's first weights; 0: zeros
        c.finetune.labels = 0.1  # part of each class that it is trained on, at least one image
        _training(c, epochs=20.0, milestones=(12, 16), factor=0.2)
        c.optimizer.learning_rate = 0.01  # of the encoder
        c.optimizer.classifier_learning_rate = 0.2
        c.optimizer.weight_decay = 0.0
    return c


def _training(c: ConfigDict, *, epochs: float, milestones: tuple[int, ...], factor: float) -> None:
    """The fields of protocols that train."""
    c.seed = 0
    c.batch_size = 256
    c.epochs = epochs
    c.augment = ConfigDict({'crop_scale': (0.08, 1.0), 'flip': 0.5})  # the rest is that of the run

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate_batch = 0  # rates are multiplied by batch_size / this; 0: not scaled
    c.optimizer.momentum = 0.9
    c.optimizer.nesterov = False  # of SGD

    c.schedule = ConfigDict()
    c.schedule.name = 'step'  # 'step' and 'cosine' change once an epoch, 'cosine_per_step' at every step
    c.schedule.milestones = milestones  # of 'step', in epochs
    c.schedule.factor = factor  # of 'step', at each milestone

    c.log_every_steps = 100
    c.eval_every_steps = 0  # 0: only at the end
    c.checkpoint_every_steps = 5000  # and always at the end
    c.profile_steps = 0  # trace this many steps for TensorBoard's profiler, after the first hundred
    c.data.on_device = True  # keep in-memory data on the device, and run many steps in one call
    c.data.workers = 0  # processes that decode images; 0: threads


def check(config: ConfigDict, devices: int = 1) -> list[str]:
    """Everything that is wrong with a config, one readable line each, found without compiling anything."""
    model = base(config.protocol) if config.protocol in PROTOCOLS else None
    if model is None:
        return [f'protocol {config.protocol!r} is unknown -> choose from {", ".join(PROTOCOLS)}']
    lacking = [name for name in model if name not in config]
    for section in (name for name, value in model.items() if isinstance(value, ConfigDict)):
        lacking += [f'{section}.{name}' for name in model[section] if name not in config.get(section, {})]
    if lacking:
        return [f'the config lacks {", ".join(lacking)} -> start from protocols.base(...), as configs/eval/ does']
    rules = Rules(config)
    rules.rule(bool(config.init), 'init is empty -> name the workdir of a run: --config.init=runs/digits')
    rules.one_of('weights', tuple(WEIGHTS))
    rules.one_of('parallel', ('jit', 'pmap'))
    rules.within('batch_size', 1)
    rules.rule(
        config.batch_size % jax.process_count() == 0,
        f'batch_size {config.batch_size} is not divisible by {jax.process_count()} hosts -> use a multiple',
    )
    if config.data.source:
        rules.one_of('data.source', sources.SOURCES)
    else:
        for name in ('name', 'path'):
            rules.rule(not config.data[name], f'data.{name} is given without data.source -> give both')
    if config.protocol == 'knn':
        rules.rule(
            len(config.knn.k) > 0 and all(isinstance(k, int) and k >= 1 for k in config.knn.k),
            f'knn.k {config.knn.k!r} is out of range -> numbers of neighbours, at least 1: --config.knn.k="(20, 200)"',
        )
        rules.within('knn.temperature', MIN_TEMPERATURE)
    if config.protocol in ('linear', 'finetune'):
        _training_rules(config, devices, rules)
    if config.protocol == 'linear':
        _linear_rules(config, rules)
    if config.protocol == 'finetune':
        rules.within('finetune.init_std', 0)
        rules.within('finetune.labels', 0, 1, open_low=True)
        for field in ('learning_rate', 'classifier_learning_rate'):
            rules.within(f'optimizer.{field}', 0, open_low=True)
        rules.within('optimizer.weight_decay', 0)
    return rules.found


def _training_rules(c: ConfigDict, devices: int, rules: Rules) -> None:
    B = c.batch_size
    rules.rule(B % devices == 0, f'batch_size {B} is not divisible by {devices} devices -> use a multiple')
    rules.one_of('schedule.name', ('step', 'cosine', 'cosine_per_step'))
    rules.within('seed', 0, 2**31 - 1)
    rules.within('epochs', 0, open_low=True)
    rules.within('optimizer.learning_rate_batch', 0)
    rules.within('optimizer.momentum', 0, 1)
    rules.within('schedule.factor', 0, 1, open_low=True)
    for field in ('log_every_steps', 'checkpoint_every_steps'):
        rules.within(field, 1)
    for field in ('eval_every_steps', 'profile_steps', 'data.workers'):
        rules.within(field, 0)
    scales = c.augment.crop_scale
    rules.rule(
        len(scales) == 2 and 0 < scales[0] <= scales[1] <= 1,
        f'augment.crop_scale {scales!r} is out of range -> two areas with 0 < least <= greatest <= 1',
    )
    rules.within('augment.flip', 0, 1)
    milestones = c.schedule.milestones
    rules.rule(
        all(math.isfinite(epoch) and epoch > 0 for epoch in milestones),
        f'schedule.milestones {milestones!r} is out of range -> they are epochs, all above 0',
    )


def _linear_rules(c: ConfigDict, rules: Rules) -> None:
    rules.one_of('optimizer.name', ('sgd', 'larc'))
    rules.within('linear.init_std', 0)
    rules.within('linear.selection', 0, 0.5, open_low=True)
    rates, decays = c.optimizer.learning_rates, c.optimizer.weight_decays
    rules.rule(
        len(rates) > 0 and all(math.isfinite(rate) and rate > 0 for rate in rates),
        f'optimizer.learning_rates {rates!r} is out of range -> give numbers above 0: (1.0, 10.0)',
    )
    rules.rule(
        len(decays) > 0 and all(math.isfinite(decay) and decay >= 0 for decay in decays),
        f'optimizer.weight_decays {decays!r} is out of range -> give numbers of at least 0: (0.0, 1e-6)',
    )


def evaluate(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Judges an encoder: a line on the terminal, eval/PROTOCOL.json, metrics.jsonl and TensorBoard.

    Args:
      config: of the form of `base`.
      workdir: of the evaluation, not that of the run.

    Returns:
      The numbers, such as 'eval/knn20_top1'.

    Raises:
      UserError: something in config, run or data that the user can mend; nothing was computed or lost.
    """
    began = time.monotonic()
    devices = parallel.devices(config.parallel if config.get('parallel') == 'pmap' else 'jit')
    if problems := check(config, devices.count):
        raise UserError('\n'.join(problems))
    if Path(workdir).expanduser().absolute() == Path(config.init).expanduser().absolute():
        raise UserError(f'--workdir {workdir} is that of the run -> give the evaluation a folder of its own')
    encoder = load_encoder(config.init, config.weights)
    data = load_data(config, encoder)
    PROTOCOLS[config.protocol].check(config, data)
    path = open_workdir(workdir, config, write=jax.process_index() == 0)
    found = PROTOCOLS[config.protocol].run(config, encoder, data, devices, path)
    if jax.process_index() != 0:
        return found
    about = {
        'protocol': config.protocol,
        'init': config.init,
        'weights': config.weights,
        'step': encoder.step,
        'data': data.train.name,
        'train_images': len(data.train_ids),
        'test_images': len(data.test_ids),
        'classes': data.classes,
        'devices': f'{devices.count} x {jax.devices()[0].device_kind}',
        'seconds': round(time.monotonic() - began, 1),
    }
    _write(path / FOLDER / f'{config.protocol}.json', {**about, **found})
    for name, value in found.items():
        if name.endswith(('top1', 'top5')):
            title = name.removeprefix('eval/')
            print(f'{title} on {len(data.test_ids)} held-out images of {data.train.name}: {value:.1%}')
    print(f'numbers: {path / FOLDER / config.protocol}.json')
    return found


@dataclasses.dataclass(frozen=True)
class Data:
    """Labelled images, of which those without a label are left out.

    Attributes:
      train, test: sources.
      train_ids, test_ids: int64, the examples with a label.
      classes: their number.
    """

    train: sources.Source
    test: sources.Source
    train_ids: np.ndarray
    test_ids: np.ndarray
    classes: int


def load_data(config: ConfigDict, encoder: Encoder) -> Data:
    """The training and the held-out split that an evaluation looks at.

    Raises:
      UserError: the data is missing, or it has no labels, or one class only.
    """
    d = config.data if config.data.source else encoder.config.data
    if not d.source:
        raise UserError(
            f'init {config.init} is a file of weights, which says nothing of data -> name some: '
            f'--config.data.source={"|".join(sources.SOURCES)}'
        )
    train, test = (
        sources.load(d.source, d.name, d.path, split, encoder.image_size)
        for split in (config.data.split, config.data.eval_split)
    )
    ids, classes = [], 0
    for source, what in ((train, 'training'), (test, 'held-out')):
        labels = np.full(len(source), -1) if source.labels is None else source.labels
        if (labels < 0).all():
            raise DataError(f'the {what} images of {source.name} have no labels -> evaluate on data that has them')
        ids.append(np.flatnonzero(labels >= 0))
        classes = max(classes, int(labels.max()) + 1)
    assert train.labels is not None and test.labels is not None
    if len(np.unique(train.labels[ids[0]])) < 2:
        raise DataError(f'all training images of {train.name} are of one class -> there is nothing to tell apart')
    check_labels(test.labels[ids[1]], len(ids[1]), classes, 'held-out')
    return Data(train, test, ids[0], ids[1], classes)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a protocol is.

    Attributes:
      check: raises UserError where the data does not serve, before anything is compiled.
      run: returns the numbers, and leaves them in the metrics of the workdir.
    """

    check: Callable[[ConfigDict, Data], None]
    run: Callable[[ConfigDict, Encoder, Data, parallel.Devices, Path], dict[str, float]]


def _check_knn(config: ConfigDict, data: Data) -> None:
    n, most = len(data.train_ids), max(config.knn.k)
    if most > n:
        raise UserError(f'knn.k {most} is more than the {n} labelled training images -> use fewer neighbours')


def _knn(
    config: ConfigDict, encoder: Encoder, data: Data, devices: parallel.Devices, workdir: Path
) -> dict[str, float]:
    extract = FeatureExtractor(
        encoder.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
    )
    params, stats = devices.place((encoder.params, encoder.stats), parallel.REPLICATED)
    train, train_ids = extract(params, stats, data.train, data.train_ids)
    test, test_ids = extract(params, stats, data.test, data.test_ids)
    assert data.train.labels is not None and data.test.labels is not None
    given = (train, data.train.labels[train_ids], test, data.test.labels[test_ids], data.classes)
    found: dict[str, float] = {}
    for k in config.knn.k:
        accuracy = knn_accuracy(*given, k=min(k, len(train)), temperature=config.knn.temperature)
        found |= {f'eval/knn{k}_{name}': value for name, value in accuracy.items()}
    # The same command again replaces what it wrote.
    writer = MetricWriter(workdir, encoder.step - 1, enabled=jax.process_index() == 0)
    writer.write(encoder.step, found)
    writer.close()
    return found


def _check_linear(config: ConfigDict, data: Data) -> None:
    _parts(config, data)  # says if there are fewer images than a batch


def _linear(
    config: ConfigDict, encoder: Encoder, data: Data, devices: parallel.Devices, workdir: Path
) -> dict[str, float]:
    training, selection = _parts(config, data)
    run = probe.build(config, encoder, len(training), data.classes)
    test = sources.Rows(data.test, data.test_ids)
    with Interrupt() as interrupt:
        trainer = probe.ProbeTrainer(config, workdir, devices, run, training, encoder, selection, test)
        return trainer.fit(interrupt)


def _parts(config: ConfigDict, data: Data) -> tuple[sources.Rows, sources.Rows | None]:
    """The images that classifiers are trained on, and those that choose among them, if there are several."""
    assert data.train.labels is not None
    ids, selection = data.train_ids, None
    if len(probe.settings(config)[0]) > 1:
        chosen = probe.held_out(data.train.labels[ids], config.linear.selection)
        ids, selection = ids[~chosen], sources.Rows(data.train, ids[chosen])
    steps_per_epoch(len(ids), config.batch_size)
    return sources.Rows(data.train, ids), selection


def _check_finetune(config: ConfigDict, data: Data) -> None:
    steps_per_epoch(len(_labelled(config, data)), config.batch_size)


def _finetune(
    config: ConfigDict, encoder: Encoder, data: Data, devices: parallel.Devices, workdir: Path
) -> dict[str, float]:
    training = _labelled(config, data)
    run = finetune.build(config, encoder, len(training), data.classes)
    test = sources.Rows(data.test, data.test_ids)
    with Interrupt() as interrupt:
        trainer = finetune.FineTuneTrainer(config, workdir, devices, run, training, encoder, test)
        return {**trainer.fit(interrupt), 'eval/finetune_images': len(training)}


def _labelled(config: ConfigDict, data: Data) -> sources.Rows:
    assert data.train.labels is not None
    ids = data.train_ids
    return sources.Rows(data.train, ids[finetune.labelled(data.train.labels[ids], config.finetune.labels)])


PROTOCOLS = {
    'knn': Protocol(_check_knn, _knn),
    'linear': Protocol(_check_linear, _linear),
    'finetune': Protocol(_check_finetune, _finetune),
}


def _write(file: Path, found: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(exist_ok=True)
        replace_file(file, json.dumps(found, indent=2).encode() + b'\n')
    except OSError as error:
        raise UserError(f'cannot write {file}: {error.strerror} -> choose another --workdir') from error
