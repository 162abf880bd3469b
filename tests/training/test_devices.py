"""N devices train what one device trains: loss, gradient, queue and metrics, under jit(shard_map) and under pmap."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices, find_devices
from contrastive_jax.training import feed
from contrastive_jax.training.run import Run, TrainState
from tests import train_steps

STEPS = 4
COLOR = 'mocov2:tiny'  # is trained with the color augmentation; that of the others is the same code
TWO_STAGES = 'mocov3_r50:tiny'
METHODS = ('mocov2:tiny', 'mocov3_r50:tiny', 'mocov3_vit:tiny')
FEW = [('jit', 8), ('pmap', 2)]
MEMORIES = (
    'instdis:tiny',
    'swav:tiny,queue',
    'deepcluster:tiny',
)  # a bank, a queue a view, and one filled before step 0
# For every method, test_contract.py compares losses, gradients and memories on 8 devices; the rest of a step is the
# same code. In float64 `pmap` runs on 2.
CASES = [(COLOR, *devices) for devices in (('jit', 2), ('jit', 8), ('pmap', 1), ('pmap', 8))]
CASES += [(METHODS[-1], 'pmap', 4)]
CASES_FLOAT64 = [(COLOR, *devices) for devices in FEW] + [(name, *FEW[0]) for name in METHODS[1:]]
CASES_FLOAT64 += [(name, 'pmap', 2) for name in MEMORIES]


class Result(NamedTuple):
    """What a run came to, as numpy in the global layout."""

    gradient: PyTree  # of the first step
    losses: np.ndarray
    metrics: list[dict[str, np.ndarray]]
    memory: PyTree
    target: PyTree
    stats: PyTree
    differing: list[str]  # leaves that are to be the same on all devices, and are not


def first_gradient(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer, which also keeps the gradient of step 0."""

    def init(params):
        return optimizer.init(params), jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32)

    def update(grads, state, params):
        inner, first, step = state
        updates, inner = optimizer.update(grads, inner, params)
        return updates, (inner, jax.tree.map(lambda a, b: jnp.where(step == 0, a, b), grads, first), step + 1)

    return optax.GradientTransformation(init, update)


@functools.cache
def started(name: str, dtype: str, **changes: int) -> tuple[Run, Source, TrainState]:
    """The run of a config, its data, and the state at step 0 as numpy: the same for all devices."""
    config = train_steps.load_small(name, 1 + (name == TWO_STAGES), name == COLOR, dtype=dtype, steps=STEPS, **changes)
    run, source = train_steps.build(config)
    run = dataclasses.replace(run, optimizer=first_gradient(run.optimizer))
    return run, source, jax.device_get(train_steps.start(run, find_devices('jit', 1), dtype))


@functools.cache
def trained(name: str, mode: str, count: int, dtype: str, **changes: int) -> Result:
    """Some steps of a config. In float64 the program is the same, and rounding no longer hides a mistake."""
    with jax.enable_x64(dtype == 'float64'):
        run, source, start = started(name, dtype, **changes)
        devices = find_devices(mode, count)
        data = feed.ResidentFeed(run, devices, source, 1)
        state = train_steps.surveyed(run, source, devices, devices.place(start, run.state_specs))
        state, metrics = data.advance(state, 0, STEPS)
        host = jax.device_get(devices.collect(state, run.state_specs, start))
        return Result(
            host.opt_state[1],
            np.array([devices.fetch(m)['loss'] for m in metrics]),
            [devices.fetch(m) for m in metrics],
            host.method.memory,
            host.method.target,
            host.method.batch_stats,
            differing(state, run, devices) + differing(metrics, None, devices),
        )


def differing(tree: PyTree, run: Run | None, devices: Devices) -> list[str]:
    """Paths of leaves with a replicated spec whose copies are not the same bits on every device."""
    specs = REPLICATED if run is None else run.state_specs
    wrong = []
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(devices.shardings(tree, specs)), strict=True
    ):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == devices.count
        if sharding.spec == REPLICATED and any(c.tobytes() != copies[0].tobytes() for c in copies):
            wrong.append(jax.tree_util.keystr(path))
    return wrong


@pytest.mark.parametrize(('name', 'mode', 'count'), CASES)
def test_more_devices_train_what_one_device_trains(name, mode, count):
    one, many = trained(name, 'jit', 1, 'float32'), trained(name, mode, count, 'float32')
    np.testing.assert_allclose(many.losses[0], one.losses[0], rtol=1e-6)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5)
    assert train_steps.relative_error(many.gradient, one.gradient) < 1e-5
    assert train_steps.relative_error(many.memory, one.memory) < 1e-5
    assert train_steps.relative_error(many.target, one.target) < 1e-5
    assert train_steps.relative_error(many.stats, one.stats) < 5e-5  # AdamW amplifies the rounding of gradients near 0
    for at_many, at_one in zip(many.metrics, one.metrics, strict=True):
        assert at_many.keys() == at_one.keys()
        for metric in at_one:  # similarities pass through 0: to 1e-5 of their range
            np.testing.assert_allclose(at_many[metric], at_one[metric], rtol=1e-5, atol=1e-5, err_msg=metric)


@pytest.mark.parametrize(('name', 'mode', 'count'), CASES_FLOAT64)
def test_in_float64_it_is_the_same_training(name, mode, count):
    one, many = trained(name, 'jit', 1, 'float64'), trained(name, mode, count, 'float64')
    assert jax.tree.leaves(one.gradient)[0].dtype == np.float64
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(many.gradient), jax.tree.leaves(one.gradient), strict=True):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b) + 1e-12  # each leaf by itself
    assert train_steps.relative_error(many.memory, one.memory) < 1e-6
    assert train_steps.relative_error(many.target, one.target) < 1e-6


def test_a_number_of_devices_that_does_not_divide_the_memory():
    one, many = (trained('instdis:tiny', 'jit', n, 'float64', batch_size=15, bn_group_size=0) for n in (1, 5))
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-6)
    assert train_steps.relative_error(many.memory, one.memory) < 1e-6
    assert train_steps.relative_error(many.gradient, one.gradient) < 1e-6


@pytest.mark.parametrize(('name', 'mode', 'count'), CASES)
def test_replicated_leaves_are_the_same_bits_on_every_device(name, mode, count):
    assert trained(name, mode, count, 'float32').differing == []


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_the_queue_stays_in_parts_on_its_devices(mode):
    run, _, state = started('mocov2:tiny', 'float32')
    devices = find_devices(mode, 8)
    keys = devices.place(state, run.state_specs).method.memory['queue']['keys']
    assert keys.addressable_shards[0].data.size * 8 == run.method.queue_size * run.method.network.projector.output_dim
