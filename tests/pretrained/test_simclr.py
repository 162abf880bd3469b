"""Checkpoints with the names that SimCLR published give the features of the authors' network.

TensorFlow is not needed: the one function that uses it is replaced.
"""

import sys
from collections import Counter
from collections.abc import Callable
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
from contrastive_jax.pretrained import architecture, names, pixels, simclr_names, tensorflow_files
from contrastive_jax.pretrained.assemble import shapes
from tests import goldens, train_steps

Arrays = dict[str, np.ndarray]

SIZE = 40


class Graph:
    """google-research/simclr's `resnet.py`: layers create variables when they are called, numbered by kind."""

    def __init__(self, *, sk_ratio: float = 0.0, width: int = 8, blocks: tuple[int, ...] = (1, 2, 1, 1)):
        self.sk_ratio, self.width, self.blocks = sk_ratio, width, blocks
        self.variables: Arrays = {}
        self.made: Counter[str] = Counter()
        self.rng = np.random.default_rng(0)

    def name(self, kind: str) -> str:
        number = self.made[kind]
        self.made[kind] += 1
        return f'base_model/{kind}_{number}' if number else f'base_model/{kind}'

    def conv(self, x: Any, filters: int, size: int, stride: int) -> jax.Array:
        shape = (size, size, x.shape[-1], filters)
        kernel = (self.rng.normal(size=shape) / np.sqrt(size * size * x.shape[-1])).astype(np.float32)
        self.variables[f'{self.name("conv2d")}/kernel'] = kernel
        edges: Any = 'SAME'
        if stride > 1:  # fixed_padding
            edges = [((size - 1) // 2, size - 1 - (size - 1) // 2)] * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), edges, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision='highest'
        )

    def norm(self, x: jax.Array, relu: bool = True) -> jax.Array:
        channels, rng = x.shape[-1], self.rng
        drawn = {
            'gamma': rng.uniform(0.5, 1, channels), 'beta': rng.normal(size=channels) / 10,
            'moving_mean': rng.normal(size=channels) / 10, 'moving_variance': rng.uniform(0.5, 1.5, channels),
        }  # fmt: skip
        name = self.name('batch_normalization')
        self.variables |= {f'{name}/{leaf}': value.astype(np.float32) for leaf, value in drawn.items()}
        gamma, beta, mean, variance = drawn.values()
        y = (x - mean) / jnp.sqrt(variance + 1e-5) * gamma + beta
        return jax.nn.relu(y) if relu else y

    def selective(self, x: jax.Array, filters: int, stride: int) -> jax.Array:
        x = self.norm(self.conv(x, 2 * filters, 3, stride))
        streams = jnp.stack(jnp.split(x, 2, axis=3))
        seen = streams.sum(0).mean((1, 2), keepdims=True)
        seen = self.norm(self.conv(seen, max(int(filters * self.sk_ratio), 32), 1, 1))
        mixing = jax.nn.softmax(jnp.stack(jnp.split(self.conv(seen, 2 * filters, 1, 1), 2, axis=3)), axis=0)
        return (streams * mixing).sum(0)

    def block(self, x: jax.Array, filters: int, stride: int, projects: bool) -> jax.Array:
        shortcut = x
        if projects and self.sk_ratio:
            ones = jnp.ones_like(x)
            pooled, counted = (
                lax.reduce_window(
                    jnp.pad(v, ((0, 0), (0, 1), (0, 1), (0, 0))),
                    0.0,
                    lax.add,
                    (1, 2, 2, 1),
                    (1, stride, stride, 1),
                    'VALID',
                )
                for v in (x, ones)
            )
            shortcut = self.conv(pooled / (counted if stride == 1 else 4), 4 * filters, 1, 1)
        elif projects:
            shortcut = self.conv(x, 4 * filters, 1, stride)
        shortcut = self.norm(shortcut, relu=False) if projects else shortcut
        y = self.norm(self.conv(x, filters, 1, 1))
        y = self.selective(y, filters, stride) if self.sk_ratio else self.norm(self.conv(y, filters, 3, stride))
        y = self.norm(self.conv(y, 4 * filters, 1, 1), relu=False)
        return jax.nn.relu(y + shortcut)

    def __call__(self, x: Any, cifar_stem: bool = False) -> jax.Array:
        if cifar_stem:
            x = self.norm(self.conv(x, self.width, 3, 1))
        else:
            if self.sk_ratio:
                x = self.norm(self.conv(x, self.width // 2, 3, 2))
                x = self.norm(self.conv(x, self.width // 2, 3, 1))
                x = self.conv(x, self.width, 3, 1)
            else:
                x = self.conv(x, self.width, 7, 2)
            x = lax.reduce_window(self.norm(x), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME')
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                stride = 2 if i == 0 and stage > 0 else 1
                x = self.block(x, self.width * 2**stage, stride, projects=i == 0)
        return x.mean((1, 2))


def beside(variables: Arrays) -> Arrays:
    """Adds what checkpoints contain in addition to an encoder: heads, optimizer slots, the step."""
    one = np.ones((4, 4), np.float32)
    heads = {
        f'head_contrastive/nl_{i}/{leaf}': one
        for i in range(2)
        for leaf in ('dense/kernel', 'batch_normalization/gamma')
    }
    heads |= {f'head_supervised/linear_layer/dense/{leaf}': one for leaf in ('kernel', 'bias')}
    slots = {f'{name}/Momentum': x for name, x in variables.items() if 'moving' not in name}
    return {**variables, **heads, **slots, 'global_step': np.array(225206)}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Arrays], Path]:
    """Writes empty files in place of a TensorFlow checkpoint, and returns the arrays when they are read."""

    def write(arrays: Arrays) -> Path:
        monkeypatch.setattr(tensorflow_files, 'read', lambda _: (sorted(arrays), arrays.__getitem__))
        for end in ('index', 'meta', 'data-00000-of-00001'):
            (tmp_path / f'model.ckpt-225206.{end}').write_bytes(b'x')
        return tmp_path / 'model.ckpt-225206'

    return write


GRAPHS: dict[str, tuple[dict[str, Any], bool, dict[str, Any]]] = {
    'v1': ({}, False, {'name': 'resnet50', 'stage_sizes': [1, 2, 1, 1], 'width': 8, 'stem': 'imagenet'}),
    'cifar': ({'blocks': (2, 1)}, True, {'name': 'resnet50', 'stage_sizes': [2, 1], 'width': 8, 'stem': 'cifar'}),
    'v2, sk': (
        {'sk_ratio': 0.0625, 'blocks': (1, 2)}, False,
        {'name': 'resnet50', 'stage_sizes': [1, 2], 'width': 8, 'stem': 'imagenet', 'sk_ratio': 0.0625},
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', GRAPHS)
def test_features(checkpoint: Callable[[Arrays], Path], name: str) -> None:
    fields, cifar_stem, config = GRAPHS[name]
    graph = Graph(**fields)
    x = np.random.default_rng(1).uniform(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    expected = graph(x, cifar_stem)
    said: list[str] = []
    made = pretrained.load(checkpoint(beside(graph.variables)), say=said.append)
    assert said[0] == 'format: SimCLR (form=simclr), names base_model/*'
    assert any(line.startswith('skipped, not of the encoder: base_model/batch_norm') for line in said)
    assert made.architecture == {**config, 'padding': 'simclr', 'bn_unbiased': False}
    assert pixels.fields(made.policy) == pixels.fields(build_policy(train_steps.load('simclrv2')))
    assert sum(np.size(v) for v in graph.variables.values()) == sum(v.size for v in made.flat.values())
    with jax.default_matmul_precision('highest'):
        h = jax.jit(lambda v: made.module.apply(v, x, train=False))(made.variables)
    goldens.assert_close(h, expected, 1e-4)
    assert np.std(np.asarray(h), axis=0).max() > 1e-3


def test_a_file_or_the_folder_of_a_checkpoint(checkpoint: Callable[[Arrays], Path], tmp_path: Path) -> None:
    graph = Graph(blocks=(1,))
    graph(np.zeros((1, 8, 8, 3), np.float32))
    path = checkpoint(graph.variables)
    for given in (
        path,
        path.with_name(f'{path.name}.index'),
        path.with_name(f'{path.name}.data-00000-of-00001'),
        tmp_path,
    ):
        assert pretrained.load(given).architecture['stage_sizes'] == [1]
    (tmp_path / 'model.ckpt-3.index').touch()
    with pytest.raises(UserError, match=r'contains 2 checkpoints of TensorFlow -> give one of them, e\.g\. .*\.index'):
        pretrained.load(tmp_path)


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'base_model/conv2d_3/kernel': None}, r'conv2d_3/kernel is missing'),
        ({'base_model/conv2d/kernel': np.ones((5, 5, 3, 8))}, 'with kernel sizes 51131, do not form a ResNet'),
        ({'base_model/conv2d_4/kernel': np.ones((1, 1, 8, 9))}, r'conv3/kernel has shape \[1, 1, 8, 9\] instead of'),
        ({'base_model/batch_normalization_2/gamma': None}, r'layer1_0/bn1/scale \[8\] is missing'),
        ({'base_model/batch_normalization_9/gamma': np.ones(3)}, r'batch_normalization_9/gamma \[3\] is unexpected'),
        ({'base_model/dense/kernel': np.ones(3)}, r'dense/kernel \[3\] is unexpected'),
        ({'other/conv2d/kernel': np.ones(3)}, 'names that simclr checkpoints do not have: other/conv2d/kernel'),
    ],
)  # fmt: skip
def test_every_name_is_accounted_for(
    checkpoint: Callable[[Arrays], Path], change: dict[str, np.ndarray | None], line: str
) -> None:
    graph = Graph(blocks=(1,))
    graph(np.zeros((1, 8, 8, 3), np.float32))
    held = {name: x for name, x in {**graph.variables, **change}.items() if x is not None}
    with pytest.raises(UserError, match=line):
        pretrained.load(checkpoint(held))


@pytest.mark.parametrize(
    ('config', 'blocks'),
    [
        ({'name': 'resnet50', 'width': 4}, (3, 4, 6, 3)),
        ({'name': 'resnet152', 'width': 12, 'sk_ratio': 0.0625}, (3, 8, 36, 3)),
    ],
)
def test_the_published_depths(config: dict[str, Any], blocks: tuple[int, ...]) -> None:
    graph = Graph(sk_ratio=config.get('sk_ratio', 0.0), width=config['width'], blocks=blocks)
    jax.eval_shape(lambda: graph(jnp.zeros((1, 32, 32, 3))))
    found = simclr_names.from_simclr({name.removeprefix('base_model/'): x for name, x in graph.variables.items()})
    assert architecture.describe(found, '') == {**config, 'stem': 'imagenet'}
    sizes = shapes({**config, 'padding': 'simclr'}, 32)
    ours = {theirs: path for path, theirs in names.torch_names(sizes).items()}
    assert {ours[name]: names.from_torch(ours[name], x).shape for name, x in found.items()} == sizes


# ================================ TensorFlow ================================


def test_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'model.ckpt-1.index').write_bytes(b'x')
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(UserError, match=r'is a checkpoint of TensorFlow.* -> pip install tensorflow'):
        pretrained.load(tmp_path / 'model.ckpt-1')


def test_part_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / 'model.ckpt-1.data-00000-of-00001').write_bytes(b'x')
    with pytest.raises(UserError, match=r'model\.ckpt-1\.index is missing beside it'):
        pretrained.load(tmp_path / 'model.ckpt-1.data-00000-of-00001')
    (tmp_path / 'saved_model.pb').write_bytes(b'x')
    with pytest.raises(UserError, match=r'is a SavedModel of TensorFlow, which cannot be read -> give the checkpoint'):
        pretrained.load(tmp_path)


def test_checkpoints_that_tensorflow_writes(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip('tensorflow')

    def write(arrays: Arrays) -> Path:
        path = tmp_path / 'model.ckpt-7'
        tensorflow.raw_ops.SaveV2(
            prefix=str(path), tensor_names=list(arrays), shape_and_slices=[''] * len(arrays),
            tensors=[tensorflow.constant(x) for x in arrays.values()],
        )  # fmt: skip
        return next(tmp_path.glob('model.ckpt-7*.index'))

    graph = Graph(blocks=(1,))
    graph(np.zeros((1, 8, 8, 3), np.float32))
    path = write(beside(graph.variables))
    made = pretrained.load(path)
    kernel = graph.variables['base_model/conv2d/kernel']
    np.testing.assert_array_equal(made.variables['params']['conv1']['kernel'], kernel)
    next(tmp_path.glob('*.data*')).write_bytes(b'')
    with pytest.raises(UserError, match='is damaged'):
        pretrained.load(path)
    with pytest.raises(UserError, match='names are those of TensorFlow 2'):
        pretrained.load(write({'model/conv2d/kernel/.ATTRIBUTES/VARIABLE_VALUE': kernel}))
