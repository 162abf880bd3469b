"""Runs the train step on data: from an array in device memory, or from a stream of crops that the host decodes.

Both advance a state by many steps without waiting for the device.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.data import sampler
from contrastive_jax.data.loader import train_batches
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS, REPLICATED, SHARDED, Devices
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import train_step

Metrics = list[dict[str, Array]]
Step = Callable[..., tuple[TrainState, dict[str, Array]]]


class Feed(Protocol):
    """Runs train steps on a data set.

    Attributes:
      stride: number of steps of one call of the device; signals are checked between two calls.
    """

    stride: int

    def advance(self, state: PyTree, start: int, stop: int) -> tuple[PyTree, Metrics]:
        """Runs steps start..stop-1 and donates the state (in the devices' layout); does not wait for the metrics."""

    def close(self) -> None:
        """Stops threads and worker processes, if there are any."""


def open_feed(
    run: Run, devices: Devices, source: Source, *, data: ConfigDict, max_steps: int, step: Step = train_step
) -> Feed:
    """The feed for a data set: from the device if the data is in memory, otherwise off the host.

    Args:
      run: what is constant in the run.
      devices: the devices that the run uses.
      source: training images.
      data: the section `data` of a config: `on_device`, `workers`.
      max_steps: the most steps that one call of the device runs.
      step: the function of a step, of the form of `train_step`.
    """
    if source.array is not None and data.on_device:
        return ResidentFeed(run, devices, source, max_steps, step)
    return StreamFeed(run, devices, source, data.workers, step)


class ResidentFeed:
    """All images are in the memory of every device; one compiled loop of many steps samples, augments and trains.

    On a CPU a call is one step: XLA runs convolutions inside a loop on a single thread there (7 times slower).

    Args:
      run: what is constant in the run.
      devices: the devices that the run uses.
      source: training images in memory (`source.array`).
      max_steps: the largest number of steps of one call.
      step: the function of a step, of the form of `train_step`.
    """

    def __init__(self, run: Run, devices: Devices, source: Source, max_steps: int, step: Step = train_step):
        assert source.array is not None
        self._run, self._devices, self._n = run, devices, len(source)
        self.stride = 1 if jax.default_backend() == 'cpu' else max_steps
        labels = np.full(len(source), -1, np.int32) if source.labels is None else source.labels
        data = {'images': source.array, 'labels': labels, 'seed': np.int32(run.seed)}
        self._data = devices.place(data, REPLICATED)
        self._call = resident_program(run, devices, step)

    def advance(self, state: PyTree, start: int, stop: int) -> tuple[PyTree, Metrics]:
        metrics = []
        for first in range(start, stop, self.stride):
            last = min(first + self.stride, stop)
            orders = sampler.chunk_index(self._run.seed, first, last, self._n, self._run.batch_size)
            # One shape, and so one program, for any number of steps: a run ends with the same bits however it is cut.
            padded = np.zeros((self.stride, self._run.batch_size), np.int32)
            padded[: last - first] = orders
            given = self._devices.place({'orders': padded, 'steps': np.int32(last - first)}, REPLICATED)
            state, sums = self._call(state, self._data, given['orders'], given['steps'])
            metrics.append(sums)
        return state, metrics

    def close(self) -> None:
        self._data = None


class StreamFeed:
    """A loader decodes images and cuts crops on the host; the rest of the augmentation runs inside the step.

    Args:
      run: what is constant in the run.
      devices: the devices that the run uses.
      source: training images.
      workers: number of processes of the loader; 0: threads.
      step: the function of a step, of the form of `train_step`.
    """

    stride = 1

    def __init__(self, run: Run, devices: Devices, source: Source, workers: int, step: Step = train_step):
        self._run, self._devices, self._source, self._workers = run, devices, source, workers
        self._batches: Iterator[dict[str, Any]] | None = None
        self._next = 0  # the step of the next batch
        self._call = streamed_program(run, devices, step)

    def advance(self, state: PyTree, start: int, stop: int) -> tuple[PyTree, Metrics]:
        if self._batches is None or start != self._next:
            self.close()
            run, policy = self._run, self._run.policy
            self._batches = train_batches(
                self._source,
                seed=run.seed,
                batch_size=run.batch_size,
                image_size=policy.view_sizes(run.image_size),
                num_views=policy.num_views,
                crop_scale=policy.view_scales,
                crop_ratio=policy.crop_ratio,
                interpolation=policy.interpolation,
                style=policy.style,
                start_step=start,
                stop_step=run.total_steps,
                num_workers=self._workers,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
        metrics: Metrics = []
        batches = itertools.islice(self._batches, stop - start)
        for batch in watchdog.reading(batches, 'the batch of step', start + 1):
            state, sums = self._call(state, self._devices.place_rows(batch))
            metrics.append(sums)
        self._next = stop
        return state, metrics

    def close(self) -> None:
        if self._batches is not None and hasattr(self._batches, 'close'):
            self._batches.close()


def resident_program(run: Run, devices: Devices, step: Step = train_step) -> Callable[..., Any]:
    """The program of a `ResidentFeed`: `run_steps` on all devices."""
    r = REPLICATED
    loop = partial(run_steps, run=run, axis_name=AXIS, step=step)
    return devices.run(loop, (run.state_specs, r, r, r), (run.state_specs, r), donate=(0,))


def streamed_program(run: Run, devices: Devices, step: Step = train_step) -> Callable[..., Any]:
    """The program of a `StreamFeed`: `one_step` on all devices."""
    call = partial(one_step, run=run, axis_name=AXIS, step=step)
    return devices.run(call, (run.state_specs, SHARDED), (run.state_specs, REPLICATED), donate=(0,))


def one_step(
    state: TrainState, batch: dict[str, Any], *, run: Run, axis_name: str | None, step: Step = train_step
) -> tuple[TrainState, dict[str, Array]]:
    """Runs `step`; returns its metrics as sums over 'steps' steps, here one, or none if its update was dropped."""
    state, metrics = step(state, batch, run=run, axis_name=axis_name)
    return state, {**metrics, 'steps': jnp.ones(()) - metrics.get('dropped', 0.0)}


def run_steps(
    state: TrainState,
    data: dict[str, Array],
    orders: Array,
    steps: Array,
    *,
    run: Run,
    axis_name: str | None,
    step: Step = train_step,
) -> tuple[TrainState, dict[str, Array]]:
    """Runs the first `steps` of the given steps in one compiled loop.

    Args:
      state: before the first of them.
      data: {'images': uint8 or uint16[n, H, W, C], 'labels': int32[n], 'seed': int32}. The seed is an argument, so that
        runs that differ in it alone share one compiled program.
      orders: int32[S, B], the examples of each step.
      steps: number of steps to run, from 1 to S.
      run: what is constant in the run.
      axis_name: the mapped device axis.
      step: the function of a step.

    Returns:
      The state, and the sums of the metrics over the steps with their number under 'steps'.
    """

    run = dataclasses.replace(run, seed=data['seed'])  # type: ignore[arg-type]  # it is traced

    def number(i: Array | int, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        return one_step(state, {**data, 'order': orders[i]}, run=run, axis_name=axis_name, step=step)

    if orders.shape[0] == 1:
        return number(0, state)

    def body(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
        state, sums = carry
        state, metrics = number(i, state)
        return state, jax.tree.map(jnp.add, sums, metrics)

    shapes = jax.eval_shape(partial(number, 0), state)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, steps, body, (state, zeros))
