"""CPC's networks: patches and their places, what an encoder and a context have seen, and sizes of the papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models import ContextNetwork, build_encoder
from contrastive_jax.models.cpc import CPC_ENCODERS, cut_patches

SMALL = {'name': 'cpc_tiny', 'stem': 'cifar', 'patch_size': 4, 'patch_stride': 2, 'stage_sizes': [1, 1, 1]}


@functools.cache
def encoder(**fields):
    return build_encoder({**SMALL, 'bottlenecks': (2, 2, 2), 'channels': (4, 4, 8), **fields}, dtype='float32')


@functools.cache
def variables(**fields):
    return jax.jit(lambda: encoder(**fields).init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)), train=True))()


@pytest.mark.parametrize(
    ('image', 'size', 'stride', 'rows'),
    [(260, 80, 36, 6), (256, 64, 32, 7), (32, 8, 4, 7), (64, 16, 8, 7), (8, 4, 2, 3), (8, 8, 1, 1)],
)
def test_grids_of_the_papers(image, size, stride, rows):
    x = jnp.arange(image * image, dtype=jnp.float32).reshape(1, image, image, 1)
    patches = jax.jit(cut_patches, static_argnums=(1, 2))(x, size, stride)
    assert patches.shape == (1, rows, rows, size, size, 1)
    for i, j in ((0, 0), (rows - 1, 0), (rows // 2, rows - 1)):
        expected = x[0, i * stride : i * stride + size, j * stride : j * stride + size]
        np.testing.assert_array_equal(patches[0, i, j], expected)


def test_an_image_that_is_not_of_one_height_and_width():
    assert jax.eval_shape(lambda: cut_patches(jnp.zeros((2, 8, 12, 3)), 4, 2)).shape == (2, 3, 5, 4, 4, 3)


@pytest.mark.parametrize(
    ('image', 'size', 'stride', 'nearest'), [(9, 4, 2, (8, 10)), (200, 80, 36, (188, 224)), (3, 4, 2, (4, 6))]
)
def test_the_nearest_sizes_are_named(image, size, stride, nearest):
    with pytest.raises(ValueError, match=f'image size {image} is not filled by patches') as error:
        cut_patches(jnp.zeros((1, image, image, 3)), size, stride)
    assert str(error.value).endswith(f'use {nearest[0]} or {nearest[1]}')
    for proposed in nearest:
        jax.eval_shape(lambda n=proposed: cut_patches(jnp.zeros((1, n, n, 3)), size, stride))


def test_images_and_their_patches_give_the_same(rng):
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    params = variables()
    of_images, of_patches, h = jax.jit(
        lambda x: (
            encoder().apply(params, x, train=True, method='grid'),
            encoder().apply(params, cut_patches(x, 4, 2), train=True, method='grid'),
            encoder().apply(params, x, train=False),
        )
    )(x)
    assert of_images.shape == (2, 3, 3, 8) and h.shape == (2, 8)
    np.testing.assert_array_equal(of_patches, of_images)
    np.testing.assert_allclose(h, of_images.mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize('norm', ['layer', 'none'])
def test_a_latent_has_seen_its_own_patch_alone(norm, rng):
    """No norm carries anything from patch to patch, or from image to image."""
    patches = jnp.asarray(rng.normal(size=(2, 2, 3, 4, 4, 3)), jnp.float32)
    params = jax.tree.map(lambda p: p + 0.1, variables(norm=norm))  # gains that start at 0 would hide the blocks

    def latent(x):
        return encoder(norm=norm).apply(params, x, train=True, method='grid')[1, 0, 2]

    seen = np.any(jax.jit(jax.jacrev(latent))(patches), axis=(0, -3, -2, -1))  # [2, 2, 3]
    assert seen[1, 0, 2] and seen.sum() == 1


def test_without_norm_a_block_starts_at_the_identity():
    params = variables(norm='none')['params']
    assert not any('norm' in name for block in params.values() for name in block)
    assert float(params['layer2_0']['gain']) == 0


def test_remat_changes_no_number(rng):
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 3)), jnp.float32)

    def gradient(remat):
        loss = lambda params: jnp.sum(encoder(remat=remat).apply(params, x, train=True) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(variables())

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient(False), gradient(True))


def test_bfloat16_computes_and_float32_comes_out():
    half = build_encoder({**SMALL, 'bottlenecks': (2, 2, 2), 'channels': (4, 4, 8)}, dtype='bfloat16')
    params = variables()
    h = jax.eval_shape(lambda: half.apply(params, jnp.zeros((1, 8, 8, 3)), train=True))
    assert h.dtype == np.float32
    context = ContextNetwork(1, 4, jnp.bfloat16)
    c = jax.eval_shape(lambda: context.init_with_output(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))[0])
    assert c.dtype == np.float32


@pytest.mark.parametrize(
    ('name', 'stem', 'size', 'dim', 'millions'),
    [
        ('cpc_resnet161', 'imagenet', 80, 4096, 304),  # v2's own count: 305
        ('cpc_resnet50', 'imagenet', 80, 2048, 23.5),  # and 24
        ('cpc_resnet101', 'imagenet', 64, 1024, 27.5),
        ('cpc_small', 'cifar', 8, 1024, 3.4),
        ('cpc_tiny', 'cifar', 4, 256, 0.124),
    ],
)
def test_sizes(name, stem, size, dim, millions):
    module = build_encoder({'name': name, 'stem': stem, 'patch_size': size, 'patch_stride': size}, dtype='float32')
    h, shapes = jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), jnp.zeros((1, 2 * size, size, 3)), train=True)
    )
    assert h.shape == (1, dim)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == pytest.approx(1e6 * millions, rel=0.02)
    assert name in CPC_ENCODERS


def test_unknown_stems_and_norms():
    image = jnp.zeros((1, 8, 8, 3))
    for fields, line in (({'stem': 'cifr'}, "CPC stem 'cifr' is unknown"), ({'norm': 'batch'}, "CPC norm 'batch'")):
        module = encoder(**fields)
        with pytest.raises(ValueError, match=line):
            module.init(jax.random.key(0), image, train=True)


# ================================ context ================================


def test_a_context_has_seen_no_row_below(rng):
    """By gradients: the context of row i depends on rows 0 ... i, within reach, and on no row below."""
    blocks, R, C = 2, 5, 6
    network = ContextNetwork(blocks, 64)
    z = jnp.asarray(rng.normal(size=(2, R, C, 8)), jnp.float32)
    params = jax.jit(lambda: network.init(jax.random.key(0), z))()

    def contexts(z):
        return network.apply(params, z)[1].sum(-1)  # [R, C]

    seen = np.any(jax.jit(jax.jacrev(contexts))(z), axis=-1)  # [R, C, 2, R, C]
    assert not seen[:, :, 0].any(), 'another image'
    for i in range(R):
        for j in range(C):
            rows, columns = (np.arange(n) for n in (R, C))
            reach = (rows[:, None] <= i) & (rows[:, None] >= i - blocks) & (abs(columns - j) <= blocks)
            np.testing.assert_array_equal(seen[i, j, 1], reach, err_msg=f'{i, j}')
