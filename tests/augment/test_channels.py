"""Views of images with other channels than RGB, and with 16 bits."""

import dataclasses

import jax
import numpy as np
import pytest

from contrastive_jax.augment import color
from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.policy import _DISTORT, Policy, _view_keys
from contrastive_jax.augment.styles import STYLES

C, BATCH = 5, 8
KEYS = jax.random.split(jax.random.key(3), BATCH)
DEEP = np.random.default_rng(0).integers(0, 65536, (BATCH, 6, 7, C), np.uint16)
POLICY = Policy(
    jitter=(0.8, 0.6, 0.0, 0.0),
    grayscale=0.0,
    blur=(0.0,),
    solarize=(0.5,),
    mean=(0.1, 0.2, 0.3, 0.4, 0.5),
    std=(0.5, 0.4, 0.3, 0.2, 0.1),
)


@pytest.mark.parametrize('style', ['pil', 'byol'])
def test_brightness_contrast_and_solarization_in_slow_loops(style: str) -> None:
    policy = dataclasses.replace(POLICY, style=style)
    views = np.asarray(jax.jit(lambda keys, x: policy.distort(keys, x, 0))(KEYS, DEEP))
    draws, (factors, order) = jax.vmap(policy._draw)(_view_keys(KEYS, 0, _DISTORT))
    assert len({tuple(o[o < 2]) for o in np.asarray(order)}) == 2, 'both orders are drawn'
    for i in range(BATCH):
        x = DEEP[i].astype(np.float64) / 65535
        x = x[:, ::-1] if draws.flip[i] < 0.5 else x
        for operation in np.asarray(order)[i]:
            if draws.jitter[i] >= policy.jitter_probability:
                continue
            if operation == 0:
                x = x + factors[i, 0] if STYLES[style].adds_brightness else x * factors[i, 0]
            elif operation == 1:
                for c in range(C):
                    mean = x[..., c].mean()
                    x[..., c] = mean + factors[i, 1] * (x[..., c] - mean)
            x = np.clip(x, 0, 1)
        if draws.solarize[i] < 0.5:
            x = np.where(x < 0.5, x, 1 - x)
        np.testing.assert_allclose(views[i], (x - np.array(policy.mean)) / np.array(policy.std), atol=2e-5)


@pytest.mark.parametrize('style', ['pil', 'byol'])
def test_sixteen_bits_reach_the_network(style: str) -> None:
    """Levels times 257 give the view of the 8-bit image but for Pillow's rounding; a bit in the last place is seen."""
    policy = dataclasses.replace(POLICY, style=style, jitter_probability=0.0)
    view = jax.jit(lambda x: policy(KEYS, x, 0, 5))
    small = np.uint8(DEEP >> 8)
    twice = view(small), view(small.astype(np.uint16) * 257)
    np.testing.assert_allclose(*(x * np.array(policy.std) * 255 for x in twice), atol=1.01 if style == 'pil' else 1e-3)
    x = policy.normalize(np.array([[0, 1, 40000, 40001, 65535]], np.uint16))
    np.testing.assert_allclose(policy.denormalize(x)[0] * 65535, [0, 1, 40000, 40001, 65535], atol=0.02)


def test_patches_of_many_channels() -> None:
    patches = Patches(size=4, stride=2, crop=3, flip=0.5, warp=0.5, jitter=(0.4, 0.4, 0.0, 0.0))
    x = jax.jit(patches)(KEYS, np.float32(DEEP / 65535)[:, :, :6])
    assert x.shape == (BATCH, 2, 2, 4, 4, C)


def test_pictures_show_three_channels_or_one_as_gray() -> None:
    image = np.broadcast_to(np.array(POLICY.mean) + 2.5 * np.array(POLICY.std) * [1, 0, -1, 9, 9], (2, 2, C))
    shown = np.asarray(POLICY.to_rgb((image - np.array(POLICY.mean)) / np.array(POLICY.std)))
    np.testing.assert_allclose(shown, np.broadcast_to([1, 0.5, 0], (2, 2, 3)), atol=1e-6)
    two = Policy(mean=(0.5, 0.5), std=(0.1, 0.1))
    np.testing.assert_allclose(two.to_rgb(np.array([[0.0, 9.0]])), [[0.5, 0.5, 0.5]])
    assert (POLICY.shown_channels, two.shown_channels, Policy().shown_channels) == (
        'channels 1 to 3 of 5',
        'channel 1 of 2',
        '',
    )


def test_operations_of_rgb_refuse_other_channels() -> None:
    with pytest.raises(AssertionError, match='5 channels are not RGB'):
        color.grayscale(np.zeros((1, 2, 2, C), np.float32))
    found = dataclasses.replace(POLICY, std=(0.1,), color_space='lab').problems()
    assert [problem.field for problem in found][-2:] == ['augment.std', 'augment.color_space']
