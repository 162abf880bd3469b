"""Runs the train step on data: from an array in device memory, or from a stream of crops that the host decodes.

Both advance a state by many steps without waiting for the device.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
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

# Values of a run that its program gets as arguments, by name, and the run that has them. The seed is one of them: runs
# that differ in it are the same program, which a later run finds in the compilation cache.
Values = dict[str, Any]
Vary = Callable[[Run, Mapping[str, Any]], Run]


def with_seed(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with the seed that `values` has, which may be traced."""
    return dataclasses.replace(run, seed=values['seed'])


def values_of(run: Run) -> Values:
    """The values of a run that its program gets as arguments."""
    return {'seed': np.int32(run.seed)}


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


def open_feed(run: Run, devices: Devices, source: Source, *, config: ConfigDict, step: Step = train_step) -> Feed:
    """The feed for a data set: from the device if the data is in memory, otherwise off the host.

    Args:
      run: what is constant in the run.
      devices: the devices that the run uses.
      source: training images.
      config: the config of the run: `data.on_device`, `data.workers`, and `log_every_steps`, which is the most steps
        that one call of the device runs.
      step: the function of a step, of the form of `train_step`.
    """
    if source.array is not None and config.data.on_device:
        return ResidentFeed(run, devices, source, config.log_every_steps, step)
    return StreamFeed(run, devices, source, config.data.workers, step)


class ResidentFeed:
    """All images are in the memory of every device; one compiled loop of many steps samples, augments and trains.

    On a CPU a call is one step: XLA runs convolutions inside a loop on a single thread there (7 times slower).

    Args:
      run: what is constant in the run.
      devices: the devices that the run uses.
      source: training images in memory (`source.array`).
      max_steps: the largest number of steps of one call.
      step: the function of a step, of the form of `train_step`.
      vary: makes the run that has given values; by default the seed is the only one.

    Attributes:
      n: number of images.
      data: the images and their labels, on the devices.
      values: the values of the run that its program gets, on the devices.
    """

    def __init__(
        self,
        run: Run,
        devices: Devices,
        source: Source,
        max_steps: int,
        step: Step = train_step,
        vary: Vary = with_seed,
    ):
        assert source.array is not None
        self.step, self.vary = step, vary
        self.run, self.devices, self.n = run, devices, len(source)
        self.stride = 1 if jax.default_backend() == 'cpu' else max_steps
        labels = np.full(len(source), -1, np.int32) if source.labels is None else source.labels
        self.data = devices.place({'images': source.array, 'labels': labels}, REPLICATED)
        self.values = devices.place(values_of(run), REPLICATED)
        self._call = resident_program(run, devices, step, vary)

    def of(self, run: Run, values: Values) -> 'ResidentFeed':
        """A feed for a run that differs in these values alone. It shares images and program with this one."""
        other = copy.copy(self)
        other.run, other.values = run, self.devices.place(values, REPLICATED)
        return other

    def advance(self, state: PyTree, start: int, stop: int) -> tuple[PyTree, Metrics]:
        metrics = []
        for first in range(start, stop, self.stride):
            last = min(first + self.stride, stop)
            orders = padded_orders(self.run, first, last, self.n, self.stride)
            given = self.devices.place({'orders': orders, 'steps': np.int32(last - first)}, REPLICATED)
            state, sums = self._call(state, self.data, given['orders'], given['steps'], self.values)
            metrics.append(sums)
        return state, metrics

    def close(self) -> None:
        self.data = None


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
        self._values = devices.place(values_of(run), REPLICATED)
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
            state, sums = self._call(state, self._devices.place_rows(batch), self._values)
            metrics.append(sums)
        self._next = stop
        return state, metrics

    def close(self) -> None:
        if self._batches is not None and hasattr(self._batches, 'close'):
            self._batches.close()


def padded_orders(run: Run, start: int, stop: int, n: int, stride: int) -> np.ndarray:
    """The examples of steps start..stop-1, followed by zeros: int32[stride, B].

    One shape, and so one program, for any number of steps: a run ends with the same bits however it is cut.

    Args:
      run: what is constant in the run.
      start, stop: numbers of steps done, before and after; they differ by at most `stride`.
      n: number of examples in the data.
      stride: number of rows.
    """
    padded = np.zeros((stride, run.batch_size), np.int32)
    padded[: stop - start] = sampler.chunk_index(run.seed, start, stop, n, run.batch_size)
    return padded


def resident_program(run: Run, devices: Devices, step: Step = train_step, vary: Vary = with_seed) -> Callable[..., Any]:
    """The program of a `ResidentFeed`: `run_steps` on all devices."""
    r = REPLICATED
    loop = partial(run_steps, run=run, axis_name=AXIS, step=step, vary=vary)
    return devices.run(loop, (run.state_specs, r, r, r, r), (run.state_specs, r), donate=(0,))


def streamed_program(run: Run, devices: Devices, step: Step = train_step) -> Callable[..., Any]:
    """The program of a `StreamFeed`: `one_step` on all devices."""
    call = partial(one_step, run=run, axis_name=AXIS, step=step)
    specs = run.state_specs, SHARDED, REPLICATED
    return devices.run(call, specs, (run.state_specs, REPLICATED), donate=(0,))


def one_step(
    state: TrainState,
    batch: dict[str, Any],
    values: Values,
    *,
    run: Run,
    axis_name: str | None,
    step: Step = train_step,
    vary: Vary = with_seed,
) -> tuple[TrainState, dict[str, Array]]:
    """Runs `step`; returns its metrics as sums over 'steps' steps, here one, or none if its update was dropped.

    Args:
      state, batch: the arguments of the step.
      values: what is not constant in the program, such as the seed, scalars.
      run: what is constant.
      axis_name: the mapped device axis.
      step: the function of a step.
      vary: makes the run that has the values.
    """
    run = vary(run, values)
    state, metrics = step(state, batch, run=run, axis_name=axis_name)
    return state, {**metrics, 'steps': jnp.ones(()) - metrics.get('dropped', 0.0)}


def run_steps(
    state: TrainState,
    data: dict[str, Array],
    orders: Array,
    steps: Array,
    values: Values,
    *,
    run: Run,
    axis_name: str | None,
    step: Step = train_step,
    vary: Vary = with_seed,
) -> tuple[TrainState, dict[str, Array]]:
    """Runs the first `steps` of the given steps in one compiled loop.

    Args:
      state: before the first of them.
      data: {'images': uint8 or uint16[n, H, W, C], 'labels': int32[n]}.
      orders: int32[S, B], the examples of each step.
      steps: number of steps to run, from 1 to S.
      values, run, axis_name, step, vary: as in `one_step`.

    Returns:
      The state, and the sums of the metrics over the steps with their number under 'steps'.
    """

    def number(i: Array | int, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        batch = {**data, 'order': orders[i]}
        return one_step(state, batch, values, run=run, axis_name=axis_name, step=step, vary=vary)

    if orders.shape[0] == 1:
        return number(0, state)

    def body(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
        state, sums = carry
        state, metrics = number(i, state)
        return state, jax.tree.map(jnp.add, sums, metrics)

    shapes = jax.eval_shape(partial(number, 0), state)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, steps, body, (state, zeros))
