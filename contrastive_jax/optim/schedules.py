"""Learning-rate schedules as in the official code of the papers: functions of the step that can be compiled.

How often the learning rate changes is a part of a recipe: once an epoch in MoCo v1 and v2, every step in MoCo v3.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

Schedule = Callable[[Array | int], Array]


def step_decay(
    base: float, milestones: Sequence[float], factor: float | Sequence[float], steps_per_epoch: int
) -> Schedule:
    """The learning rate is multiplied at each milestone.

    Args:
      base: initial value.
      milestones: epochs at which the value changes.
      factor: a number multiplies the current value at each milestone (MoCo v1, InstDis: 0.1 at 120 and 160). A sequence
        has one factor of `base` for each milestone (InvaSpread: 0.1 at 120, 0.05 at 160, 0.01 at 200).
      steps_per_epoch: number of steps in an epoch.
    """

    def schedule(step: Array | int) -> Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        passed = jnp.sum(epoch >= jnp.asarray(milestones))
        return base * (jnp.asarray([1.0, *factor])[passed] if isinstance(factor, Sequence) else factor**passed)

    return schedule


def cosine_per_epoch(base: float, epochs: float, steps_per_epoch: int, final: float = 0.0) -> Schedule:
    """Half a cosine from `base` to `final`, constant within each epoch (MoCo v2 `--cos`, SimSiam)."""

    def schedule(step: Array | int) -> Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        return final + (base - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def warmup_cosine(base: float, warmup_steps: int, total_steps: int, final: float = 0.0, start: float = 0.0) -> Schedule:
    """Linear from `start` to `base`, then half a cosine to `final`, updated every step (MoCo v3, BYOL, SimCLR)."""

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step)
        decay = jnp.minimum((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        cosine = final + (base - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * decay))
        return jnp.where(step < warmup_steps, start + (base - start) * step / max(warmup_steps, 1), cosine)

    return schedule


def linspace_warmup_cosine(
    base: float, final: float, warmup_steps: int, total_steps: int, start: float = 0.0
) -> Schedule:
    """The schedule of DINO and SwAV: linear warm-up, then half a cosine, updated every step.

    The warm-up is a linspace that includes its end point: `base` is reached in the last step of the warm-up, and the
    cosine starts from it in the next step.

    Args:
      base: value at the end of the warm-up.
      final: value at the end of the cosine.
      warmup_steps: number of steps of the warm-up; 0: no warm-up.
      total_steps: number of steps of the whole schedule.
      start: first value of the warm-up.
    """

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step)
        warmup = start + (base - start) * step / max(warmup_steps - 1, 1)
        decay = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = final + 0.5 * (base - final) * (1.0 + jnp.cos(jnp.pi * decay))
        return jnp.where(step < warmup_steps, warmup, cosine)

    return schedule


def constant(base: float) -> Schedule:
    """A constant learning rate (for the predictor with SimSiam's `--fix-pred-lr`)."""
    return lambda step: jnp.full((), base)


def shifted(schedule: Schedule | float, steps: int) -> Schedule:
    """A schedule (or a constant) without its first `steps` steps, for an optimizer that counts from 0 at that step."""
    return lambda step: jnp.asarray(schedule(step + steps) if callable(schedule) else schedule)


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """A schedule times `factor`, for a part of the network with another learning rate."""
    return lambda step: factor * schedule(step)
