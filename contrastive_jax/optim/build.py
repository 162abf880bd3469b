"""Builds the optimizer and its learning-rate schedule from the sections `optimizer` and `schedule` of a config."""

import math

import optax
from ml_collections import ConfigDict

from contrastive_jax.optim import optimizers, schedules


def build_optimizer(
    config: ConfigDict, steps_per_epoch: int, total_steps: int
) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    """Builds the optimizer and its learning-rate schedule.

    Args:
      config: a config that `config.check.check` has found right, with `check_examples` for the length of the warm-up.
      steps_per_epoch: the number of full batches in an epoch.
      total_steps: the length of the training.

    Returns:
      The optimizer, and the learning rate as a function of the step, which is logged.
    """
    o = config.optimizer
    learning_rate = _learning_rate(config, steps_per_epoch, total_steps)
    weight_decay = weight_decay_of(config, total_steps) or o.weight_decay

    parts = {}  # its keys are a part of the optimizer state's structure, and so of checkpoints: do not rename them
    if o.freeze:
        parts['frozen'] = tuple(o.freeze), optax.set_to_zero()
    if o.freeze_first and (steps := o.freeze_steps or math.ceil(o.freeze_epochs * steps_per_epoch)):
        # The optimizer of these parameters starts late: it counts its own steps, but its schedules follow the training.
        later = _optimizer(o, schedules.shifted(learning_rate, steps), schedules.shifted(weight_decay, steps))
        parts['resting'] = tuple(o.freeze_first), optimizers.freeze_for(later, steps)
    if o.constant:
        parts['constant'] = tuple(o.constant), _optimizer(o, schedules.constant(base_rate(config)), weight_decay)
    for i, (path, factor) in enumerate(o.rate_factors):
        parts[f'scaled_{i}'] = (path,), _optimizer(o, schedules.scaled(learning_rate, factor), weight_decay)
    optimizer = optimizers.by_path(_optimizer(o, learning_rate, weight_decay), parts)
    if o.bias_rate_factor != 1:
        optimizer = optax.chain(optimizer, optimizers.scale_biases(o.bias_rate_factor))
    if o.clip_norm:
        optimizer = optax.chain(optimizers.clip_per_tensor(o.clip_norm), optimizer)
    return optimizer, learning_rate


def weight_decay_of(config: ConfigDict, total_steps: int) -> schedules.Schedule | None:
    """The schedule of the weight decay, as a function of the step; None if it is constant.

    Args:
      config: the config, as `build_optimizer` takes it.
      total_steps: the length of the training.
    """
    o = config.optimizer
    if o.final_weight_decay < 0:
        return None
    return schedules.linspace_warmup_cosine(o.weight_decay, o.final_weight_decay, 0, total_steps)


def _optimizer(
    o: ConfigDict, learning_rate: schedules.Schedule, weight_decay: float | schedules.Schedule
) -> optax.GradientTransformation:
    mask = optimizers.matrices if o.mask == 'matrices' else None
    match o.name:
        case 'sgd':
            return optimizers.sgd(learning_rate, momentum=o.momentum, weight_decay=weight_decay, mask=mask)
        case 'adam':
            return optimizers.adam(learning_rate, weight_decay=weight_decay, mask=mask, b1=o.b1, b2=o.b2)
        case 'adamw':
            return optimizers.adamw(learning_rate, weight_decay=weight_decay, mask=mask, b1=o.b1, b2=o.b2)
        case 'lars':
            return optimizers.lars(learning_rate, momentum=o.momentum, weight_decay=weight_decay)
        case 'lars_simclr':
            return optimizers.lars_simclr(learning_rate, momentum=o.momentum, weight_decay=weight_decay)
        case _:
            return optimizers.larc(learning_rate, momentum=o.momentum, weight_decay=weight_decay)


def _learning_rate(config: ConfigDict, steps_per_epoch: int, total_steps: int) -> schedules.Schedule:
    s, rate = config.schedule, base_rate(config)
    warmup_steps = round(s.warmup_epochs * steps_per_epoch)
    assert 'warmup' not in s.name or warmup_steps <= total_steps, 'config.check.check_examples refuses this'
    match s.name:
        case 'step':
            return schedules.step_decay(rate, tuple(s.milestones), tuple(s.factors) or s.factor, steps_per_epoch)
        case 'warmup_cosine':
            return schedules.warmup_cosine(rate, warmup_steps, total_steps, s.final, s.warmup_start)
        case 'linspace_warmup_cosine':
            return schedules.linspace_warmup_cosine(rate, s.final, warmup_steps, total_steps, s.warmup_start)
        case 'constant':
            return schedules.constant(rate)
        case _:
            return schedules.cosine_per_epoch(rate, total_steps / steps_per_epoch, steps_per_epoch, s.final)


def base_rate(config: ConfigDict) -> float:
    """The learning rate at this batch size, which the schedule starts from or warms up to."""
    return config.optimizer.learning_rate * batch_factor(config)


def batch_factor(config: ConfigDict) -> float:
    """The factor on learning rates for this batch size."""
    o = config.optimizer
    if o.learning_rate_scaling == 'sqrt':
        return config.batch_size**0.5
    return config.batch_size / o.learning_rate_batch if o.learning_rate_batch else 1.0
