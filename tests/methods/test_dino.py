"""DINO: head, clipping, freezing and decay against the authors', multi-crop against single views, the teacher."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, ema, networks
from contrastive_jax.methods.dino import last_layer, teacher_temperature
from contrastive_jax.models import MLP
from contrastive_jax.optim import optimizers, schedules
from contrastive_jax.training.step import init_state
from tests import goldens, train_steps
from tests.models.test_vit import dino

# ================================ the head ================================


def from_torch(state: dict[str, np.ndarray], num_layers: int, train_gain: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Parameters {'projector', 'last_layer'} and BN statistics of a DINOHead, and where each torch name went."""
    number = lambda module: int(module.removeprefix('mlp.') if '.' in module else 0)  # noqa: E731
    found = {name.rpartition('.')[0] for name, x in state.items() if name.startswith('mlp') and x.ndim == 2}
    linears = sorted(found, key=number)
    params: dict[str, Any] = {'projector': {}, 'last_layer': {}}
    stats: dict[str, Any] = {'projector': {}}
    paths = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition('.')
        if leaf == 'num_batches_tracked' or (leaf == 'weight_g' and not train_gain):
            continue
        tree, part = params, 'projector'
        if module == 'last_layer':
            part, path, value = 'last_layer', ({'weight_v': 'kernel', 'weight_g': 'gain'}[leaf],), value.T
        elif module in linears:
            path = (f'linear_{linears.index(module)}', 'kernel' if leaf == 'weight' else leaf)
            value = value.T
        else:  # a norm belongs to the linear layer before it
            layer = max(i for i, linear in enumerate(linears) if number(linear) < number(module))
            tree = stats if leaf.startswith('running') else params
            path = (f'bn_{layer}', {'weight': 'scale', 'running_mean': 'mean', 'running_var': 'var'}.get(leaf, leaf))
        node = tree[part]
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(value)
        if tree is params:
            paths[name] = '/'.join((part, *path))
    assert len(linears) == num_layers
    return params, stats, paths


def by_path(tree: Any) -> dict[str, Any]:
    return {optimizers.parameter_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('case', goldens.cases('dino_head', 'head'))
def test_golden_head(case: goldens.Case) -> None:
    f, tolerance = case.fields, case.tolerances['float64']
    bn = f['batch_norm'] or {'epsilon': 1e-5, 'momentum': 0.1}
    with jax.enable_x64(True):
        params, stats, paths = from_torch(case.below('param'), f['num_layers'], not f['norm_last_layer'])
        mlp = MLP(
            num_layers=f['num_layers'],
            hidden_dim=f['hidden_dim'],
            output_dim=f['bottleneck_dim'],
            bias=True,
            batch_norm=f['use_bn'],
            activation='gelu',
            kernel_init='trunc_normal',
            bn_epsilon=bn['epsilon'],
            bn_momentum=1 - bn['momentum'],
            dtype=jnp.float64,
        )
        shapes = jax.eval_shape(lambda: mlp.init(jax.random.key(0), case['x'], train=True))['params']
        assert jax.tree.map(jnp.shape, params['projector']) == jax.tree.map(jnp.shape, shapes)

        def head(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            variables = {'params': params['projector'], 'batch_stats': stats['projector']}
            z, _ = mlp.apply(variables, x, train=True, mutable=['batch_stats'])
            y = last_layer(params['last_layer'], normalize(z, f['normalize_epsilon']), jnp.float64)
            return jnp.sum(y * case['cotangent']), y

        grads, y = jax.jit(jax.grad(head, argnums=(0, 1), has_aux=True))(params, case['x'])
        goldens.assert_close(y, case['y'], tolerance, 'output')
        goldens.assert_close(grads[1], case['grad_x'], tolerance, 'input gradient')
        expected = by_path(from_torch(case.below('grad'), f['num_layers'], not f['norm_last_layer'])[0])
        actual = by_path(grads[0])
        assert actual.keys() == expected.keys() == set(paths.values())
        for path, value in expected.items():
            goldens.assert_close(actual[path], value, tolerance, path)

        norms = [np.linalg.norm(actual[paths[name]]) for name in f['clip_norms_params']]
        goldens.assert_close(norms, case['clip_norms'], tolerance, 'norms')
        clip = optimizers.clip_per_tensor(f['clip_grad'], f['clip_epsilon'])
        clipped = by_path(clip.update(grads[0], clip.init(params), params)[0])
        expected = from_torch(case.below('grad_clipped'), f['num_layers'], not f['norm_last_layer'])[0]
        for path, value in by_path(expected).items():
            goldens.assert_close(clipped[path], value, tolerance, f'clipped {path}')

    decayed = by_path(optimizers.matrices(params))
    assert {name for name, path in paths.items() if decayed[path]} == set(f['weight_decay_params'])
    assert {name for name, path in paths.items() if not decayed[path]} == set(f['no_weight_decay_params'])
    for epoch in (0, 1):  # epochs of one step
        frozen = unchanged_at(epoch, params, f['freeze_last_layer'])
        assert {name for name, path in paths.items() if path in frozen} == set(f[f'cancelled_at_epoch_{epoch}'])


def unchanged_at(epoch: int, params: Any, freeze_epochs: int) -> set[str]:
    """Paths that AdamW does not change in step `epoch`; the last layer is frozen for `freeze_epochs` steps."""
    make = lambda: optimizers.adamw(schedules.constant(0.1), weight_decay=0.1)  # noqa: E731
    optimizer = optimizers.by_path(make(), {'frozen': (('last_layer',), optimizers.freeze_for(make(), freeze_epochs))})
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    state = optimizer.init(params)
    for _ in range(epoch + 1):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    return {path for path, update in by_path(updates).items() if not np.any(update)}


def test_the_last_layer_has_unit_rows(rng: np.random.Generator) -> None:
    kernel, z = rng.normal(size=(5, 7)), normalize(jnp.asarray(rng.normal(size=(3, 5))))
    expected = np.asarray(z) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(last_layer({'kernel': jnp.asarray(kernel)}, z), expected, rtol=1e-5, atol=1e-6)
    low = last_layer({'kernel': jnp.asarray(kernel)}, z, jnp.bfloat16)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, expected, atol=0.02)


# ================================ multi-crop ================================


@pytest.mark.parametrize('name', ['dino:tiny', 'dino:resnet50,tiny'])
def test_one_pass_for_each_size_is_every_view_by_itself(name: str, rng: np.random.Generator) -> None:
    """A ViT treats every view by itself; BN sees the views of one size together, and the head all of them."""
    config = train_steps.load(name)
    network = train_steps.build(config)[0].method.network
    views = tuple(jnp.asarray(rng.normal(size=(4, s, s, 3)), jnp.float32) for s in (8, 8, 4, 4, 4))
    params, stats = networks.init_network(network, jax.random.key(0), {'views': views})
    z, new_stats = jax.jit(lambda: networks.project_views(network, params, stats, views, None))()
    assert z.shape == (5, 4, network.projector.output_dim)
    assert jax.tree.structure(new_stats) == jax.tree.structure(stats)

    @jax.jit
    def concatenated() -> Any:
        """As the official MultiCropWrapper has it: view by view."""
        variables = {'params': params, 'batch_stats': stats}
        run = partial(network.apply, variables, train=True, mutable=['batch_stats'])
        h = [run(jnp.concatenate(x), method='encode')[0] for x in (views[:2], views[2:])]
        return run(jnp.concatenate(h), method=lambda network, h, **kw: network.projector(h, **kw))[0]

    np.testing.assert_allclose(z.reshape(20, -1), concatenated(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('case', goldens.cases('dino_vit', 'vit'))
def test_golden_multi_crop(case: goldens.Case) -> None:
    f = case.fields['multicrop']
    with jax.enable_x64(True):
        encoder, params = dino(case, 'float64')
        identity = MLP(1, 0, encoder.width, dtype=jnp.float64)
        network = base.Network(encoder, identity)
        params = {'encoder': params, 'projector': {'linear_0': {'kernel': jnp.eye(encoder.width)}}}
        views = tuple(jnp.asarray(case.key(key).transpose(0, 2, 3, 1)) for key in f['inputs'])
        assert [x.shape[1] for x in views] == f['sizes']
        z, _ = jax.jit(lambda: networks.project_views(network, params, {}, views, None))()
    goldens.assert_close(z.reshape(-1, encoder.width), case.key(f['output']), case.tolerances['float64'])


# ================================ student and teacher ================================


def first_loss(name: str, progress: float = 0.0, **changes: Any) -> Any:
    """Method, parameters, state, batch, and a compiled loss of a config."""
    run, _ = train_steps.build(train_steps.load(name, **changes))
    state = jax.jit(lambda: init_state(run))()
    rng = np.random.default_rng(0)
    sizes = run.policy.view_sizes(run.image_size)
    views = tuple(jnp.asarray(rng.normal(size=(run.batch_size, s, s, 3)), jnp.float32) for s in sizes)
    loss = jax.jit(lambda p, m, k: run.method.loss(p, m, {'views': views}, rng=k, progress=progress))
    return run.method, state, loss


def test_drop_path_is_the_student_s() -> None:
    _, state, loss = first_loss('dino:tiny', **{'encoder.drop_path': 0.5})
    losses = [loss(state.params, state.method, jax.random.key(i)) for i in (0, 0, 1)]
    assert losses[0][0] == losses[1][0] != losses[2][0]
    centers = [after.memory['center'] for _, (after, _) in losses]  # of the teacher's outputs alone
    np.testing.assert_array_equal(centers[0], centers[2])
    assert np.any(centers[0])


def test_the_teacher_follows_after_the_update() -> None:
    method, state, loss = first_loss('dino:tiny')
    target, after = state.method.target, jax.tree.map(lambda x: x + 1, state.params)
    _, moved = method.after_update(after, state.method, progress=1 / 3)
    m = float(ema.cosine_momentum(1 / 3, method.momentum))
    expected = jax.tree.map(lambda t, p: m * t + (1 - m) * p, target, after)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), moved.target, expected)
    _, (kept, _) = loss(state.params, state.method, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, kept.target, target)
    assert set(target) == {'encoder', 'projector', 'last_layer'}


def test_temperature_by_epochs() -> None:
    values = [float(teacher_temperature(e, start=0.04, final=0.07, warmup_epochs=30)) for e in (0, 1, 28, 29, 30, 99)]
    np.testing.assert_allclose(values, [0.04, 0.04 + 0.03 / 29, 0.07 - 0.03 / 29, 0.07, 0.07, 0.07], rtol=1e-5)
    assert float(teacher_temperature(0, start=0.02, final=0.04, warmup_epochs=1)) == pytest.approx(0.02)

    changes = {'method.teacher_temperature': 0.07, 'method.teacher_warmup_epochs': 3}
    run, _ = train_steps.build(train_steps.load('dino:tiny', steps=1000, **changes))
    method, n = run.method, run.steps_per_epoch
    assert (method.total_steps, method.steps_per_epoch) == (1000, n)

    def at(step: int) -> float:
        _, state, loss = first_loss('dino:tiny', step / 1000, steps=1000, **changes)
        return float(loss(state.params, state.method, jax.random.key(0))[1][1]['teacher_temperature'])

    assert [at(step) for step in (n - 1, n)] == pytest.approx([0.04, 0.055])


def test_the_gain_is_trained_if_configured() -> None:
    method, state, loss = first_loss('dino:tiny', **{'method.train_gain': True})
    assert state.params['last_layer']['gain'].shape == (1, method.output_dim)
    grads = jax.grad(lambda p: loss(p, state.method, jax.random.key(0))[0])(state.params)
    assert np.any(grads['last_layer']['gain'])
    _, state, _ = first_loss('dino:tiny')
    assert set(state.params['last_layer']) == {'kernel'}


def test_the_last_layer_is_frozen_in_the_first_epoch() -> None:
    config = train_steps.load('dino:tiny')
    assert config.optimizer.freeze_first == ('last_layer',)
    run, _ = train_steps.build(config)
    state = jax.jit(lambda: init_state(run))()
    grads = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = run.optimizer.update(grads, state.opt_state, state.params)
    assert not np.any(updates['last_layer']['kernel'])
    assert all(np.any(u) for u in jax.tree.leaves(updates['projector']))
