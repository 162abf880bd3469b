"""Learning-rate schedules, as the official codes have them: functions of the step, usable inside a compiled step.

Granularity is part of a recipe: MoCo v1 and v2 change the learning rate once an epoch, MoCo v3 at every iteration.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

Schedule = Callable[[Array | int], Array]


def step_decay(
    base: float, milestones: Sequence[float], factor: float | Sequence[float], steps_per_epoch: int
) -> Schedule:
    """Multiplied by `factor` at each milestone, given in epochs (MoCo v1, InstDis: x0.1 at 120 and 160).

    Several factors are those of `base` from each milestone on (InvaSpread: x0.1 at 120, x0.05 at 160, x0.01 at 200).
    """

    def schedule(step: Array | int) -> Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        passed = jnp.sum(epoch >= jnp.asarray(milestones))
        return base * (jnp.asarray([1.0, *factor])[passed] if isinstance(factor, Sequence) else factor**passed)

    return schedule


def cosine_per_epoch(base: float, epochs: float, steps_per_epoch: int, final: float = 0.0) -> Schedule:
    """Half a cosine to `final`, constant within an epoch (MoCo v2 `--cos`, SimSiam)."""

    def schedule(step: Array | int) -> Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        return final + (base - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def warmup_cosine(base: float, warmup_steps: int, total_steps: int, final: float = 0.0, start: float = 0.0) -> Schedule:
    """Linear from `start` to `base`, then half a cosine to `final`, at every iteration (MoCo v3, BYOL, SimCLR)."""

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step)
        decay = jnp.minimum((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        cosine = final + (base - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * decay))
        return jnp.where(step < warmup_steps, start + (base - start) * step / max(warmup_steps, 1), cosine)

    return schedule


def linspace_warmup_cosine(
    base: float, final: float, warmup_steps: int, total_steps: int, start: float = 0.0
) -> Schedule:
    """DINO's and SwAV's: the warm-up is a linspace that includes its end, so `base` is reached one step early and kept.

    Args:
      base: value at the end of the warm-up.
      final: value that the cosine moves to.
      warmup_steps: length of the warm-up; 0 for none.
      total_steps: length of the whole schedule.
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
    """Never changes (a predictor with SimSiam's `--fix-pred-lr`)."""
    return lambda step: jnp.full((), base)


def shifted(schedule: Schedule | float, steps: int) -> Schedule:
    """What a schedule (or a constant) is `steps` later: for an optimizer that starts then and counts from 0."""
    return lambda step: jnp.asarray(schedule(step + steps) if callable(schedule) else schedule)


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """So many times a schedule: for a part of the network that learns faster or slower than the rest."""
    return lambda step: factor * schedule(step)
