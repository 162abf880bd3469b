"""What every method and every config promises the loop: one parametrised walk over the registry and over configs/."""

import dataclasses
import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import parallel, train
from contrastive_jax.feed import ResidentFeed
from contrastive_jax.methods import METHODS
from tests import runs

FOLDER = Path(__file__).parents[1] / 'configs'


def abstract(run: train.Recipe) -> tuple[train.TrainState, dict]:
    """Shapes of a state and of a batch as a method sees it; compiles nothing."""
    B, sizes = run.batch_size, run.policy.view_sizes(run.image_size)
    views = tuple(jax.ShapeDtypeStruct((B, s, s, 3), run.dtype) for s in sizes)
    ids = jax.ShapeDtypeStruct((B,), jnp.int32)
    batch = {'views': views, 'index': ids, 'label': ids}
    if run.method.shuffles:
        batch |= {'shuffle': ids, 'shuffled': views}
    return jax.eval_shape(lambda: train.init_state(run)), batch


def signature(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_every_method_and_every_config_is_walked():
    loaded = [runs.load(name) for name in runs.CONFIGS]
    assert {config.method.name for config in loaded} == set(METHODS)
    recipes = {path.stem for path in FOLDER.glob('*.py')} - {'__init__', 'variants'}
    assert {name.partition(':')[0] for name in runs.CONFIGS} == recipes


@pytest.mark.parametrize('name', runs.CONFIGS)
def test_fields_of_the_method_are_those_of_the_config(name):
    config = runs.load(name)
    method = runs.build(config)[0].method
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    del fields['network']
    given = config.method.to_dict()
    del given['name']
    filled = {'num_examples': 1437, 'steps_per_epoch': 1437 // config.batch_size, 'total_steps': config.steps}
    given |= {name: value for name, value in filled.items() if given.get(name) == 0}
    assert fields == given
    assert hash(method) == hash(runs.build(config)[0].method)


@pytest.mark.parametrize('name', runs.CONFIGS)
def test_a_step_keeps_structure_shapes_and_dtypes(name):
    run, _ = runs.build(runs.load(name))
    state, batch = abstract(run)
    assert 'encoder' in state.params
    assert all(x.dtype == np.float32 for x in jax.tree.leaves((state.params, state.method.target)))

    key = jax.eval_shape(lambda: jax.random.key(0))
    loss, (after, metrics) = jax.eval_shape(
        lambda p, m, b, k: run.method.loss(p, m, b, rng=k, progress=0.5), state.params, state.method, batch, key
    )
    assert loss.shape == () and all(x.shape == () for x in metrics.values())
    assert signature(after) == signature(state.method)
    moved = jax.eval_shape(lambda p, m: run.method.after_update(p, m, progress=0.5), state.params, after)
    assert signature(moved) == signature((state.params, state.method))

    n, s = 32, run.image_size
    resident = {
        'images': jax.ShapeDtypeStruct((n, s, s, 3), jnp.uint8),
        'labels': jax.ShapeDtypeStruct((n,), jnp.int32),
        'order': jax.ShapeDtypeStruct((run.batch_size,), jnp.int32),
    }
    after, metrics = jax.eval_shape(lambda a, b: train.train_step(a, b, run=run), state, resident)
    assert signature(after) == signature(state)
    assert all(x.shape == () and x.dtype == np.float32 for x in metrics.values())


@pytest.mark.parametrize('name', runs.CONFIGS)
def test_no_gradient_reaches_the_target_or_the_memory(name, rng):
    run, _ = runs.build(runs.load(name))
    state = jax.jit(lambda: train.init_state(run))()
    B = run.batch_size
    sizes = run.policy.view_sizes(run.image_size)
    views = tuple(jnp.asarray(rng.normal(size=(B, s, s, 3)), jnp.float32) for s in sizes)
    shuffle = jnp.asarray(rng.permutation(B), jnp.int32)
    batch = {'views': views, 'index': jnp.arange(B, dtype=jnp.int32), 'label': jnp.zeros(B, jnp.int32)}
    batch |= {'shuffle': shuffle, 'shuffled': tuple(view[shuffle] for view in views)}

    def loss(params, target, memory):
        method_state = dataclasses.replace(state.method, target=target, memory=memory)
        return run.method.loss(params, method_state, batch, rng=jax.random.key(0), progress=0.5)[0]

    floats, others = partition(state.method.memory)
    in_params, in_target, in_memory = jax.jit(
        jax.grad(lambda p, t, m: loss(p, t, merge(m, others)), argnums=(0, 1, 2))
    )(state.params, state.method.target, floats)
    assert any(np.any(g) for g in jax.tree.leaves(in_params['encoder']))
    assert not any(np.any(g) for g in jax.tree.leaves((in_target, in_memory)))


def partition(tree):
    """The leaves that can be differentiated, and the rest."""
    floats = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)
    return floats, jax.tree.map(lambda x: None if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def merge(floats, others):
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda x: x is None)


@pytest.mark.parametrize('name', runs.CONFIGS)
def test_online_and_target_share_no_buffer(name):
    run, _ = runs.build(runs.load(name))
    state = runs.start(run, parallel.devices('jit', 1))
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(('mode', 'count'), [('jit', 1), ('jit', 4), ('pmap', 4)])
def test_later_steps_are_not_compiled_again(mode, count, caplog):
    run, source = runs.build(runs.load('mocov2:tiny', steps=8))
    devices = parallel.devices(mode, count)
    feed = ResidentFeed(run, devices, source, 1)
    state, _ = feed.advance(runs.start(run, devices), 0, 1)
    with caplog.at_level(logging.WARNING, 'jax'), jax.log_compiles():
        feed.advance(state, 1, 3)
    assert not [record.message for record in caplog.records if 'ompiling' in record.message]


def test_frozen_parameters_stay_as_they_were():
    run, source = runs.build(runs.load('mocov3_vit:tiny', steps=3))
    devices = parallel.devices('jit', 1)
    before = jax.device_get(runs.start(run, devices).params)
    state, _ = runs.steps(run, source, devices, 3)
    for leaf, old in zip(
        jax.tree.leaves(state.params['encoder']['patch_embed']),
        jax.tree.leaves(before['encoder']['patch_embed']),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, old)
    assert np.any(state.params['encoder']['blocks_0']['attn']['proj']['bias'])


def test_the_dictionaries_start_from_the_same_encoder():
    names = [f'dictionary:{name},tiny' for name in ('end_to_end', 'memory_bank', 'moco')]
    first, *others = [jax.jit(functools.partial(train.init_state, runs.build(runs.load(name))[0]))() for name in names]
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first.params, other.params)
