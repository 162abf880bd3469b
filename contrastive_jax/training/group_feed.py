"""The feeds of the runs of a group: one copy of the images, and one program for the steps of all members.

Members differ in values that the program gets as arguments: the seed, the learning rate, the temperature. There are two
forms. *In turn*: the program of one run is called for one member after the other. *Vectorized*: the states are stacked
on a leading axis, and one call of a program under `jax.vmap` takes the step of all of them.

On a CPU members take their steps in turn: `vmap` is 12 % slower for a ResNet, whose convolutions become grouped ones,
no faster for a ViT, and takes longer to compile (benchmarks/README.md). On accelerators a small network alone leaves
most of the device idle, which `vmap` fills; this was not measured.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.config.fields import CADENCES
from contrastive_jax.config.group import LISTS
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import AXIS, REPLICATED, Devices
from contrastive_jax.errors import UserError
from contrastive_jax.optim.build import build_optimizer
from contrastive_jax.training.feed import ResidentFeed, Step, Values, padded_orders, run_steps, values_of
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.session import Done, Segment
from contrastive_jax.training.step import train_step


def varied(run: Run, values: Mapping[str, Any], config: ConfigDict) -> Run:
    """The run with other values of 'seed', 'learning_rate' and 'temperature', which may be traced.

    Args:
      run: any member of the group.
      values: a value for each of some of the names; the others are those of `run`.
      config: the config of `run`.
    """
    changed: dict[str, Any] = {name: values[name] for name in ('seed',) if name in values}
    if 'temperature' in values:
        of_method: dict[str, Any] = {'temperature': values['temperature']}
        changed['method'] = dataclasses.replace(run.method, **of_method)
    if 'learning_rate' in values:
        given = config.copy_and_resolve_references()
        with given.ignore_type(), given.unlocked():
            given.optimizer.learning_rate = values['learning_rate']
        optimizer, rate = build_optimizer(given, run.steps_per_epoch, run.total_steps)
        changed |= {'optimizer': optimizer, 'learning_rate': rate}
    return dataclasses.replace(run, **changed)


class GroupFeeds:
    """Opens the feeds of a group, and takes the steps of several members at once.

    Args:
      vectorized: the form, see the module.
    """

    def __init__(self, vectorized: bool):
        self._vectorized = vectorized
        self._first: dict[Step, ResidentFeed] = {}
        self._config: ConfigDict | None = None  # of the first member
        self._joint: dict[tuple[Step, int], Any] = {}  # of so many members

    def open(
        self,
        run: Run,
        devices: Devices,
        source: Source,
        *,
        config: ConfigDict,
        step: Step = train_step,
        values: Mapping[str, int | float],
    ) -> ResidentFeed:
        """The feed of a member.

        Args:
          run, devices, source, config, step: as `training.feed.open_feed` takes them.
          values: what differs between the members, as in `config.group.Member`.

        Raises:
          UserError: the images are not in memory, or the members differ in other fields.
        """
        self._config = self._config or config
        if differ := differences(self._config, config):
            raise UserError(
                f'several runs share one program, and {"; ".join(differ)} in the first run and this one',
                field='seeds',
                remedy='give the runs that were not begun yet another workdir, or train them on the machine of the '
                'others',
            )
        if source.array is None or not config.data.on_device:
            raise UserError(
                f'the images of {source.name} are read while a run trains, and several runs share images in memory',
                field='seeds',
                remedy='give each run a command of its own, with --config.seed=N',
            )
        if step not in self._first:
            vary = partial(varied, config=config)
            self._first[step] = ResidentFeed(run, devices, source, config.log_every_steps, step, vary)
        given = {name: np.float32(x) for name, x in values.items() if name != 'seed'}
        return self._first[step].of(run, {**values_of(run), **given})

    def advance(self, segments: Sequence[Segment], stop: int) -> list[Done]:
        """Takes the steps of members that are at the same step, in one call of the device or in one for each of them.

        Args:
          segments: what the members ask for; their feeds are from `open`, for the same function of a step.
          stop: the step to reach, at most a stride after their step.

        Returns:
          What became of each segment.
        """
        start = segments[0].step
        if not self._vectorized:
            results = [segment.feed.advance(segment.state, start, stop) for segment in segments]
            return [(state, metrics, stop) for state, metrics in results]
        feeds = [feed_of(segment) for segment in segments]
        first, count = feeds[0], len(feeds)
        if (first.step, count) not in self._joint:
            self._joint[first.step, count] = joint_program(first, count)
        orders = tuple(padded_orders(feed.run, start, stop, feed.n, feed.stride) for feed in feeds)
        given = first.devices.place({'orders': orders, 'steps': np.int32(stop - start)}, REPLICATED)
        states, metrics = self._joint[first.step, count](
            tuple(segment.state for segment in segments),
            first.data,
            given['orders'],
            given['steps'],
            tuple(feed.values for feed in feeds),
        )
        return [(state, [sums], stop) for state, sums in zip(states, metrics, strict=True)]

    def close(self) -> None:
        for feed in self._first.values():
            feed.close()


def differences(first: ConfigDict, other: ConfigDict) -> list[str]:
    """What differs between the configs of two members beside the values of the lists, such as 'batch_size 64 and 32'.

    A run that goes on keeps what was chosen for it, and one that begins on another machine may get other choices.
    """
    may_differ = (*CADENCES, *LISTS.values())
    one, two = (flatten_dict(config.to_dict(), sep='.') for config in (first, other))
    return [
        f'{name} is {one.get(name)!r} and {two.get(name)!r}'
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name) and name not in may_differ and not name.startswith(('auto.', 'eval.'))
    ]


def feed_of(segment: Segment) -> ResidentFeed:
    """The feed of a member, which `GroupFeeds.open` has made."""
    assert isinstance(segment.feed, ResidentFeed)
    return segment.feed


def joint_program(feed: ResidentFeed, count: int) -> Any:
    """`run_steps` of so many members under `jax.vmap`: takes and returns tuples of what `run_steps` takes and returns.

    Args:
      feed: the feed of any of the members.
      count: number of members.
    """
    # The members are at the same step: unlike a batched one, it chooses a branch of a condition.
    kind: Any = TrainState
    axes = kind(step=None, params=0, opt_state=0, method=0, dropped=0)
    loop = partial(run_steps, run=feed.run, axis_name=AXIS, step=feed.step, vary=feed.vary)

    def joint(
        states: tuple[TrainState, ...],
        data: dict[str, Array],
        orders: tuple[Array, ...],
        steps: Array,
        values: tuple[Values, ...],
    ) -> tuple[tuple[TrainState, ...], tuple[dict[str, Array], ...]]:
        state: Any
        state, order, value = (jax.tree.map(lambda *x: jnp.stack(x), *parts) for parts in (states, orders, values))
        mapped = jax.vmap(loop, in_axes=(axes, None, 0, None, 0), out_axes=(axes, 0))
        state, sums = mapped(dataclasses.replace(state, step=states[0].step), data, order, steps, value)

        def member(i: int) -> tuple[TrainState, dict[str, Array]]:
            of, found = jax.tree.map(lambda x: x[i], (dataclasses.replace(state, step=None), sums))
            return dataclasses.replace(of, step=state.step), found

        states, metrics = zip(*map(member, range(count)), strict=True)
        return states, metrics

    r, specs = REPLICATED, (feed.run.state_specs,) * count
    return feed.devices.run(joint, (specs, r, r, r, r), (specs, r), donate=(0,))
