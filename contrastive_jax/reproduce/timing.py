"""How long an experiment will take on this machine, from a measured short run of it."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.cores import usable_cores
from contrastive_jax.distributed.devices import find_devices

FEW_TRAIN, FEW_TEST = 2048, 512  # images of the measured evaluation
MEASURED_S, MOST_STEPS = 5.0, 200  # about the seconds, and at most the steps, that are measured
RULE_ERROR = 3  # counted operations give the time on a CPU within about this factor
MARGIN = 1.1  # estimates are multiplied by it: checkpoints, pictures, and evaluations on all images


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was measured.

    Attributes:
      step_s: seconds of a training step.
      image_s: seconds of an evaluation during training for each of its images: features, kNN and linear probe.
      first_s: seconds of the first step and the first evaluation beyond that, mostly compilation.
      device: the devices, such as '1 x NVIDIA H200'.
    """

    step_s: float
    image_s: float
    first_s: float
    device: str


def this_device() -> str:
    """The number and the kind of the devices."""
    return f'{jax.device_count()} x {jax.devices()[0].device_kind}'


def measure(config: ConfigDict, source: Source, held_out: Source | None) -> Timing:
    """Trains a few steps and evaluates on a few images, in a folder that is removed.

    Args:
      config: a checked config of a pretraining.
      source, held_out: its data.
    """
    from contrastive_jax.training.build import build_run
    from contrastive_jax.training.fit import build_trainer

    few = config.copy_and_resolve_references()
    few.eval.max_train, few.eval.max_test = min(few.eval.max_train, FEW_TRAIN), min(few.eval.max_test, FEW_TEST)
    few.trackers, few.keep_best = (), ''
    run = build_run(few, len(source))
    images = min(len(source), few.eval.max_train) + min(len(held_out or ()), few.eval.max_test)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(few, Path(folder), find_devices(few.parallel), run, source, held_out)
        try:
            state: Any = trainer.restore_or_init().state
            state, first_step = _advance(trainer.feed, state, 0, 1)
            state, step = _advance(trainer.feed, state, 1, 2)
            count = int(np.clip(MEASURED_S / step, 1, MOST_STEPS))
            state, steps = _advance(trainer.feed, state, 2, 2 + count)
            last = run.total_steps
            evaluators = [one for one in trainer.evaluators if one.measures and one.due(last, last)]
            first_evaluation, evaluation = (_seconds(evaluators, at, state) for at in (1, 2))  # not in the same step
        finally:
            trainer.feed.close()
            trainer.checkpoints.close()
    step = steps / count
    first = max(first_step - step, 0.0) + max(first_evaluation - evaluation, 0.0)
    return Timing(step, evaluation / max(images, 1), first, this_device())


def hours_on_a_cpu(config: ConfigDict, n: int, most_s: float) -> float:
    """Hours of a training that is far too long for a CPU, so that it is not worth measuring; 0: it may not be.

    Args:
      config: a checked config of a pretraining.
      n: number of training images.
      most_s: the seconds that are left.
    """
    from contrastive_jax.training.build import build_run
    from contrastive_jax.training.estimate import estimate as count

    if jax.default_backend() != 'cpu':
        return 0.0
    seconds = count(build_run(config, n), usable_cores()).total_s
    return seconds / 3600 if seconds > RULE_ERROR * max(most_s, 0) else 0.0


def estimate(
    config: ConfigDict, evaluations: list[ConfigDict], timing: Timing, sizes: tuple[int, int], done: int = 0
) -> float:
    """Seconds that the rest of an experiment takes.

    Args:
      config: the config of its training.
      evaluations: the configs of its evaluations. A linear probe reads each training image once an epoch.
      timing: as `measure` returns it.
      sizes: number of training and of held-out images.
      done: steps that are done.
    """
    n, m = sizes
    per_epoch = max(n // config.batch_size, 1)
    total = config.steps or round(config.epochs * per_epoch)
    steps = max(total - done, 0)
    every = config.eval_every_steps
    online = 1 + (steps // every if every else 0)
    images = online * (min(n, config.eval.max_train) + min(m, config.eval.max_test))
    images += sum(m + n * (evaluation.get('epochs', 1.0) or 1.0) for evaluation in evaluations)
    return MARGIN * (timing.first_s + steps * timing.step_s + images * timing.image_s)


def _advance(feed: Any, state: Any, start: int, stop: int) -> tuple[Any, float]:
    """Runs steps start..stop-1: the state and the seconds."""
    began = time.perf_counter()
    state, metrics = feed.advance(state, start, stop)
    jax.block_until_ready((state, metrics))
    return state, time.perf_counter() - began


def _seconds(evaluators: list[Any], step: int, state: Any) -> float:
    began = time.perf_counter()
    for evaluator in evaluators:
        evaluator(step, state)
    return time.perf_counter() - began
