"""ResNet against torchvision's outputs, gradients and running statistics, and against published sizes."""

import functools
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models.norm import BatchNorm
from contrastive_jax.models.resnet import (
    BLOCKS,
    PADDINGS,
    ResidualBlock,
    ResNet,
    SelectiveKernels,
    average_pool,
    conv,
    max_pool,
    resnet,
)
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
    if fields['stage_widths'] != [fields['width'] * 2**i for i in range(len(fields['stage_sizes']))]:
        pytest.skip('every stage is twice as wide as the one before it')
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


class TinyResNet(nn.Module):
    """BYOL's: our blocks, but a stem wider than the stages, which are all as wide."""

    stage_sizes: tuple[int, ...]
    stem_width: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        padding, pool_padding = PADDINGS['same']
        x = conv(self.stem_width, 7, 2, jnp.float64, name='conv1', padding=padding)(x)
        x = max_pool(nn.relu(self.norm(name='bn1')(x, train=train)), pool_padding)
        for group, size in enumerate(self.stage_sizes):
            for i in range(size):
                stride = self.strides[group] if i == 0 else 1
                fields = (self.widths[group], stride, False, padding, 0.0, self.norm, jnp.float64)
                x = ResidualBlock('basic', *fields, name=f'layer{group + 1}_{i}')(x, train, None)
        return x.mean((1, 2))


HAIKU = {
    r'^\w+/~/': '',
    r'initial_(conv|batchnorm)': r'\g<1>_0',
    r'block_group_(\d)/~/block_(\d)': lambda m: f'layer{int(m[1]) + 1}_{m[2]}',
    r'(conv|batchnorm)_(\d)': lambda m: f'{m[1]}{int(m[2]) + 1}',
    r'shortcut_': 'downsample_',
    r'batchnorm': 'bn',
    r'_ema/average': '',
    r'/w$': '/kernel',
    r'/offset$': '/bias',
    r'/~/': '/',
}


def from_haiku(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """A flax tree of '.../block_group_2/~/block_0/~/conv_0/w' (HWIO), offsets [1, 1, 1, C] and averages alike."""
    tree: dict[str, Any] = {}
    for name, value in state.items():
        for pattern, ours in HAIKU.items():
            name = re.sub(pattern, ours, name)
        *path, leaf = name.split('/')
        node = functools.reduce(lambda node, part: node.setdefault(part, {}), path, tree)
        node[leaf] = value if leaf == 'kernel' else value.reshape(-1)
    return tree


@pytest.mark.parametrize('case', goldens.cases('byol_networks', 'resnet'))
def test_byol(case: goldens.Case) -> None:
    """SAME padding, and Haiku's running statistics: biased, and the batch's own after one step (see test_heads.py)."""
    fields, tol = case.fields, case.tolerances['float64']
    assert fields['padding'] == 'SAME'
    assert fields['batch_norm']['running_var'] == 'biased' and fields['batch_norm']['zero_debias']
    if fields['block'] != 'basic':
        pytest.skip('the network of this test has basic blocks, as the TinyResNet of BYOL')
    if fields['stem_width'] == fields['stage_widths'][0] and fields['stage_strides'][0] == 1:
        pytest.skip('our blocks have a convolution in the shortcut only where the shape changes')
    with jax.enable_x64(True):
        norm = functools.partial(
            BatchNorm, momentum=0.0, epsilon=fields['batch_norm']['epsilon'], unbiased=False, dtype=jnp.float64
        )
        sizes, widths, strides = (tuple(fields[f'stage_{name}']) for name in ('sizes', 'widths', 'strides'))
        model = TinyResNet(sizes, fields['stem_width'], widths, strides, norm)
        params, x = from_haiku(case.tree(fields['parameters'])), case['x']
        average = from_haiku(case.tree(fields['states'][0]))
        y, updated = jax.jit(lambda v: model.apply(v, x, train=True, mutable=['batch_stats']))(
            {'params': params, 'batch_stats': average}
        )
        y_eval = jax.jit(lambda v: model.apply(v, x, train=False))({'params': params, 'batch_stats': average})
    goldens.assert_close(y, case['y_train'], tol, 'output')
    goldens.assert_close(y_eval, case['y_eval'], tol, 'eval')
    assert jax.tree.structure(updated['batch_stats']) == jax.tree.structure(average)
    jax.tree.map(lambda a, b: goldens.assert_close(a, b, tol, 'running statistics'), updated['batch_stats'], average)


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


def parameters(model: ResNet, size: int = 64, collections: tuple[str, ...] = ('params',)) -> int:
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False),
    )
    return sum(math.prod(leaf.shape) for name in collections for leaf in jax.tree.leaves(variables[name]))


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
        ('resnet200', {'width_multiplier': 2}, 250, 0),  # BYOL, table 1
        ('resnet_tiny', {}, 0.3, 1),
    ],
)
def test_parameter_counts(name: str, fields: dict[str, Any], millions: float, digits: int) -> None:
    assert round(parameters(resnet(name, **fields)) / 1e6, digits) == round(millions, digits)


# SimCLR v2 (arXiv 2006.10029), tables 1 and 2, where running statistics count too: millions without SK and with it.
TABLE = {
    ('resnet50', 1): (24, 35),
    ('resnet50', 2): (94, 140),
    ('resnet101', 1): (43, 65),
    ('resnet152', 2): (233, 354),
    ('resnet152', 3): (None, 795),
}


@pytest.mark.parametrize(('name', 'width'), TABLE)
def test_parameter_counts_of_simclr_v2(name: str, width: int) -> None:
    for millions, sk_ratio in zip(TABLE[name, width], (0.0, 0.0625), strict=True):
        model = resnet(name, width_multiplier=width, sk_ratio=sk_ratio)
        if millions is not None:
            assert round(parameters(model, collections=('params', 'batch_stats')) / 1e6) == millions


@pytest.mark.parametrize(
    ('padding', 'around_conv', 'around_pool'),
    [('torch', (3, 3), (1, 1)), ('same', (2, 3), (0, 1)), ('simclr', (3, 3), (0, 1))],
)
def test_padding_of_the_stem(padding: str, around_conv: tuple[int, int], around_pool: tuple[int, int]) -> None:
    model = ResNet(stage_sizes=(), block='basic', width=4, padding=padding, bn_epsilon=0.0)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = init(model, x)
    y = jax.lax.conv_general_dilated(
        x,
        variables['params']['conv1']['kernel'],
        (2, 2),
        (around_conv,) * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    y = np.pad(np.maximum(y, 0), ((0, 0), around_pool, around_pool, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(y, (3, 3), (1, 2))[:, ::2, ::2]
    assert windows.shape[1:3] == (2, 2)
    expected = windows.max((-2, -1)).mean((1, 2))
    np.testing.assert_allclose(model.apply(variables, x, train=False), expected, rtol=1e-5)


@pytest.mark.parametrize(('padding', 'around'), [('symmetric', (1, 1)), ('SAME', (0, 1))])
def test_selective_kernels_against_the_equation(
    padding: str, around: tuple[int, int], rng: np.random.Generator
) -> None:
    C, stride = 3, 2
    model = SelectiveKernels(C, stride, 0.0625, padding, functools.partial(BatchNorm, epsilon=0.0), jnp.float32)
    x = rng.normal(size=(2, 4, 4, 5)).astype(np.float32)
    variables = model.init(jax.random.key(0), x, False, None)
    kernels = jax.tree.map(np.asarray, variables['params'])
    assert kernels['reduce_conv']['kernel'].shape == (1, 1, C, 32)  # at least 32 channels wide
    y = jax.lax.conv_general_dilated(
        x, kernels['conv']['kernel'], (stride, stride), (around, around), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    first, second = np.split(np.maximum(y, 0), 2, axis=-1)
    for b in range(len(x)):
        seen = (first[b] + second[b]).mean((0, 1)) @ kernels['reduce_conv']['kernel'][0, 0]
        to_first, to_second = np.split(np.exp(np.maximum(seen, 0) @ kernels['mix_conv']['kernel'][0, 0]), 2)
        expected = (first[b] * to_first + second[b] * to_second) / (to_first + to_second)
        np.testing.assert_allclose(model.apply(variables, x, False, None)[b], expected, rtol=1e-4, atol=1e-5)


def test_shortcut_of_resnet_d() -> None:
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(average_pool(x, 2)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(average_pool(x, 1)[0, 2:, 2:, 0], [[12.5, 13], [14.5, 15]])
    odd = average_pool(x[:, :3, :3], 2)[0, ..., 0]
    np.testing.assert_allclose(odd, [[2.5, (2 + 6) / 4], [(8 + 9) / 4, 10 / 4]])


def test_modules_with_selective_kernels() -> None:
    model = ResNet(stage_sizes=(1, 1), block='bottleneck', width=4, sk_ratio=0.0625)
    params = jax.eval_shape(lambda: init(model, jnp.zeros((2, 32, 32, 3))))['params']
    shapes = {name: params[name]['kernel'].shape for name in ('conv1', 'conv2', 'conv3')}
    assert shapes == {'conv1': (3, 3, 3, 2), 'conv2': (3, 3, 2, 2), 'conv3': (3, 3, 2, 4)}
    block = {'conv1', 'bn1', 'sk2', 'conv3', 'bn3', 'downsample_conv', 'downsample_bn'}
    assert set(params['layer1_0']) == set(params['layer2_0']) == block


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


@pytest.mark.parametrize('fields', [{'stem': 'tiny'}, {'block': 'dense'}, {'padding': 'valid'}])
def test_unknown_choices(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r'is unknown; use'):
        parameters(resnet('resnet_tiny', **fields))


@pytest.mark.parametrize(('name', 'ratio'), [('resnet_tiny', 0.0625), ('resnet50', -0.1), ('resnet50', 2.0)])
def test_selective_kernels_are_for_bottlenecks(name: str, ratio: float) -> None:
    with pytest.raises(ValueError, match=rf'sk_ratio {ratio} must be 0, or at most 1 with bottleneck blocks'):
        parameters(resnet(name, sk_ratio=ratio))
