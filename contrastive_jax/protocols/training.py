"""What the protocols that train share. Each of them is a method that the loop of pretraining trains."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.trackers import check_trackers
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.optim import schedules
from contrastive_jax.protocols import fields
from contrastive_jax.rules import Rules, field
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.feed import open_feed
from contrastive_jax.training.fit import describe_data, track
from contrastive_jax.training.loop import Cadence, Start, Trainer
from contrastive_jax.training.run import Run
from contrastive_jax.workdir.trackers import NAMES as TRACKERS


@dataclasses.dataclass(frozen=True)
class Training(fields.Evaluation):
    """The top level of the config of an evaluation that trains."""

    seed: int = field(
        0, 'Seed of the first weights, the order of the examples and the augmentation.', least=0, most=2**31 - 1
    )
    epochs: float = field(
        100.0, 'Length of the training. An epoch has as many steps as there are full batches.', above=0
    )
    log_every_steps: int = field(100, 'Steps between two lines of the log.', least=1)
    eval_every_steps: int = field(0, 'Steps between two evaluations; 0: only at the end.', least=0)
    checkpoint_every_steps: int = field(5000, 'Steps between two checkpoints; there is always one at the end.', least=1)
    trackers: tuple[str, ...] = field(
        (),
        'Services that show metrics, beside metrics.jsonl and TensorBoard.',
        choices=TRACKERS,
        example=('wandb',),
    )
    tracker_project: str = field(
        'contrastive_jax', 'The project of W&B and trackio, and the experiment of MLflow, that it belongs to.'
    )
    profile_steps: int = field(
        0, "Record so many steps for TensorBoard's profiler, after the first hundred; 0: none.", least=0
    )


@dataclasses.dataclass(frozen=True)
class Data(fields.Data):
    """The section `data` of the config of an evaluation that trains."""

    on_device: bool = field(True, 'Keep data that is in memory on the device, and run many steps in one call.')
    workers: int = field(
        0, 'Processes that decode images; 0: threads, which are as fast unless there are many cores.', least=0
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """The section `augment`. The rest of the augmentation is as in the run."""

    crop_scale: tuple[float, float] = field((0.08, 1.0), 'Least and greatest area of a random crop.', above=0, most=1)
    flip: float = field(0.5, 'Probability of a horizontal flip.', least=0, most=1)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What the sections `optimizer` of linear probe and fine-tuning have in common."""

    learning_rate_batch: int = field(
        0, 'Learning rates are multiplied by batch_size / learning_rate_batch; 0: they are not scaled.', least=0
    )
    momentum: float = field(0.9, 'Momentum of SGD, LARS and LARC.', least=0, most=1)
    nesterov: bool = field(False, 'Nesterov momentum, for SGD.')


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The section `schedule`, of the learning rates."""

    name: str = field(
        'step',
        "'step' and 'cosine' change once an epoch, 'cosine_per_step' at every step.",
        choices=('step', 'cosine', 'cosine_per_step'),
    )
    milestones: tuple[float, ...] = field((60, 80), "Epochs at which 'step' changes.", above=0)
    factor: float = field(0.1, "What 'step' multiplies the learning rate by at each milestone.", above=0, most=1)


# The sections of every evaluation that trains.
SECTIONS: dict[str, type] = {'': Training, 'data': Data, 'augment': Augment}


def rules(c: ConfigDict, rules: Rules) -> None:
    """Adds what is wrong with the fields of `SECTIONS` together."""
    check_trackers(c, rules)
    scales = c.augment.crop_scale
    rules.rule(
        scales[0] <= scales[1],
        f'augment.crop_scale {scales!r} is out of range',
        field='augment.crop_scale',
        remedy='give two areas with 0 < least <= greatest <= 1',
        value=tuple(sorted(scales)),
    )


def build_trainer(
    config: ConfigDict,
    run: Run,
    source: Source,
    evaluator: Evaluator,
    start: Start,
    workdir: Path,
    devices: Devices,
) -> Trainer:
    """The trainer of a protocol.

    Args:
      config: the config of the evaluation.
      run: what is constant in the run.
      source: the images that it is trained on.
      evaluator: what is measured.
      start: puts the weights of the encoder into the state at step 0.
      workdir: the folder of the evaluation; it exists.
      devices: the devices that the run uses.
    """
    return Trainer(
        run,
        open_feed(run, devices, source, config=config),
        [evaluator],
        start,
        workdir,
        devices=devices,
        cadence=Cadence.of(config),
        data=describe_data(source, None),
        track=partial(track, config, workdir) if config.trackers else None,
    )


def schedule(config: ConfigDict, per_epoch: int, total: int) -> schedules.Schedule:
    """The factor of all learning rates at a step."""
    s = config.schedule
    match s.name:
        case 'step':
            return schedules.step_decay(1.0, tuple(s.milestones), s.factor, per_epoch)
        case 'cosine':
            return schedules.cosine_per_epoch(1.0, total / per_epoch, per_epoch)
        case _:
            return schedules.warmup_cosine(1.0, 0, total)


def policy(config: ConfigDict, of_run: Policy) -> Policy:
    """Random crops and flips, with the image operations and the normalization of the run."""
    return dataclasses.replace(
        of_run,
        crop_scale=tuple(config.augment.crop_scale),
        crop_ratio=(3 / 4, 4 / 3),
        flip=config.augment.flip,
        jitter_probability=0.0,
        grayscale=0.0,
        blur=(0.0,),
        solarize=(0.0,),
        local_crops=0,
        patches=None,
    )


def empty(module: nn.Module, images: Array, *args: Any, **how: Any) -> tuple[PyTree, int]:
    """Zero variables of an encoder, which a start function replaces with trained ones, and the feature width D.

    Args:
      module: the encoder.
      images: float[b, H, W, channels]; only the shape of two of them matters.
      *args, **how: further arguments of the call.
    """
    rng, few = jax.random.key(0), images[:2]
    shapes = jax.eval_shape(lambda: module.init(rng, few, *args, train=False, **how))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(shapes))
    return zeros, jax.eval_shape(lambda v: module.apply(v, few, *args, train=False, **how), shapes).shape[-1]
