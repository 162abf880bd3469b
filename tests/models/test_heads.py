"""MLP heads against MoCo v3's `_build_mlp`, torch's initial values, and themselves in bfloat16."""

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
        variables = from_torch(case.tree(f'{case.prefix}.param'), fields['layers'])
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
                expected = from_torch(case.tree(f'{case.prefix}.grad'), fields['layers'])['params']
                jax.tree.map(lambda a, b: goldens.assert_close(a, b, tol, 'gradient'), grads[0], expected)
                goldens.assert_close(grads[1], case['grad_x0'], tol, 'input gradient')
            variables = {**variables, **updated}
        after = from_torch(case.tree(f'{case.prefix}.after'), fields['layers'])['batch_stats']
        jax.tree.map(
            lambda a, b: goldens.assert_close(a, b, tol, 'running statistics'), variables['batch_stats'], after
        )
        goldens.assert_close(model.apply(variables, x[0], train=False), case['y_eval'], tol, 'eval')


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
