"""Trains what a config describes: checks it, opens the data and the workdir, puts the trainer together, runs it."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from ml_collections import ConfigDict

from contrastive_jax.config.advice import advice
from contrastive_jax.config.best import mode_of
from contrastive_jax.config.check import check, check_examples, check_fields, check_init
from contrastive_jax.config.choose import choose
from contrastive_jax.config.choose_channels import check_channels, needs_estimate
from contrastive_jax.config.group import is_group
from contrastive_jax.config.plan import Choice, describe, keep
from contrastive_jax.config.stored import defaults_of
from contrastive_jax.data import facts, sources
from contrastive_jax.data.labels import number_classes
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.distributed.agree import check_same, text_of_first, together
from contrastive_jax.distributed.devices import Devices, find_devices
from contrastive_jax.distributed.machine import this_machine
from contrastive_jax.distributed.watchdog import opening
from contrastive_jax.errors import MissingSplitError, UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.online import OnlineFeatures
from contrastive_jax.training import given
from contrastive_jax.training.best import BestBy
from contrastive_jax.training.build import build_run
from contrastive_jax.training.estimate import estimate, sentence
from contrastive_jax.training.evaluators import Context, Evaluator, build_evaluators
from contrastive_jax.training.feed import Feed, open_feed
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.loop import Cadence, Start, Trainer, from_scratch
from contrastive_jax.training.progress import seconds
from contrastive_jax.training.rollback import roll_back
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_memory_step
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.folder import CONFIG_FILE, open_workdir, read_config, resolve
from contrastive_jax.workdir.inputs import check_inputs
from contrastive_jax.workdir.lock import Lock, say_takeover
from contrastive_jax.workdir.trackers import Tracker, open_trackers

if TYPE_CHECKING:
    from contrastive_jax.pretrained.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Parts:
    """How the parts of a run are made that the runs of a group share (`training.group`).

    Attributes:
      read: opens the data, as `load_data`.
      open_feed: brings the data to the train step, as `training.feed.open_feed`.
      extractor: makes what computes features, as `evaluate.features.FeatureExtractor`.
      label: stands before every line of the training.
      quiet: whether the lines before it are left out.
    """

    read: Callable[..., tuple[sources.Source, sources.Source | None]]
    open_feed: Callable[..., Feed] = open_feed
    extractor: Callable[..., FeatureExtractor] = FeatureExtractor
    label: str = ''
    quiet: bool = False


def fit(
    config: ConfigDict,
    workdir: str,
    *,
    evaluators: Sequence[Callable[[Context], Evaluator]] = (),
    verbose: bool = False,
    rollback: int | None = None,
    load: given.Load | None = None,
) -> dict[str, float]:
    """Trains what the config describes; the same call again continues where the last one stopped.

    Args:
      config: a config with the fields of `config.base.base_config`.
      workdir: folder of the run: config, checkpoints, metrics, pictures.
      evaluators: further evaluators, beside those that the config names: classes, or functions of the `Context`.
      load: reads the weights of `config.init`, `contrastive_jax.load_encoder`; None: the config gives none.
      verbose: whether the table of all parameters is printed.
      rollback: the step of a checkpoint that the run is taken back to first, see `training.rollback`; None: none.

    Returns:
      The last evaluation.

    Raises:
      UserError: config, data or workdir are wrong; nothing was compiled or lost.
      Interrupted: a signal, see `training.interrupt`; the state is saved.
    """
    if is_group(config):
        remedy = 'training.group.fit_group trains them'
        raise UserError('the config describes several runs, and fit trains one', field='seeds', remedy=remedy)
    with Interrupt() as interrupt, contextlib.ExitStack() as held:  # a signal while the data is read is not lost
        parts = Parts(load_data)
        trainer = open_trainer(config, workdir, held, parts, evaluators, verbose=verbose, rollback=rollback, load=load)
        return trainer.fit(interrupt)


def open_trainer(
    config: ConfigDict,
    workdir: str,
    held: contextlib.ExitStack,
    parts: Parts,
    evaluators: Sequence[Callable[[Context], Evaluator]] = (),
    *,
    verbose: bool = False,
    rollback: int | None = None,
    load: given.Load | None = None,
) -> Trainer:
    """Checks a config, opens data and workdir, and puts the trainer together; nothing is compiled.

    Args:
      held: gets the lock of the workdir.
      parts: how parts are made.
      config, workdir, evaluators, verbose, rollback, load: as `fit` takes them.

    Raises:
      UserError: as `fit`.
    """
    devices = find_devices(config.get('parallel', 'jit'))
    config, resumed = with_stored_choices(config, workdir)
    fits = not resumed and bool(config.get('auto', {}).get('reference_batch'))
    problems = check_fields(config) if fits else check(config, devices.count, jax.process_count())
    if problems := [*problems, *check_init(config)]:
        raise UserError.of(problems)
    path, first = resolve(workdir), jax.process_index() == 0
    speaks = first and not parts.quiet
    together(lambda: say_takeover(held.enter_context(Lock(path))) if first else None)
    check_same({'the checksum of the config (without data.path)': checksum_of(config)})
    if speaks:
        print(f'reading the data ({config.data.path or config.data.name or config.data.source}) ...', flush=True)
    began = time.monotonic()
    derived = not resumed and 'data.channels' in config.get('auto', {}).get('fields', ())
    source, held_out = together(opening(lambda: parts.read(config, derive_channels=derived)))
    check_same(opening(lambda: facts_of(source, held_out))())
    inputs = {'training images': (source.fingerprint, f'{len(source):,} of {source.name}')}
    estimate_channels = not resumed and needs_estimate(config, source.channels)
    measured, choices = together(opening(lambda: facts.measure(source, estimate_channels))), list[Choice]()
    if resumed:  # other data is refused before sizes that do not fit it
        together(lambda: check_inputs(path, inputs, write=False))
    else:
        config, choices = choose(config, measured, this_machine(devices.count))
        check_same({'the choices by data and machine': checksum_of(config)})
        source = source.for_image_size(config.data.image_size)
        held_out = None if held_out is None else held_out.for_image_size(config.data.image_size)
    if problems := check_channels(config, measured):
        raise UserError.of(problems)
    changed = fits or measured.channels != 3
    if problems := check(config, devices.count, jax.process_count()) if changed else []:
        raise UserError.of(problems)
    if problems := check_examples(config, len(source), devices.count):
        raise UserError.of(problems)
    run = build_run(config, len(source))
    check_same({'the number of steps': run.total_steps})
    known = defaults_of(config)
    begun = any((path / FOLDER).glob('[0-9]*'))  # a run that goes on does not need the weights again
    weights = None if not config.get('init') else cache(partial(_weights, config, run, load))
    if weights and not begun:
        encoder = together(weights)
        check_same({'the checksum of the weights of init': encoder.fingerprint})
        inputs['weights that it started from'] = (encoder.fingerprint, encoder.source)
        for line in given.describe(encoder, run) if speaks else ():
            print(line, flush=True)

    def open_run() -> None:
        check_length(config, path, run.total_steps, rollback)
        open_workdir(workdir, config, write=first, defaults=known, may_differ=rollback is not None)
        check_inputs(path, inputs, write=first)

    together(open_run)
    if speaks:
        print(f'{summary(source, held_out)} (read in {seconds(time.monotonic() - began)})', flush=True)
        if choices:
            what = f'{len(source):,} images' + (f' of {measured.side:,} px' if measured.side else '')
            print(f'chosen for {what} on {this_machine(devices.count)}, unless --config.FIELD=VALUE is given:')
        for line in describe(choices):
            print(line)
        for line in advice(config, measured):
            print(f'warning: {line}', flush=True)
        machine = this_machine(devices.count)
        if machine.device == 'cpu' and (line := sentence(estimate(run, machine.cores), run, machine.cores)):
            print(line, flush=True)
    start = partial(given.start, weights=weights, devices=devices) if weights else from_scratch
    trainer = build_trainer(config, path, devices, run, source, held_out, evaluators, verbose, start, parts)
    if rollback is not None:
        roll_back(trainer, rollback, config, known)
    return trainer


def check_length(config: ConfigDict, workdir: Path, steps: int, rollback: int | None = None) -> None:
    """Refuses a run that has trained more steps than its config has now: nothing could be trained or shown.

    Args:
      config: the config of a pretraining, or of an evaluation that trains.
      workdir: the folder of the run; it need not exist.
      steps: the length of the training that the config describes.
      rollback: the step that the run is taken back to first; None: none.

    Raises:
      UserError: the checkpoint that training would go on from is of a later step than the last one.
    """
    saved = (int(file.name) for file in (workdir / FOLDER).glob('*') if file.name.isdigit())
    trained = max(saved, default=0) if rollback is None else rollback
    if trained > steps:
        message = f'{workdir} has a checkpoint of step {trained}, and the length given now is {steps} steps'
        remedy = 'give the length of before or another workdir'
        if 'steps' in config:
            raise UserError(message, field='steps', remedy=f'{remedy}, or end the run there', value=trained)
        raise UserError(message, field='epochs', remedy=remedy)


def with_stored_choices(config: ConfigDict, workdir: str) -> tuple[ConfigDict, bool]:
    """A config whose free fields have the values of the run in the workdir, and whether there is one.

    A run that goes on does not choose again, also where its data has grown or the machine is another. The first process
    tells the others, which may not see the workdir.
    """
    folder = resolve(workdir)
    there = jax.process_index() == 0 and (folder / CONFIG_FILE).is_file()
    stored = text_of_first(together(lambda: read_config(folder).to_json() if there else ''))
    if not config.get('auto') or not stored:
        return config, bool(stored)
    kept = config.copy_and_resolve_references()
    keep(kept, ConfigDict(json.loads(stored)))
    return kept.lock(), True


def checksum_of(config: ConfigDict) -> str:
    """A checksum of the fields that must be the same in all processes of a run: the data may lie elsewhere."""
    fields = config.to_dict()
    fields['data'] = {name: value for name, value in fields['data'].items() if name not in ('path', 'workers')}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _weights(config: ConfigDict, run: Run, load: given.Load | None) -> 'Encoder':
    """The weights of `config.init`."""
    if load is None:
        remedy = 'call fit with load=contrastive_jax.load_encoder'
        raise UserError(f'init {config.init!r} is set', field='init', remedy=remedy)
    return given.read_weights(config.init, run, load, config.get('init_channels') == 'repeat')


def facts_of(source: sources.Source, held_out: sources.Source | None) -> dict[str, object]:
    """What must be the same in all processes of a run: each takes its part of the same order of the same images."""
    return {
        'the number of training images': len(source),
        'the number of held-out images': 0 if held_out is None else len(held_out),
        'the checksum of the training images': source.fingerprint[:12],
    }


def build_trainer(
    config: ConfigDict,
    workdir: Path,
    devices: Devices,
    run: Run,
    source: sources.Source,
    held_out: sources.Source | None,
    evaluators: Sequence[Callable[[Context], Evaluator]] = (),
    verbose: bool = False,
    start: Start = from_scratch,
    parts: Parts | None = None,
) -> Trainer:
    """Puts the parts of a pretraining run together.

    Args:
      config: checked.
      workdir: the folder of the run; it exists.
      devices: the devices that the run uses.
      run: what is constant in the run.
      source: training images.
      held_out: held-out images; None where the data has none.
      evaluators: further evaluators, see `fit`.
      verbose: whether the table of all parameters is printed.
      start: puts given weights into the state at step 0.
      parts: how parts are made; None: as for a run alone.
    """
    parts = parts or Parts(load_data)
    features = OnlineFeatures(
        run.method.network,
        run.policy,
        devices,
        source,
        held_out,
        image_size=run.image_size,
        batch_size=config.eval.batch_size,
        max_train=config.eval.max_train,
        max_test=config.eval.max_test,
        extractor=parts.extractor,
    )
    context = Context(config, run, devices, source, held_out, features)
    feed = partial(parts.open_feed, devices=devices, source=source, config=config)
    first_pass = dataclasses.replace(run, total_steps=run.steps_per_epoch)
    return Trainer(
        run,
        feed(run),
        [*build_evaluators(context), *(make(context) for make in evaluators)],
        start,
        workdir,
        devices=devices,
        cadence=Cadence.of(config),
        data=describe_data(source, held_out),
        open_first_pass=partial(feed, first_pass, step=init_memory_step) if run.method.initializes_memory else None,
        track=partial(track, config, workdir) if config.trackers else None,
        best=BestBy(config.keep_best, mode_of(config)) if config.keep_best else None,
        verbose=verbose,
        label=parts.label,
    )


def track(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> Sequence[Tracker]:
    """Opens the trackers that a config names, see `Trainer`."""
    plain = json.loads(config.to_json())
    return open_trackers(config.trackers, workdir, project=config.tracker_project, config=plain, say=say)


def describe_data(source: sources.Source, held_out: sources.Source | None) -> dict[str, str | int]:
    """Facts about the data of a run, see `Trainer`."""
    known: dict[str, str | int] = {'data': source.name, 'train_images': len(source)}
    return known if held_out is None else {**known, 'held_out_images': len(held_out)}


def load_data(config: ConfigDict, *, derive_channels: bool = False) -> tuple[sources.Source, sources.Source | None]:
    """The training split, and the held-out one if there is one.

    Args:
      config: the config of the run.
      derive_channels: whether the number of channels is that of the training images; otherwise the config gives it.
    """
    d = config.data
    given = {'value_range': d.get('value_range', 0.0), **{key: d.get(key, '') for key in ('image_key', 'label_key')}}
    place = {'name': d.name, 'path': d.path, 'image_size': d.image_size, **given}
    source = open_source(d.source, split=d.split, channels=0 if derive_channels else d.get('channels', 3), **place)
    try:
        held_out = open_source(d.source, split=d.eval_split, channels=source.channels, **place)
    except MissingSplitError:  # pretraining needs no labels and no held-out images
        return source, None
    try:
        sources.check_apart(source, held_out, d.split, d.eval_split)
    except UserError:
        if config.eval.evaluators:
            raise
        return source, None  # all images are trained on, and nothing is measured
    return number_classes(source, held_out)
