"""The interface between methods and the training loop, checked for every method and config in tests/train_steps.py."""

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS, REPLICATED, SHARDED, find_devices
from contrastive_jax.methods import METHODS, MethodState
from contrastive_jax.training.feed import ResidentFeed
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_state, train_step
from tests import complete_runs, train_steps, untrained_workdirs
from tests.complete_runs import digest, fit, lines, saved
from tests.train_steps import load_small

FOLDER = Path(__file__).parents[2] / 'configs'
ONE_OF_EACH = {train_steps.load(name).method.name: name for name in reversed(train_steps.CONFIGS)}
METHODS_ONCE = tuple(ONE_OF_EACH.values())
# test_resume.py and test_deepcluster.py cut runs of these more often.
CUT_ELSEWHERE = {'moco', 'mocov3', 'memory_bank', 'deepcluster'}


def abstract(run: Run) -> tuple[TrainState, dict]:
    """Shapes of a state and of a batch as a method gets it; nothing is compiled."""
    views = tuple(jax.ShapeDtypeStruct(shape, run.dtype) for shape in train_steps.view_shapes(run))
    ids = jax.ShapeDtypeStruct((run.batch_size,), jnp.int32)
    batch = {'views': views, 'index': ids, 'label': ids}
    if run.method.shuffles:
        batch |= {'shuffle': ids, 'shuffled': views}
    return jax.eval_shape(lambda: init_state(run)), batch


def signature(tree):
    """What jit distinguishes programs by; the weak type of jnp.full((), 1.0), for example, differs from float32."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def test_every_method_and_every_config_is_walked():
    loaded = [train_steps.load(name) for name in train_steps.CONFIGS]
    assert {config.method.name for config in loaded} == set(METHODS)
    recipes = {path.stem for path in FOLDER.glob('*.py')} - {'__init__', 'variants'}
    assert {name.partition(':')[0] for name in train_steps.CONFIGS} == recipes


@pytest.mark.parametrize('name', train_steps.CONFIGS)
def test_fields_of_the_method_are_those_of_the_config(name):
    config = train_steps.load(name)
    run, source = train_steps.build(config)
    method = run.method
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    del fields['network']
    given = config.method.to_dict()
    del given['name']
    n = len(source)
    filled = {'num_examples': n, 'steps_per_epoch': n // config.batch_size, 'total_steps': config.steps}
    given |= {name: value for name, value in filled.items() if given.get(name) == 0}
    assert fields == given
    assert hash(method) == hash(train_steps.build(config)[0].method)


@pytest.mark.parametrize('name', train_steps.CONFIGS)
def test_a_step_keeps_structure_shapes_and_dtypes(name):
    run, _ = train_steps.build(load_small(name, color=True))
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
    after, metrics = jax.eval_shape(lambda a, b: train_step(a, b, run=run), state, resident)
    assert signature(after) == signature(state)
    assert all(x.shape == () and x.dtype == np.float32 for x in metrics.values())


# ================================ the loss alone, on a network of one block ================================


def random_batch(run: Run) -> dict[str, Any]:
    """A global batch as a method gets it."""
    rng = np.random.default_rng(0)
    B = run.batch_size
    views = tuple(rng.normal(size=shape).astype(run.dtype) for shape in train_steps.view_shapes(run))
    index, shuffle = (rng.permutation(n)[:B].astype(np.int32) for n in (1437, B))
    batch = {'views': views, 'index': index, 'label': np.zeros(B, np.int32)}
    if run.method.shuffles:
        batch |= {'shuffle': shuffle, 'shuffled': tuple(view[shuffle] for view in views)}
    return batch


class Step(NamedTuple):
    """Inputs and outputs of a method's loss, as numpy arrays in the global layout."""

    progress: float
    before: MethodState
    loss: np.ndarray
    gradient: PyTree
    nonzero_gradients: PyTree  # of target and memory, for each floating-point array: has it a gradient?
    metrics: dict[str, np.ndarray]
    after: MethodState


@functools.cache
def start(name: str) -> tuple[Run, PyTree, MethodState, dict[str, Any]]:
    """Run, parameters, state and batch in float64; the target differs from the online network.

    The memory is the method's own. The rest is drawn by numpy, which takes less time than to compile the initializers.
    """
    with jax.enable_x64(True):
        run, _ = train_steps.build(load_small(name, dtype='float64'))
        shapes, _ = abstract(run)
        drawn = untrained_workdirs.draw((shapes.params, shapes.method.target, shapes.method.batch_stats), 0)
        memory = jax.device_get(jax.jit(lambda: init_state(run).method.memory)())
        params, target, stats, memory = jax.tree.map(
            lambda x: x.astype('float64') if jnp.issubdtype(x.dtype, jnp.floating) else x, (*drawn, memory)
        )
        return run, params, MethodState(target, stats, memory), random_batch(run)


@functools.cache
def two_steps(name: str, count: int) -> list[Step]:
    """The first step of a training and one in its middle, with the same parameters, on `count` devices.

    It runs in float64, so that rounding errors do not hide a mistake.
    """
    run, params, state, batch = start(name)
    axis_name = None if count == 1 else AXIS

    def step(params: PyTree, state: MethodState, batch: dict[str, Any], progress: jax.Array) -> tuple[Any, ...]:
        floats, others = partition(state.memory)

        def loss_of(params: PyTree, target: PyTree, floats: PyTree) -> tuple[jax.Array, Any]:
            given = state.replace(target=target, memory=merge(floats, others))
            return run.method.loss(params, given, batch, rng=jax.random.key(7), progress=progress, axis_name=axis_name)

        (loss, (after, metrics)), (gradient, *constant) = jax.value_and_grad(loss_of, (0, 1, 2), has_aux=True)(
            params, state.target, floats
        )
        return after, collectives.pmean((loss, gradient, metrics), axis_name), jax.tree.map(jnp.any, constant)

    found = []
    with jax.enable_x64(True):
        r, spec = REPLICATED, run.state_specs.method
        specs = {name: r if name == 'shuffle' else SHARDED for name in batch}
        call = jax.jit(step)
        if axis_name:
            call = find_devices('jit', count).run(step, (r, spec, specs, r), (spec, r, r))
        for progress in (0.0, 0.5):
            after, (loss, gradient, metrics), constant = jax.device_get(call(params, state, batch, progress))
            found.append(Step(progress, state, loss, gradient, constant, metrics, after))
            state = after
    return found


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The floating-point leaves, and the others; None in the places of the rest."""
    floats = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)
    return floats, jax.tree.map(lambda x: None if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def merge(floats: PyTree, others: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda x: x is None)


def device_counts(name: str) -> tuple[int, ...]:
    """Each config runs on many devices; methods with BN groups also on 4, where a group spans two devices."""
    return (4, 8) if name in METHODS_ONCE and train_steps.load(name).bn_group_size else (8,)


@pytest.mark.parametrize(('name', 'count'), [(name, n) for name in train_steps.CONFIGS for n in device_counts(name)])
def test_loss_and_gradient_on_more_devices(name, count):
    """And so are the metrics and the new state."""
    for one, many in zip(two_steps(name, 1), two_steps(name, count), strict=True):
        np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
        leaves = zip(jax.tree.leaves(many.gradient), jax.tree.leaves(one.gradient), strict=True)
        scale = max(np.linalg.norm(g) for g in jax.tree.leaves(one.gradient))
        for a, b in leaves:
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-10 * scale
        for part in ('target', 'batch_stats', 'memory'):
            assert train_steps.relative_error(getattr(many.after, part), getattr(one.after, part)) < 1e-5, part
        assert many.metrics.keys() == one.metrics.keys()
        for metric in one.metrics:
            # An image's own row may be among its negatives: then rounding decides which of the two logits is larger.
            tie = metric == 'contrastive_top1' and name.startswith('dictionary:memory_bank')
            atol = 1.01 / start(name)[0].batch_size if tie else 1e-6
            np.testing.assert_allclose(many.metrics[metric], one.metrics[metric], rtol=1e-5, atol=atol, err_msg=metric)


@pytest.mark.parametrize('name', train_steps.CONFIGS)
def test_the_target_is_a_moving_average(name):
    """Of the parameters before the optimizer's step (MoCo) or after it (BYOL, DINO), in float64."""
    run, params, _, _ = start(name)
    *_, step = two_steps(name, 1)
    if not step.before.target:
        pytest.skip('has no target')
    trained = jax.tree.map(lambda w, g: w - 0.1 * g, params, step.gradient)
    with jax.enable_x64(True):
        update = jax.jit(functools.partial(run.method.after_update, progress=step.progress))
        trained, after = jax.device_get(update(trained, step.after))
    momentum = run.method.momentum
    cosine = 1 - (1 - momentum) * (1 + np.cos(np.pi * step.progress)) / 2
    errors = []
    for online in (params, trained):
        for m in (momentum, cosine):
            average = lambda k, q: m * k + (1 - m) * q  # noqa: B023, E731
            expected = {
                part: jax.tree.map(average, target, online[part]) for part, target in step.before.target.items()
            }
            errors.append(train_steps.relative_error(after.target, expected))
    assert min(errors) < 1e-14
    assert jax.tree.structure(after) == jax.tree.structure(step.before)


@pytest.mark.parametrize('name', train_steps.CONFIGS)
def test_no_gradient_reaches_the_target_or_the_memory(name):
    for step in two_steps(name, 1):
        assert any(np.any(g) for g in jax.tree.leaves(step.gradient['encoder']))
        assert not any(jax.tree.leaves(step.nonzero_gradients))


# ================================ whole steps ================================


@pytest.mark.parametrize('name', [name for method, name in ONE_OF_EACH.items() if method not in CUT_ELSEWHERE])
def test_a_resumed_run_ends_with_the_same_bits(name, tmp_path):
    """Through a checkpoint, and no step but the first of all is compiled. A memory is in parts on two devices."""
    changes = {
        'eval.evaluators': (),
        'steps': 4,
        'log_every_steps': 1,
        'eval_every_steps': 0,
        'checkpoint_every_steps': 4,
    }
    config = load_small(name, **changes)
    devices = 2 if jax.tree.leaves(abstract(train_steps.build(config)[0])[0].method.memory) else 1
    before = set(complete_runs.PROGRAMS)
    fit(config, tmp_path / 'whole', devices)
    assert fit(config, tmp_path / 'cut', devices, at=2).startswith('SIGTERM at step 2 of 4, saved')
    fit(config, tmp_path / 'cut', devices)
    whole, cut = (saved(config, tmp_path / workdir) for workdir in ('whole', 'cut'))
    assert whole[0] == cut[0] == 4
    assert digest(whole[1]) == digest(cut[1])
    assert lines(tmp_path / 'whole') == lines(tmp_path / 'cut')
    assert {complete_runs.PROGRAMS[key]._cache_size() for key in set(complete_runs.PROGRAMS) - before} == {1}


@pytest.mark.parametrize('name', METHODS_ONCE)
def test_online_and_target_share_no_buffer(name):
    run, _ = train_steps.build(load_small(name))
    if not abstract(run)[0].method.target:
        pytest.skip('has no target')
    state = train_steps.start(run, find_devices('jit', 1))
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(('mode', 'count'), [('jit', 1), ('jit', 4), ('pmap', 4)])
def test_later_steps_are_not_compiled_again(mode, count, caplog):
    run, source = train_steps.build(load_small('mocov2:tiny', steps=8))
    devices = find_devices(mode, count)
    feed = ResidentFeed(run, devices, source, 1)
    state, _ = feed.advance(train_steps.start(run, devices), 0, 1)
    with caplog.at_level(logging.WARNING, 'jax'), jax.log_compiles():
        feed.advance(state, 1, 3)
    assert not [record.message for record in caplog.records if 'ompiling' in record.message]


def test_frozen_parameters_stay_as_they_were():
    run, source = train_steps.build(load_small('mocov3_vit:tiny', steps=3))
    devices = find_devices('jit', 1)
    before = jax.device_get(train_steps.start(run, devices).params)
    state, _ = train_steps.steps(run, source, devices, 3)
    for leaf, old in zip(
        jax.tree.leaves(state.params['encoder']['patch_embed']),
        jax.tree.leaves(before['encoder']['patch_embed']),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, old)
    assert np.any(state.params['encoder']['blocks_0']['attn']['proj']['bias'])


def test_the_dictionaries_start_from_the_same_encoder():
    names = [f'dictionary:{name},tiny' for name in ('end_to_end', 'memory_bank', 'moco')]
    first, *others = [
        jax.jit(functools.partial(init_state, train_steps.build(load_small(name))[0]))() for name in names
    ]
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first.params, other.params)
