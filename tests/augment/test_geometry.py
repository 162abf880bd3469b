"""Crops, resizes and blurs against PIL's and torchvision's results, and the distribution of crop boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from contrastive_jax.augment import geometry
from tests import goldens
from tests.augment import golden_ops


@pytest.mark.parametrize('case, op', golden_ops.parameters('hflip', 'blur', 'resized_crop', 'center_crop'))
def test_golden(case, op):
    with jax.enable_x64(True):
        x = golden_ops.image(case)
        golden_ops.check(case, op, golden_ops.apply(case, op, x))


def rounded_by_pil(op):
    """Bicubic is left to the test against PIL below: there it matters which of the passes is clipped first."""
    return 'ideal_diff' in op and op['interpolation'] == 'bilinear'


@pytest.mark.parametrize('case, op', [p for p in golden_ops.parameters('resized_crop') if rounded_by_pil(p.values[1])])
def test_golden_whole_levels(case, op):
    """Rounding after each pass, as PIL does, leaves at most the last level, in float32 too."""
    expected = case.key(op['key']).astype(int)
    actual = golden_ops.apply(case, op, jnp.asarray(case.key(case.fields['input'])), whole_levels=True)
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, np.round(actual))
    assert np.abs(actual - expected).max() <= op.get('tolerance', case.tolerances)['uint8']


def test_crops_of_a_batch_are_pils():
    """Boxes of many shapes in one call, enlarged and reduced, against PIL itself, made to begin with the columns."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 37, 45, 3), np.uint8)
    boxes = np.array([[0, 0, 37, 45], [3, 5, 1, 1], [36, 0, 1, 45], [10, 20, 14, 7], [0, 44, 37, 1], [5, 5, 30, 33]])
    for interpolation, resample in (
        ('bilinear', Image.Resampling.BILINEAR),
        ('bicubic', Image.Resampling.BICUBIC),
    ):
        actual = golden_ops.resized_crop(jnp.asarray(images), boxes, (14, 11), interpolation, True, -0.5, True)
        for image, (top, left, height, width), crop in zip(images, boxes, actual, strict=True):
            region = Image.fromarray(image[top : top + height, left : left + width])
            expected = np.asarray(region.resize((11, height), resample).resize((11, 14), resample), int)
            assert np.abs(crop - expected).max() <= 1
            assert (crop != expected).mean() < 0.02


@pytest.mark.parametrize('antialias', [True, False])
@pytest.mark.parametrize('interpolation', geometry.INTERPOLATIONS)
def test_crop_to_its_own_size_is_a_slice(interpolation, antialias):
    x = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    crop = golden_ops.resized_crop(x, np.array([0, 0, 12, 9]), (12, 9), interpolation, antialias)
    np.testing.assert_array_equal(crop, x)
    crop = golden_ops.resized_crop(x, np.array([2, 3, 7, 5]), (7, 5), interpolation, antialias)
    np.testing.assert_array_equal(crop, x[2:9, 3:8])


def test_pixels_outside_the_box_take_no_part():
    x = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
    outside = np.full_like(x, 1e6)
    outside[4:10, 5:13] = x[4:10, 5:13]
    for antialias in (True, False):
        for size in ((3, 4), (11, 20)):
            crops = [
                golden_ops.resized_crop(jnp.asarray(y), jnp.array([4, 5, 6, 8]), size, 'bicubic', antialias)
                for y in (x, outside)
            ]
            np.testing.assert_array_equal(*crops)


def test_blur_is_a_gaussian_filter():
    """Against scipy, each image with its own width; rows and columns differ in number."""
    x = np.random.default_rng(0).uniform(size=(2, 21, 13, 3))
    modes = {'edge': 'nearest', 'reflect': 'mirror', 'zero': 'constant'}
    sigma = np.array([0.6, 1.9])
    with jax.enable_x64(True):
        for padding, mode in modes.items():
            actual = golden_ops.blur(x, sigma, 9, padding)
            for image, s, blurred in zip(x, sigma, actual, strict=True):
                expected = ndimage.gaussian_filter(image, s, mode=mode, axes=(0, 1), radius=4)
                np.testing.assert_allclose(blurred, expected, atol=1e-12)


def test_blur_of_a_constant_and_of_no_width():
    constant = jnp.full((1, 8, 8, 3), 0.3)
    np.testing.assert_allclose(golden_ops.blur(constant, 2.0), constant, atol=1e-6)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 3)), jnp.float32)
    np.testing.assert_allclose(golden_ops.blur(x, 0.05), x, atol=1e-6)


def draw_boxes(draws, *settings, **more):
    keys = jax.random.split(jax.random.key(0), draws)
    boxes = jax.jit(jax.vmap(lambda key: geometry.random_resized_crop_box(key, *settings, **more)))(keys)
    return np.asarray(boxes, np.float64).T


def assert_quantiles(sample, levels, expected, tolerance):
    """The expected quantile lies within the tolerance of ours, at a level that chance may have moved.

    Sides are whole numbers, so a quantile may jump far between two neighbouring levels; each level is known to
    sqrt(p (1 - p) / n), here for two samples and three deviations.
    """
    slack = 3 * np.sqrt(2 * levels * (1 - levels) / len(sample)) + 2 / len(sample)
    low = np.quantile(sample, np.maximum(0, levels - slack)) - tolerance
    high = np.quantile(sample, np.minimum(1, levels + slack)) + tolerance
    assert np.all((low <= expected) & (expected <= high)), (low, expected, high)


@pytest.mark.parametrize('case', goldens.cases('crop_statistics', 'random_resized_crop'))
def test_golden_crop_statistics(case):
    fields, tolerance = case.fields, case.fields['tolerance']
    height, width = fields['height'], fields['width']
    settings = (height, width, fields['scale'], fields['ratio'], fields['attempts'])
    top, left, h, w = draw_boxes(fields['draws'], *settings)
    assert np.all((h >= 1) & (w >= 1) & (top >= 0) & (left >= 0) & (top + h <= height) & (left + w <= width))
    levels, area = case.key(fields['quantile_levels']), h * w / (height * width)
    assert_quantiles(area, levels, case['area_q'], tolerance['area_quantile'])
    assert_quantiles(np.log(w / h), levels, case['logratio_q'], tolerance['log_ratio_quantile'])
    fraction = top / np.maximum(height - h, 1)
    for values, expected in ((fraction, case['top_frac_mean_std']), (area, case['mean_area_std'])):
        slack = goldens.or_chance(tolerance['mean'], expected[1], fields['draws'], len(values))
        np.testing.assert_allclose([values.mean(), values.std()], expected, atol=slack)


@pytest.mark.parametrize(
    'height, width, expected',
    [
        (100, 10, (43, 0, 13, 10)),  # too narrow: the whole width, and the height of the least ratio
        (10, 100, (0, 43, 10, 13)),  # too wide
        (20, 20, (0, 0, 20, 20)),  # the ratio is allowed: everything
    ],
)
def test_fallback_is_the_central_box(height, width, expected):
    # An area of ten images never fits.
    boxes = draw_boxes(4, height, width, (10.0, 10.0), (0.75, 4 / 3), attempts=1)
    np.testing.assert_array_equal(boxes.T, [expected] * 4)


def test_hflip():
    x = np.arange(12).reshape(2, 2, 3)
    np.testing.assert_array_equal(geometry.hflip(x), x[:, ::-1])


def test_warp_is_an_affine_transform():
    """Against scipy, each image with its own angle and shear; rows and columns differ in number."""
    x = np.random.default_rng(0).uniform(size=(3, 7, 6, 3))
    angle, down, right = np.array([0.4, 0.0, -1.2]), np.array([0.1, 0.0, -0.3]), np.array([0.0, 0.25, 0.2])
    with jax.enable_x64(True):
        actual = jax.jit(functools.partial(geometry.warp, fill=0.5))(x, angle, down, right)
    center = np.array([3.0, 2.5])
    for image, a, d, r, warped in zip(x, angle, down, right, actual, strict=True):
        matrix = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ np.array([[1, d], [r, 1]])
        for plane in range(3):
            expected = ndimage.affine_transform(
                image[..., plane], matrix, center - matrix @ center, order=1, mode='grid-constant', cval=0.5
            )
            np.testing.assert_allclose(warped[..., plane], expected, atol=1e-12)
