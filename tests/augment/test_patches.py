"""Patches: each operation by itself, and randomness by example and patch alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.augment.patches import Patches, keep_channel
from contrastive_jax.augment.policy import Policy
from contrastive_jax.models.cpc import cut_patches

PLAIN = Patches(size=6, stride=3)  # only cut
ALL = Patches(
    size=6,
    stride=3,
    crop=5,
    flip=0.5,
    warp=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.5,
    grayscale=0.3,
    color_drop=0.3,
)
B = 4
KEYS = jax.random.split(jax.random.key(5), B)


@pytest.fixture
def images(rng) -> jax.Array:
    return jnp.asarray(rng.uniform(0.1, 0.9, (B, 12, 12, 3)), jnp.float32)


@functools.cache
def cut(patches: Patches):
    return jax.jit(patches)


def test_nothing_but_cutting(images):
    np.testing.assert_array_equal(cut(PLAIN)(KEYS, images), cut_patches(images, 6, 3))


def test_all_at_once_stays_an_image(images):
    x = cut(ALL)(KEYS, images)
    assert x.shape == (B, 3, 3, 6, 6, 3) and x.dtype == np.float32
    assert np.all((x >= 0) & (x <= 1))


def test_an_example_is_the_same_in_any_batch(images):
    whole = cut(ALL)(KEYS, images)
    np.testing.assert_allclose(cut(ALL)(KEYS[2:], images[2:]), whole[2:], atol=1e-6)


def test_every_patch_and_every_example_has_its_own(images):
    same = jnp.broadcast_to(images[:1, :1, :1], images.shape)  # one color: all patches alike
    x = cut(dataclasses.replace(PLAIN, jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=1.0))(KEYS, same)
    colors = np.asarray(x[..., 0, 0, :]).reshape(-1, 3)
    assert len(np.unique(colors.round(5), axis=0)) == len(colors)


def test_a_view_of_a_policy_is_its_patches(rng):
    """The same view, cut; from a config, whose section is a mapping."""
    images = jnp.asarray(rng.integers(0, 256, (B, 12, 12, 3)), jnp.uint8)
    whole = Policy(blur=(0.0, 0.0))
    policy = Policy(blur=(0.0, 0.0), patches={'size': 6, 'stride': 3, 'jitter': [0, 0, 0, 0]})
    assert policy.patches == PLAIN and hash(policy) == hash(dataclasses.replace(whole, patches=PLAIN))
    x = jax.jit(lambda keys, images: policy(keys, images, 1, 12))(KEYS, images)
    expected = jax.jit(lambda keys, images: whole(keys, images, 1, 12))(KEYS, images)
    np.testing.assert_allclose(x, cut_patches(expected, 6, 3), atol=1e-5)


# ================================ operations ================================


def test_crop_keeps_a_square_in_the_middle_of_black(images):
    patches = cut_patches(images, 6, 3)
    x = np.asarray(cut(dataclasses.replace(PLAIN, crop=4))(KEYS, images))
    assert not x[..., 0, :, :].any() and not x[..., -1, :, :].any() and not x[..., :, -1, :].any()
    places = set()
    for new, old in zip(x.reshape(-1, 6, 6, 3), np.asarray(patches).reshape(-1, 6, 6, 3), strict=True):
        found = [(t, s) for t in range(3) for s in range(3) if np.array_equal(new[1:5, 1:5], old[t : t + 4, s : s + 4])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == 9, 'every place occurs'


def places(tile: np.ndarray, patch: np.ndarray) -> list[tuple[int, int]]:
    """Where a square is in a patch, by looking everywhere."""
    p, room = len(tile), len(patch) - len(tile) + 1
    return [(t, s) for t in range(room) for s in range(room) if np.array_equal(tile, patch[t : t + p, s : s + p])]


def test_a_tile_is_a_random_square_of_its_patch(images):
    tiles = np.asarray(cut(dataclasses.replace(PLAIN, tile=4))(KEYS, images))
    assert tiles.shape == (B, 3, 3, 4, 4, 3)
    patches = np.asarray(cut_patches(images, 6, 3)).reshape(-1, 6, 6, 3)
    found = [places(*pair) for pair in zip(tiles.reshape(-1, 4, 4, 3), patches, strict=True)]
    assert all(len(where) == 1 for where in found)
    assert len({where[0] for where in found}) == 9, 'every place occurs'


def test_channels_of_a_tile_are_moved_against_each_other(images):
    """Each by at most one pixel along each axis, within the patch; gray patches stay gray."""
    shifted = dataclasses.replace(PLAIN, tile=4, channel_shift=1)
    tiles = np.asarray(cut(shifted)(KEYS, images)).reshape(-1, 4, 4, 3)
    plain = np.asarray(cut(dataclasses.replace(PLAIN, tile=4))(KEYS, images)).reshape(-1, 4, 4, 3)
    patches = np.asarray(cut_patches(images, 6, 3)).reshape(-1, 6, 6, 3)
    moves = set()
    for tile, before, patch in zip(tiles, plain, patches, strict=True):
        ((top, left),) = places(before, patch)
        for c in range(3):
            ((t, s),) = places(tile[..., c], patch[..., c])
            moves.add((t - top, s - left))
    assert moves == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    gray = jnp.broadcast_to(images[..., :1], images.shape)
    np.testing.assert_array_equal(cut(shifted)(KEYS, gray), cut(dataclasses.replace(PLAIN, tile=4))(KEYS, gray))


def test_flip(images):
    patches = cut_patches(images, 6, 3)
    np.testing.assert_array_equal(cut(dataclasses.replace(PLAIN, flip=1.0))(KEYS, images), patches[..., ::-1, :])
    flipped = np.all(cut(dataclasses.replace(PLAIN, flip=0.5))(KEYS, images) != patches, axis=(-3, -2, -1))
    assert 0.2 < flipped.mean() < 0.8


def test_color_dropping_keeps_one_channel_of_three(images):
    x = images[:3]
    y = np.asarray(keep_channel(x, jnp.array([0.1, 0.5, 0.99])))
    for i in range(3):
        np.testing.assert_array_equal(y[i, ..., i], x[i, ..., i])
        assert np.all(np.delete(y[i], i, axis=-1) == 0.5)


def test_what_is_wrong_is_said():
    wrong = Patches(size=0, crop=7, flip=1.5, shear=1.0, rotation=200.0, jitter=(0.4, 0.4, 0.4, 0.6))
    found = Policy(patches=wrong).problems()
    assert [line.split()[0] for line in found] == [
        f'augment.patches.{name}' for name in ('size', 'flip', 'rotation', 'shear', 'jitter')
    ]
    assert Policy(patches=Patches(size=6, crop=7)).problems() == [
        'augment.patches.crop is 7 -> give at most 6, the size of a patch; 0: the whole patch'
    ]
    assert Policy(patches=Patches(size=6, tile=7)).problems() == [
        'augment.patches.tile is 7 -> give at most 6, the size of a patch; 0: the whole patch'
    ]
    assert Policy(patches=Patches(size=6, channel_shift=1)).problems() == [
        'augment.patches.channel_shift is 1 without tiles -> give augment.patches.tile'
    ]
    assert Policy(patches=ALL).problems() == []
