"""Checkpoints in the format that BYOL published give the features of Haiku's network."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from contrastive_jax import pretrained
from contrastive_jax.config.build import build_policy
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import architecture, haiku_names, names, pixels
from contrastive_jax.pretrained.assemble import assemble, shapes
from tests import goldens, train_steps
from tests.pretrained import published_files

Tree = dict[str, dict[str, np.ndarray]]

CONFIG = {'name': 'resnet50', 'stage_sizes': [1, 2, 1, 1], 'width': 8, 'padding': 'same'}
SIZE = 48


# ================================ the oracle: utils/networks.py, module by module ================================


def forward(params: Mapping[str, Any], state: Mapping[str, Any], x: Any) -> jax.Array:
    """Features of images [B, H, W, 3] in evaluation mode, by Haiku's names."""

    def conv(x: jax.Array, name: str, stride: int) -> jax.Array:
        kernel = jnp.asarray(params[f'{root}/~/{name}']['w'])
        layout = ('NHWC', 'HWIO', 'NHWC')
        return lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=layout)

    def norm(x: jax.Array, name: str) -> jax.Array:
        bn = f'{root}/~/{name}'
        mean, var = (state[f'{bn}/~/{kind}_ema']['average'] for kind in ('mean', 'var'))
        return (x - mean) / jnp.sqrt(var + 1e-5) * params[bn]['scale'] + params[bn]['offset']

    (root,) = {name.split('/')[0] for name in params if 'initial_conv' in name}
    x = jax.nn.relu(norm(conv(x, 'initial_conv', 2), 'initial_batchnorm'))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME')
    blocks = sorted({match[0] for name in params if (match := re.search(r'block_group_\d+/~/block_\d+', name))})
    for name in blocks:
        layers = sum(f'{root}/~/{name}/~/conv_{i}' in params for i in range(3))
        strided = layers - 2  # the 3x3 convolution of a bottleneck, the first one of a basic block (Haiku since 2021)
        first = name.endswith('block_0') and 'block_group_0' not in name
        y = x
        for i in range(layers):
            stride = 2 if first and i == strided else 1
            y = norm(conv(y, f'{name}/~/conv_{i}', stride), f'{name}/~/batchnorm_{i}')
            y = jax.nn.relu(y) if i < layers - 1 else y
        if f'{root}/~/{name}/~/shortcut_conv' in params:
            x = norm(conv(x, f'{name}/~/shortcut_conv', 2 if first else 1), f'{name}/~/shortcut_batchnorm')
        x = jax.nn.relu(x + y)
    return x.mean((1, 2))


@pytest.mark.parametrize('case', goldens.cases('byol_networks', 'resnet'))
def test_the_oracle_is_haiku(case: goldens.Case) -> None:
    strides = case.fields['stage_strides']
    if strides != [1, *[2] * (len(strides) - 1)]:
        pytest.skip('every group but the first halves the resolution')
    trees: list[Tree] = []
    for prefix in (case.fields['parameters'], case.fields['eval_uses']):
        tree: Tree = {}
        for name, x in case.tree(prefix).items():
            module, _, leaf = name.rpartition('/')
            tree.setdefault(module, {})[leaf] = x
        trees.append(tree)
    with jax.enable_x64(True):
        h = forward(*trees, case['x'])
    goldens.assert_close(h, case['y_eval'], case.tolerances['float64'])


# ================================ files ================================


def haiku(made: pretrained.Encoder, root: str = 'res_net50') -> tuple[Tree, Tree]:
    """An encoder's parameters and state under Haiku's names, converted independently of the library."""
    params: Tree = {}
    state: Tree = {}
    for path, x in made.flat.items():
        _, *modules, leaf = path.split('/')
        *block, layer = modules
        kind = 'conv' if 'conv' in layer else 'batchnorm'
        if not block:
            name = f'initial_{kind}'
        else:
            stage, i = re.fullmatch(r'layer(\d)_(\d+)', block[0]).groups()  # type: ignore[union-attr]
            layer = f'shortcut_{kind}' if 'downsample' in layer else f'{kind}_{int(layer[-1]) - 1}'
            name = f'block_group_{int(stage) - 1}/~/block_{i}/~/{layer}'
        if leaf == 'kernel':
            params.setdefault(f'{root}/~/{name}', {})['w'] = x
        elif leaf in ('scale', 'bias'):
            params.setdefault(f'{root}/~/{name}', {})[leaf.replace('bias', 'offset')] = x.reshape(1, 1, 1, -1)
        else:
            average = x.reshape(1, 1, 1, -1)
            held = {'average': average, 'hidden': average * 0.9, 'counter': np.array(22, np.int32)}
            state[f'{root}/~/{name}/~/{leaf}_ema'] = held
    return params, state


def checkpoint(seed: int = 0) -> dict[str, Any]:
    """The content of a BYOL checkpoint: two networks with their heads, and the optimizer."""
    rng = np.random.default_rng(seed)
    sizes = shapes(CONFIG, SIZE)
    arrays = {path: rng.uniform(-0.3, 0.5, shape) for path, shape in sizes.items()}
    arrays |= {path: rng.uniform(0.5, 1.5, shape) for path, shape in sizes.items() if path.endswith(('scale', 'var'))}
    params, state = haiku(assemble(CONFIG, arrays, SIZE, 'seed'))
    for head in ('projector', 'predictor'):
        params[f'{head}/linear'] = {'w': np.ones((4, 4), np.float32), 'b': np.ones(4, np.float32)}
        params[f'{head}/batch_norm'] = {leaf: np.ones((1, 4), np.float32) for leaf in ('scale', 'offset')}
        state[f'{head}/batch_norm/~/mean_ema'] = {'average': np.ones((1, 4), np.float32), 'counter': np.array(1)}
    params['classifier'] = {'w': np.ones((4, 4), np.float32), 'b': np.ones(4, np.float32)}
    networks = {'online_params': params, 'online_state': state}
    for name, tree in (('target_params', params), ('target_state', state)):
        networks[name] = {
            key: {leaf: np.asarray(x * 1.1 + 0.1) for leaf, x in held.items()} for key, held in tree.items()
        }
    return networks


@pytest.mark.parametrize(
    ('weights', 'network', 'mapping'), [(None, 'online', 'FlatMapping'), ('target', 'target', 'frozendict')]
)
def test_features(tmp_path: Path, weights: str | None, network: str, mapping: str) -> None:
    held = checkpoint()
    said: list[str] = []
    path = published_files.write_byol(tmp_path / 'pretrain_res50x1.pkl', held, mapping)
    made = pretrained.load(path, weights, say=said.append)
    assert said[0] == f"format: BYOL (form=byol), section 'experiment_state', names {network}_*"
    assert said[1].startswith(f'network: {network} network (weights={network}); the file also contains the ')
    assert made.source == f'{path}, {network} network'
    assert any(line.startswith('skipped, head: ') for line in said)
    assert made.architecture == {
        'name': 'resnet50', 'stage_sizes': [1, 2, 1, 1], 'width': 8, 'stem': 'imagenet', 'padding': 'same',
        'bn_unbiased': False,
    }  # fmt: skip
    assert pixels.fields(made.policy) == pixels.fields(build_policy(train_steps.load('byol')))
    x = np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    with jax.default_matmul_precision('highest'):
        h = jax.jit(lambda v: made.module.apply(v, x, train=False))(made.variables)
        expected = jax.jit(forward)(held[f'{network}_params'], held[f'{network}_state'], x)
    goldens.assert_close(h, expected, 1e-4)
    assert np.std(np.asarray(h), axis=0).max() > 1e-3


@pytest.mark.parametrize(
    ('network', 'module', 'leaf', 'line'),
    [
        ('online_params', 'res_net50/~/other', 'w', r'params/res_net50/~/other/w \[2\] is unexpected'),
        ('online_params', 'res_net50/~/initial_conv', 'b', r'initial_conv/b \[2\] is unexpected'),
        (
            'online_params',
            'res_net50/~/block_group_0/~/block_0/~/conv_1',
            'w',
            r'conv2/kernel has shape \[2\]',
        ),
        (
            'online_state',
            'res_net50/~/initial_batchnorm/~/mean_ema',
            'average',
            r'bn1/mean has shape \[2\] instead',
        ),
        ('online_params', 'res_net50/~/initial_batchnorm', 'scale', r'scale has shape \[2\] instead of \[8\]'),
        ('aux', 'x', 'w', r'names that byol checkpoints do not have: aux/x/w -> skip them'),
    ],
)
def test_every_name_is_accounted_for(tmp_path: Path, network: str, module: str, leaf: str, line: str) -> None:
    held = checkpoint()
    held.setdefault(network, {}).setdefault(module, {})[leaf] = np.ones(2, np.float32)
    with pytest.raises(UserError, match=line):
        pretrained.load(published_files.write_byol(tmp_path / 'x.pkl', held))


def test_a_missing_name(tmp_path: Path) -> None:
    held = checkpoint()
    del held['online_state']['res_net50/~/block_group_1/~/block_1/~/batchnorm_2/~/var_ema']['average']
    with pytest.raises(UserError, match=r'batch_stats/layer2_1/bn3/var \[64\] is missing'):
        pretrained.load(published_files.write_byol(tmp_path / 'x.pkl', held))


def test_resnet200_twice_as_wide() -> None:
    """The larger of the two published encoders is detected from its names and shapes."""
    config = {'name': 'resnet200', 'width_multiplier': 2, 'padding': 'same'}
    arrays = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes(config, 32).items()}

    class Made:
        flat = arrays

    params, state = haiku(Made, 'res_net200')  # type: ignore[arg-type]
    flat = {f'params/{m}/{leaf}': x for m, leaves in params.items() for leaf, x in leaves.items()}
    flat |= {f'state/{m}/average': leaves['average'] for m, leaves in state.items()}
    found = haiku_names.from_haiku(flat)
    assert architecture.describe(found, '') == {'name': 'resnet200', 'width_multiplier': 2, 'stem': 'imagenet'}
    assert {name: x.shape for name, x in found.items()} == {
        name: names.to_torch(path, arrays[path]).shape for path, name in names.torch_names(arrays).items()
    }
