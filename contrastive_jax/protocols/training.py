"""What the protocols that train share. Each of them is a method that the loop of pretraining trains."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.optim import schedules
from contrastive_jax.rules import Rules
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.feed import open_feed
from contrastive_jax.training.fit import describe_data
from contrastive_jax.training.loop import Cadence, Start, Trainer
from contrastive_jax.training.run import Run


def fields(c: ConfigDict, *, epochs: float, milestones: tuple[int, ...], factor: float) -> None:
    """Adds the fields of a training by SGD with a simple schedule, which is 'step' with these milestones and factor."""
    run_fields(c, epochs)
    c.optimizer = ConfigDict()
    c.optimizer.learning_rate_batch = 0  # learning rates are multiplied by batch_size / this; 0: not scaled
    c.optimizer.momentum = 0.9
    c.optimizer.nesterov = False  # Nesterov momentum, for SGD

    c.schedule = ConfigDict()
    c.schedule.name = 'step'  # 'step' and 'cosine' change once an epoch, 'cosine_per_step' at every step
    c.schedule.milestones = milestones  # in epochs, for 'step'
    c.schedule.factor = factor  # the rate is multiplied by it at each milestone, for 'step'


def run_fields(c: ConfigDict, epochs: float) -> None:
    """Adds the fields of a training that do not depend on its optimizer."""
    c.seed = 0
    c.batch_size = 256
    c.epochs = epochs
    c.augment = ConfigDict({'crop_scale': (0.08, 1.0), 'flip': 0.5})  # the rest is as in the run

    c.log_every_steps = 100
    c.eval_every_steps = 0  # 0: only at the end
    c.checkpoint_every_steps = 5000  # and always at the end
    c.profile_steps = 0  # trace this many steps for TensorBoard's profiler, after the first hundred
    c.data.on_device = True  # keep in-memory data on the device, and run many steps in one call
    c.data.workers = 0  # processes that decode images; 0: threads


def rules(c: ConfigDict, devices: int, rules: Rules) -> None:
    """Adds what is wrong with the fields of `fields`."""
    run_rules(c, devices, rules)
    rules.one_of('schedule.name', ('step', 'cosine', 'cosine_per_step'))
    rules.within('optimizer.learning_rate_batch', 0)
    rules.within('optimizer.momentum', 0, 1)
    rules.within('schedule.factor', 0, 1, open_low=True)
    milestones = c.schedule.milestones
    rules.rule(
        all(math.isfinite(epoch) and epoch > 0 for epoch in milestones),
        f'schedule.milestones {milestones!r} is out of range -> they are epochs, all above 0',
    )


def run_rules(c: ConfigDict, devices: int, rules: Rules) -> None:
    """Adds what is wrong with the fields of `run_fields`."""
    B = c.batch_size
    rules.rule(B % devices == 0, f'batch_size {B} is not divisible by {devices} devices -> use a multiple')
    rules.within('seed', 0, 2**31 - 1)
    rules.within('epochs', 0, open_low=True)
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
        open_feed(run, devices, source, data=config.data, max_steps=config.log_every_steps),
        [evaluator],
        start,
        workdir,
        devices=devices,
        cadence=Cadence.of(config),
        data=describe_data(source, None),
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
      images: float[b, H, W, 3]; only the shape of two of them matters.
      *args, **how: further arguments of the call.
    """
    rng, few = jax.random.key(0), images[:2]
    shapes = jax.eval_shape(lambda: module.init(rng, few, *args, train=False, **how))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(shapes))
    return zeros, jax.eval_shape(lambda v: module.apply(v, few, *args, train=False, **how), shapes).shape[-1]
