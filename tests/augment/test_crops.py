"""Boxes against the official code written out in slow steps, on the same random numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.augment import crops
from contrastive_jax.augment.styles import STYLES

RATIO = (3 / 4, 4 / 3)
SIZES = ((224, 224), (375, 500), (500, 375), (32, 32), (40, 200), (300, 20), (3, 5), (1, 1))


def simclr_by_hand(u, height, width, scale, ratio):
    """`sample_distorted_bounding_box` around the whole image with min_object_covered=0.1, as SimCLR calls it."""
    smallest, largest = scale[0] * height * width, scale[1] * height * width
    for tall, aspect, down, right in zip(*u, strict=True):
        aspect = ratio[0] + (ratio[1] - ratio[0]) * aspect
        low, high = round(math.sqrt(smallest / aspect)), round(math.sqrt(largest / aspect))
        while round(high * aspect) > width:
            high -= 1
        high = min(high, height)
        low = min(low, high)
        h = low + int(tall * (high - low + 1))
        if h * round(h * aspect) < smallest:
            h += 1
        if h * round(h * aspect) > largest:
            h -= 1
        w = round(h * aspect)
        if smallest <= h * w <= largest and 0 < h <= height and 0 < w <= width and h * w >= 0.1 * height * width:
            top = int(down * (height - h)) if h < height else 0
            left = int(right * (width - w)) if w < width else 0
            return top, left, h, w
    return 0, 0, height, width


def byol_by_hand(u, height, width, scale, ratio):
    area, aspect, down, right = (x[0] for x in u)
    area = (scale[0] + (scale[1] - scale[0]) * area) * height * width
    aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
    w = max(1, min(round(math.sqrt(area * aspect)), width))
    h = max(1, min(round(math.sqrt(area / aspect)), height))
    return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w


@pytest.mark.parametrize('style, by_hand', [('simclr', simclr_by_hand), ('byol', byol_by_hand)])
@pytest.mark.parametrize('scale', [(0.08, 1.0), (0.2, 0.5)])
def test_boxes_are_those_of_the_official_code(style, by_hand, scale):
    style, rng = STYLES[style], np.random.default_rng(0)
    with jax.enable_x64(True):
        on_device = jax.jit(
            lambda u, height, width: jax.vmap(lambda u: style.box(u, height, width, scale, RATIO, jnp))(u),
            static_argnums=(1, 2),
        )
        for height, width in SIZES:
            numbers = rng.random((100, 4, min(style.attempts, 20)))
            device = np.asarray(on_device(numbers, height, width))
            for u, box in zip(numbers, device, strict=True):
                expected = by_hand(u, height, width, scale, RATIO)
                np.testing.assert_array_equal(box, expected)
                np.testing.assert_array_equal(style.box(u, height, width, scale, RATIO, np), expected)


def test_simclrs_distribution_is_not_torchvisions():
    """Aspect uniform, height uniform given the aspect, nothing below a tenth of the image, never the last row."""
    numbers = np.random.default_rng(0).random((4000, 4, 20))
    boxes = np.stack([crops.tensorflow_box(u, 1000, 1000, (0.08, 1.0), RATIO, np) for u in numbers])
    top, left, h, w = boxes.T
    area, aspect = h * w / 1e6, w / h
    assert area.min() >= 0.1 and area.max() <= 1
    assert ((top + h < 1000) | (h == 1000)).all() and ((left + w < 1000) | (w == 1000)).all()
    # At an aspect of 1 the side is uniform in [sqrt(0.1), 1].
    side = np.sqrt(area[np.abs(aspect - 1) < 0.02])
    np.testing.assert_allclose(np.quantile(side, [0.25, 0.5, 0.75]), 0.316 + 0.684 * np.r_[0.25, 0.5, 0.75], atol=0.05)
    # Nor do the rare rejections bend the aspect.
    np.testing.assert_allclose(np.quantile(aspect, [0.25, 0.5, 0.75]), 0.75 + 0.583 * np.r_[0.25, 0.5, 0.75], atol=0.03)
    assert np.median(area) < 0.45  # torchvision's: 0.54


def test_the_whole_image_if_nothing_fits():
    """A strip so long that no box of it covers a tenth."""
    u = np.random.default_rng(0).random((4, 100))
    np.testing.assert_array_equal(crops.tensorflow_box(u, 4, 100, (0.08, 1.0), RATIO, np), (0, 0, 4, 100))
