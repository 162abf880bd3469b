"""ResNet against torchvision's outputs, gradients and running statistics, and against published sizes."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models.resnet import BLOCKS, ResNet, resnet
from tests import goldens


def from_torch(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Flax variables of a torchvision state dict: {'layer1.0.conv1.weight': OIHW, ...} without its classifier."""
    variables: dict[str, Any] = {'params': {}, 'batch_stats': {}}
    for name, value in state.items():
        if name.startswith('fc.') or name.endswith('num_batches_tracked'):
            continue
        module, leaf = name.rsplit('.', 1)
        module = module.replace('downsample.0', 'downsample_conv').replace('downsample.1', 'downsample_bn')
        module = re.sub(r'^(layer\d+)\.(\d+)\.', r'\1_\2/', module)
        collection = 'batch_stats' if leaf.startswith('running') else 'params'
        leaf = {'running_mean': 'mean', 'running_var': 'var', 'bias': 'bias', 'weight': 'scale'}[leaf]
        if value.ndim == 4:
            leaf, value = 'kernel', value.transpose(2, 3, 1, 0)
        node = variables[collection]
        for part in module.split('/'):
            node = node.setdefault(part, {})
        node[leaf] = value
    return variables


def classify(model: ResNet, variables: dict[str, Any], fc: dict[str, Any], x: jax.Array, train: bool) -> Any:
    h, updated = model.apply(variables, x, train=train, mutable=['batch_stats', 'intermediates'])
    return h @ fc['fc.weight'].T + fc['fc.bias'], updated


@pytest.mark.parametrize('case', goldens.cases('resnet', 'resnet'))
def test_golden(case: goldens.Case) -> None:
    fields, tol = case.fields, case.tolerances['float64']
    assert fields['stage_widths'] == [fields['width'] * 2**i for i in range(len(fields['stage_sizes']))]
    assert fields['expansion'] == BLOCKS[fields['block']][-1][-1]
    state = case.tree(fields['parameters'])
    with jax.enable_x64(True):
        model = ResNet(
            stage_sizes=tuple(fields['stage_sizes']),
            block=fields['block'],
            width=fields['width'],
            stem=fields['stem'],
            bn_momentum=1 - fields['batch_norm']['momentum'],
            bn_epsilon=fields['batch_norm']['epsilon'],
            dtype=jnp.float64,
        )
        variables = from_torch(state)
        fc = {name: state[name] for name in ('fc.weight', 'fc.bias')}
        x = case.key(fields['input']).transpose(0, 2, 3, 1)
        gradient = fields['gradient']

        def loss(params: Any, fc: Any, x: jax.Array, train: bool) -> tuple[jax.Array, Any]:
            y, updated = classify(model, {**variables, 'params': params}, fc, x, train)
            return (y * case.key(gradient['cotangent'])).sum(), (y, updated)

        results = {}
        for mode in fields['modes']:
            if mode == gradient['mode']:
                value_and_grad = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
                grads, results[mode] = value_and_grad(variables['params'], fc, x, mode == 'train')
            else:
                _, results[mode] = jax.jit(loss, static_argnums=3)(variables['params'], fc, x, mode == 'train')

    for mode, expected in fields['modes'].items():
        y, updated = results[mode]
        goldens.assert_close(y, case.key(expected['output']), tol, f'{mode} output')
        for i, key in enumerate(expected['stage_averages'], start=1):
            (stage,) = updated['intermediates'][f'layer{i}']
            goldens.assert_close(np.asarray(stage).mean((1, 2)), case.key(key), tol, key)
        running_after = case.tree(expected['running_after']) if 'running_after' in expected else state
        jax.tree.map(
            lambda a, b: goldens.assert_close(a, b, tol, 'running statistics'),
            updated['batch_stats'],
            from_torch(running_after)['batch_stats'],
        )

    params_grad, fc_grad, x_grad = jax.tree.map(np.asarray, grads)
    goldens.assert_close(x_grad.sum(-1), case.key(gradient['input_sum_over_channels']), tol, 'input gradient')
    for name, key in gradient['parameters'].items():
        actual = fc_grad[name] if name in fc_grad else read(params_grad, name, state[name])
        goldens.assert_close(actual, to_flax(case.key(key), name), tol, key)
    norms = [
        np.linalg.norm(fc_grad[name] if name in fc_grad else read(params_grad, name, state[name]))
        for name in gradient['norms_params']
    ]
    goldens.assert_close(norms, case.key(gradient['norms']), tol, 'gradient norms')


def to_flax(value: np.ndarray, name: str) -> np.ndarray:
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def read(params: dict[str, Any], name: str, like: np.ndarray) -> np.ndarray:
    """The leaf of a flax tree that the torch name maps to."""
    path = from_torch({name: like})['params']
    node: Any = params
    while isinstance(path, dict):
        ((key, path),) = path.items()
        node = node[key]
    return node


def init(model: ResNet, x: jax.Array) -> Any:
    return jax.jit(lambda: model.init(jax.random.key(0), x, train=True))()


def parameters(model: ResNet, size: int = 64) -> int:
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False),
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize(
    ('name', 'fields', 'millions', 'digits'),
    [
        # torchvision's documented sizes less the 1000-way classifier (513,000 or 2,049,000 parameters)
        ('resnet18', {}, (11_689_512 - 513_000) / 1e6, 6),
        ('resnet34', {}, (21_797_672 - 513_000) / 1e6, 6),
        ('resnet50', {}, (25_557_032 - 2_049_000) / 1e6, 6),
        ('resnet101', {}, (44_549_160 - 2_049_000) / 1e6, 6),
        ('resnet152', {}, (60_192_808 - 2_049_000) / 1e6, 6),
        ('resnet18', {'stem': 'cifar'}, 11.17, 2),
        # SimCLR, table 6: 24 M, 94 M, 375 M
        ('resnet50', {'width_multiplier': 2}, 94, 0),
        ('resnet50', {'width_multiplier': 4}, 375, 0),
        ('resnet_tiny', {}, 0.3, 1),
    ],
)
def test_parameter_counts(name: str, fields: dict[str, Any], millions: float, digits: int) -> None:
    assert round(parameters(resnet(name, **fields)) / 1e6, digits) == round(millions, digits)


def test_remat_is_the_same_network() -> None:
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    small = {'stage_sizes': (1,), 'width': 4}
    variables = init(resnet('resnet_tiny', **small), x)

    def value_and_grad(remat: bool) -> Any:
        model = resnet('resnet_tiny', remat=remat, **small)
        same = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=True))
        assert jax.tree.structure(same) == jax.tree.structure(variables)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            h, updated = model.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
            return (h**2).sum(), updated

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), value_and_grad(True), value_and_grad(False)
    )


def test_zero_init_residual_starts_at_the_identity() -> None:
    model = ResNet(stage_sizes=(1,), block='bottleneck', width=4, stem='cifar', zero_init_residual=True)
    block = init(model, jax.random.normal(jax.random.key(1), (2, 8, 8, 3)))['params']['layer1_0']
    factors = {name: set(norm['scale'].tolist()) for name, norm in block.items() if 'bn' in name}
    assert factors == {'bn1': {1}, 'bn2': {1}, 'bn3': {0}, 'downsample_bn': {1}}


def test_initial_values_are_kaiming_normal_over_fan_out() -> None:
    model = ResNet(stage_sizes=(), block='basic', width=64, stem='imagenet')
    kernel = init(model, jnp.zeros((1, 32, 32, 3)))['params']['conv1']['kernel']
    assert kernel.shape == (7, 7, 3, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (7 * 7 * 64)), rtol=0.03)
    assert np.abs(kernel).max() > 3 * np.sqrt(2 / (7 * 7 * 64)), 'a truncated normal'


def test_bfloat16_keeps_parameters_and_statistics_in_float32() -> None:
    model = resnet('resnet_tiny', stage_sizes=(1,), width=4, dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = init(model, x)

    @functools.partial(jax.jit, static_argnums=0)
    def run(model: ResNet) -> Any:
        return model.apply(variables, x, train=True, mutable=['batch_stats', 'intermediates'])

    h, updated = run(model)
    assert h.dtype == jnp.float32
    assert updated['intermediates']['layer1'][0].dtype == jnp.bfloat16
    kept = jax.tree.leaves((variables, updated['batch_stats']))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype('float32')}
    exact, _ = run(model.clone(dtype=jnp.float32))
    np.testing.assert_allclose(h, exact, atol=0.1)


@pytest.mark.parametrize('fields', [{'stem': 'tiny'}, {'block': 'dense'}])
def test_unknown_choices(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r'is unknown; use'):
        parameters(resnet('resnet_tiny', **fields))
