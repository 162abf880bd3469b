"""MLP heads against those of MoCo v3, SimCLR and BYOL, initial values, and bfloat16."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models import MLP
from tests import goldens


def from_torch(state: dict[str, np.ndarray], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Flax variables of the state dict of a torch Sequential whose layers are listed."""
    names, linear = {}, -1
    for layer in layers:
        linear += layer['layer'] == 'linear'
        names[str(layer['index'])] = ('linear' if layer['layer'] == 'linear' else 'bn') + f'_{linear}'
    variables: dict[str, Any] = {'params': {}, 'batch_stats': {}}
    for name, value in state.items():
        index, leaf = name.split('.')
        if leaf == 'num_batches_tracked':
            continue
        collection = 'batch_stats' if leaf.startswith('running') else 'params'
        leaf = {'running_mean': 'mean', 'running_var': 'var', 'bias': 'bias', 'weight': 'scale'}[leaf]
        if value.ndim == 2:
            leaf, value = 'kernel', value.T
        variables[collection].setdefault(names[index], {})[leaf] = value
    return variables


@pytest.mark.parametrize('case', goldens.cases('mocov3_heads', 'mlp'))
def test_golden(case: goldens.Case) -> None:
    fields, tol = case.fields, case.tolerances['float64']
    with jax.enable_x64(True):
        model = MLP(
            num_layers=fields['num_layers'],
            hidden_dim=fields['hidden_dim'],
            output_dim=fields['output_dim'],
            bias=fields['linear_bias'],
            last_batch_norm=fields['last_batch_norm'],
            last_batch_norm_affine=fields['last_batch_norm_affine'],
            bn_momentum=1 - fields['batch_norm']['momentum'],
            bn_epsilon=fields['batch_norm']['epsilon'],
            dtype=jnp.float64,
        )
        variables = from_torch(case.below('param'), fields['layers'])
        x = case['x']
        assert x.shape == (fields['num_train_batches'], fields['batch_size'], fields['input_dim'])

        @jax.jit
        def train(variables: Any, x: jax.Array) -> Any:
            def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
                y, updated = model.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
                return (y * case['cotangent']).sum(), (y, updated)

            return jax.grad(loss, (0, 1), has_aux=True)(variables['params'], x)

        for step in range(fields['num_train_batches']):
            grads, (y, updated) = train(variables, x[step])
            goldens.assert_close(y, case['y_train'][step], tol, f'output {step}')
            if step == 0:
                expected = from_torch(case.below('grad'), fields['layers'])['params']
                jax.tree.map(lambda a, b: goldens.assert_close(a, b, tol, 'gradient'), grads[0], expected)
                goldens.assert_close(grads[1], case['grad_x0'], tol, 'input gradient')
            variables = {**variables, **updated}
        after = from_torch(case.below('after'), fields['layers'])['batch_stats']
        jax.tree.map(
            lambda a, b: goldens.assert_close(a, b, tol, 'running statistics'), variables['batch_stats'], after
        )
        goldens.assert_close(model.apply(variables, x[0], train=False), case['y_eval'], tol, 'eval')


@pytest.mark.parametrize('case', goldens.cases('simclr_head', 'mlp'))
def test_head_of_simclr(case: goldens.Case) -> None:
    """A factor but no offset after the last layer."""
    fields, tol = case.fields, case.tolerances['float64']
    last = fields['layers'][-1]
    assert fields['batch_norm']['running_var'] == 'biased'
    if last['relu'] or not all(x['relu'] and x['scale'] and x['offset'] for x in fields['layers'][:-1]):
        pytest.skip('all layers but the last have a ReLU, and a norm with scale and offset')
    with jax.enable_x64(True):
        model = MLP(
            num_layers=fields['num_layers'],
            hidden_dim=fields['hidden_dim'],
            output_dim=fields['output_dim'],
            bias=fields['linear_bias'],
            last_batch_norm=True,
            last_batch_norm_affine=last['scale'],
            last_batch_norm_offset=last['offset'],
            bn_momentum=1 - fields['batch_norm']['momentum'],
            bn_epsilon=fields['batch_norm']['epsilon'],
            bn_unbiased=False,
            dtype=jnp.float64,
        )
        params, running = {}, {}
        for layer in fields['layers']:
            i = layer['index']
            params[f'linear_{i}'] = {'kernel': case[f'l{i}.kernel']}
            params[f'bn_{i}'] = {'scale': case[f'l{i}.gamma']}
            if layer['offset']:
                params[f'bn_{i}']['bias'] = case[f'l{i}.beta']
            width = len(case[f'l{i}.gamma'])
            running[f'bn_{i}'] = {
                'mean': np.full(width, fields['initial_running_mean'], float),
                'var': np.full(width, fields['initial_running_var'], float),
            }
        for step in range(len(case['x'])):
            y, updated = model.apply(
                {'params': params, 'batch_stats': running}, case['x'][step], train=True, mutable=['batch_stats']
            )
            running = updated['batch_stats']
            goldens.assert_close(y, case['y_train'][step], tol, f'output {step}')
        for name, norm in running.items():
            i = name.removeprefix('bn_')
            goldens.assert_close(norm['mean'], case[f'l{i}.moving_mean'], tol, f'{name} mean')
            goldens.assert_close(norm['var'], case[f'l{i}.moving_var'], tol, f'{name} variance')
        y = model.apply({'params': params, 'batch_stats': running}, case['x'][0], train=False)
        goldens.assert_close(y, case['y_eval'], tol, 'eval')

        # The official fine-tuning takes what comes out of the first layer: the others make the output of it.
        x = model.apply(
            {'params': params, 'batch_stats': running}, case['x'][0], 1, train=False, method='projector_features'
        )
        for layer in fields['layers'][1:]:
            i = layer['index']
            deviation = np.sqrt(case[f'l{i}.moving_var'] + fields['batch_norm']['epsilon'])
            x = (x @ case[f'l{i}.kernel'] - case[f'l{i}.moving_mean']) / deviation * case[f'l{i}.gamma']
            x = np.maximum(x + case[f'l{i}.beta'], 0) if layer['relu'] else x
        goldens.assert_close(x, case['y_eval'], tol, 'from the middle')


def from_haiku(tree: dict[str, np.ndarray]) -> Any:
    """Flax parameters of BYOL's MLP: {'mlp/linear/w': [in, out], 'mlp/batch_norm/scale': [1, C], ...}."""
    return {
        'linear_0': {'kernel': tree['mlp/linear/w'], 'bias': tree['mlp/linear/b']},
        'bn_0': {'scale': tree['mlp/batch_norm/scale'][0], 'bias': tree['mlp/batch_norm/offset'][0]},
        'linear_1': {'kernel': tree['mlp/linear_1/w']},
    }


@pytest.mark.parametrize('case', goldens.cases('byol_networks', 'mlp', 'mlp_sync'))
def test_byol(case: goldens.Case) -> None:
    """Haiku's averages start from 0, `hidden`, and are divided by 1 - decay^steps where they are used, `average`."""
    fields, tol = case.fields, case.tolerances['float64']
    decay = fields['batch_norm']['decay']
    assert fields['batch_norm']['running_var'] == 'biased' and fields['batch_norm']['zero_debias']
    with jax.enable_x64(True):
        model = MLP(
            num_layers=2,
            hidden_dim=fields['hidden_dim'],
            output_dim=fields['output_dim'],
            bias=fields['first_bias'],
            last_bias=fields['last_bias'],
            last_batch_norm=fields['last_batch_norm'],
            bn_momentum=decay,
            bn_epsilon=fields['batch_norm']['epsilon'],
            bn_unbiased=False,
            dtype=jnp.float64,
        )
        params = from_haiku(case.tree(fields['parameters']))
        steps = slice(None) if fields['type'] == 'mlp' else None
        batches, outputs = case['x'][steps], case['y_train'][steps]  # a batch of one replica, or of all of them, a step
        batches, outputs = (x if x.ndim == 4 else x[:, None] for x in (batches, outputs))  # [step, replica, B, D]

        @functools.partial(jax.vmap, in_axes=(None, 0), axis_name='data')
        def train(stats: Any, x: jax.Array) -> Any:
            variables = {'params': params, 'batch_stats': stats}
            y, updated = model.apply(variables, x, train=True, axis_name='data', mutable=['batch_stats'])
            return y, updated['batch_stats']

        hidden: Any = {'bn_0': dict.fromkeys(('mean', 'var'), np.zeros(fields['hidden_dim']))}
        average = hidden
        for step, (x, expected, state) in enumerate(zip(batches, outputs, fields['states'], strict=True), start=1):
            y, hidden = train(hidden, x)
            hidden = jax.tree.map(lambda a: a[0], hidden)
            average = jax.tree.map(lambda a: a / (1 - decay**step), hidden)  # noqa: B023
            goldens.assert_close(y, expected, tol, f'output {step}')
            for name in ('mean', 'var'):
                kept = case.key(f'{state}.mlp/batch_norm/~/{name}_ema/average')
                goldens.assert_close(average['bn_0'][name], kept[0], tol, f'{name} after {step}')
        if fields['type'] == 'mlp':
            y = model.apply({'params': params, 'batch_stats': average}, batches[0, 0], train=False)
            goldens.assert_close(y, case['y_eval'], tol, 'eval')


@pytest.mark.parametrize(
    ('model', 'shapes'),
    [
        # MoCo v1 and v2 (moco/builder.py), and MoCo v3's ViT projector (moco/builder.py, _build_mlp)
        (MLP(1, 0, 8, bias=True), {'linear_0': {'kernel': (6, 8), 'bias': (8,)}}),
        (
            MLP(2, 6, 8, bias=True, batch_norm=False),
            {'linear_0': {'kernel': (6, 6), 'bias': (6,)}, 'linear_1': {'kernel': (6, 8), 'bias': (8,)}},
        ),
        (
            MLP(3, 10, 8, last_batch_norm=True),
            {
                'linear_0': {'kernel': (6, 10)},
                'bn_0': {'scale': (10,), 'bias': (10,)},
                'linear_1': {'kernel': (10, 10)},
                'bn_1': {'scale': (10,), 'bias': (10,)},
                'linear_2': {'kernel': (10, 8)},
            },
        ),
        (
            MLP(1, 0, 8, last_batch_norm=True, last_batch_norm_affine=True),
            {'linear_0': {'kernel': (6, 8)}, 'bn_0': {'scale': (8,), 'bias': (8,)}},
        ),
        (
            MLP(1, 0, 8, last_batch_norm=True, last_batch_norm_affine=True, last_batch_norm_offset=False),
            {'linear_0': {'kernel': (6, 8)}, 'bn_0': {'scale': (8,)}},
        ),
        # BYOL: with bias, but for the last layer; SimSiam's predictor: the other way round
        (
            MLP(2, 10, 8, bias=True, last_bias=False),
            {
                'linear_0': {'kernel': (6, 10), 'bias': (10,)},
                'bn_0': {'scale': (10,), 'bias': (10,)},
                'linear_1': {'kernel': (10, 8)},
            },
        ),
        (
            MLP(2, 10, 8, last_bias=True, batch_norm=False),
            {'linear_0': {'kernel': (6, 10)}, 'linear_1': {'kernel': (10, 8), 'bias': (8,)}},
        ),
    ],
)
def test_parameters(model: MLP, shapes: Any) -> None:
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 6)), train=True))
    assert jax.tree.map(lambda leaf: leaf.shape, variables['params']) == shapes


def test_initial_values_are_those_of_torch() -> None:
    params = MLP(1, 0, 1000, bias=True).init(jax.random.key(0), jnp.zeros((1, 25)), train=True)['params']['linear_0']
    for value in (params['kernel'], params['bias']):
        assert 0.19 < np.abs(value).max() <= 0.2  # 1 / sqrt(25)
        np.testing.assert_allclose(np.std(value), 0.2 / np.sqrt(3), rtol=0.06)


@pytest.mark.parametrize(('init', 'std'), [('normal', 0.01), ('trunc_normal', 0.02)])
def test_other_initial_values(init: str, std: float) -> None:
    model = MLP(1, 0, 100, bias=True, kernel_init=init)
    params = model.init(jax.random.key(0), jnp.zeros((1, 100)), train=True)['params']['linear_0']
    np.testing.assert_allclose(np.std(params['kernel']), std, rtol=0.05)
    assert np.abs(params['kernel']).max() > 3 * std and not params['bias'].any()


def test_activations() -> None:
    x, params = jnp.array([[-1.0], [2.0]]), {'kernel': jnp.ones((1, 1))}
    for activation, expected in (('relu', [0.0, 2.0]), ('gelu', [-0.158655254, 1.954499736])):  # gelu: x Φ(x)
        model = MLP(2, 1, 1, batch_norm=False, activation=activation)
        y = model.apply({'params': {'linear_0': params, 'linear_1': params}}, x, train=True)
        np.testing.assert_allclose(y[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize('field', ['activation', 'kernel_init'])
def test_unknown_choices(field: str) -> None:
    with pytest.raises(ValueError, match=f"MLP {field} 'tanh' is unknown; use one of "):
        MLP(2, 8, 8, **{field: 'tanh'}).init(jax.random.key(0), jnp.zeros((1, 6)), train=True)


def test_bfloat16_returns_float32() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 6))
    model = MLP(2, 16, 4, last_batch_norm=True, dtype=jnp.bfloat16)
    variables = jax.jit(lambda: model.init(jax.random.key(1), x, train=True))()
    run = jax.jit(lambda model: model.apply(variables, x, train=True, mutable=['batch_stats']), static_argnums=0)
    y, updated = run(model)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated, y))} == {jnp.dtype('float32')}
    exact, _ = run(model.clone(dtype=jnp.float32))
    np.testing.assert_allclose(y, exact, atol=0.1)


def test_no_layers() -> None:
    with pytest.raises(ValueError, match='num_layers 0 must be at least 1'):
        MLP(0, 8, 8).init(jax.random.key(0), jnp.zeros((1, 6)), train=True)
