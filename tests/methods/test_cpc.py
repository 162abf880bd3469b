"""CPC as a method: directions, the sum of its losses, and images or patches as input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.losses.cpc import DIRECTIONS, cpc_grid, rotate_to_direction
from contrastive_jax.methods import CPC
from contrastive_jax.models import network
from contrastive_jax.models.cpc import cut_patches

ENCODER = {
    'name': 'cpc_tiny', 'stem': 'cifar', 'patch_size': 4, 'patch_stride': 2, 'stage_sizes': (1, 1),
    'bottlenecks': (2, 2), 'channels': (4, 8),
}  # fmt: skip
SETTINGS = {'offsets': (1, 2), 'scale': 0.5, 'context_blocks': 1, 'context_dim': 8}
B = 4


@functools.cache
def method(*directions: str) -> CPC:
    projector = {'num_layers': 1, 'hidden_dim': 1, 'output_dim': 5, 'bias': True, 'batch_norm': False}
    return CPC(network.build(ENCODER, projector), directions=directions, **SETTINGS)


@functools.cache
def start():
    batch = {'views': (jnp.zeros((B, 8, 8, 3)),)}
    return jax.jit(lambda: method(*DIRECTIONS).init(jax.random.key(0), batch))()


@functools.cache
def loss_of(*directions: str):
    @jax.jit
    def run(params, state, x):
        return method(*directions).loss(params, state, {'views': (x,)}, rng=jax.random.key(0), progress=0.0)

    return run


@pytest.fixture
def patches(rng) -> jax.Array:
    return jnp.asarray(rng.normal(size=(B, 3, 3, 4, 4, 3)), jnp.float32)


def test_all_directions_are_summed(patches):
    params, state = start()
    total, (after, metrics) = loss_of(*DIRECTIONS)(params, state, patches)
    each = [loss_of(direction)(params, state, patches) for direction in DIRECTIONS]
    np.testing.assert_allclose(total, sum(loss for loss, _ in each), rtol=1e-5)
    top1 = np.mean([metrics['contrastive_top1'] for _, (_, metrics) in each])
    np.testing.assert_allclose(metrics['contrastive_top1'], top1, rtol=1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for part in ('context', 'predict'):
        assert set(params[part]) == set(DIRECTIONS), 'each direction has its own'


@pytest.mark.parametrize('direction', DIRECTIONS[1:])
def test_a_direction_is_down_in_a_rotated_grid(direction, patches):
    """The positions of the patches are rotated, their pixels are not."""
    params, state = start()
    as_down = {**params, **{part: {'down': params[part][direction]} for part in ('context', 'predict')}}
    loss, _ = loss_of(direction)(params, state, patches)
    down, _ = loss_of('down')(as_down, state, rotate_to_direction(patches, direction))
    np.testing.assert_allclose(loss, down, rtol=1e-5)


def test_it_is_the_loss_of_its_parts(patches):
    m = method('down')
    params, state = start()

    def by_parts(params):
        z = m.network.encoder.apply({'params': params['encoder']}, patches, train=True, method='grid')
        c = m.context.apply({'params': params['context']['down']}, z)
        kernel, bias = (params['projector']['linear_0'][name] for name in ('kernel', 'bias'))
        return jnp.sum(cpc_grid(c, z @ kernel + bias, params['predict']['down'], offsets=(1, 2), scale=0.5))

    loss, gradient = jax.jit(jax.value_and_grad(lambda p: loss_of('down')(p, state, patches)[0]))(params)
    expected_loss, expected = jax.jit(jax.value_and_grad(by_parts))(params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, expected)
    for part in ('encoder', 'projector', 'context', 'predict'):
        assert any(np.any(g) for g in jax.tree.leaves(gradient[part])), part


def test_images_are_cut_as_their_patches(rng):
    """The encoder gets the same patches in evaluation as in training."""
    images = jnp.asarray(rng.normal(size=(B, 8, 8, 3)), jnp.float32)
    params, state = start()
    whole, _ = loss_of('down')(params, state, images)
    cut, _ = loss_of('down')(params, state, cut_patches(images, 4, 2))
    np.testing.assert_allclose(whole, cut, rtol=1e-6)


def test_chunks_change_no_number(patches):
    whole = method('down')
    chunked = dataclasses.replace(whole, network=whole.network.clone(chunks=2))
    params, state = start()

    def run(m):
        loss = lambda p: m.loss(p, state, {'views': (patches,)}, rng=None, progress=0.0)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), run(chunked), run(whole))
