"""The views of a policy: the order of operations, the randomness, and that neither batch nor devices matter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.augment import color, geometry
from contrastive_jax.augment.policy import _CROP, _DISTORT, Policy, _view_keys
from contrastive_jax.augment.styles import STYLES
from tests.augment import golden_ops

# The recipes of the MoCo papers, section by section of their repositories.
MOCO_V1 = Policy(jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, grayscale_first=True, blur=(0.0, 0.0))
MOCO_V2 = Policy()
MOCO_V3 = Policy(jitter=(0.4, 0.4, 0.2, 0.1), blur=(1.0, 0.1), solarize=(0.0, 0.2))

# Of other libraries: their own crops, jitter and blur.
BYOL = dataclasses.replace(MOCO_V3, style='byol', crop_scale=(0.08, 1.0), interpolation='bicubic')
SIMCLR = Policy(
    style='simclr',
    crop_scale=(0.08, 1.0),
    interpolation='bicubic',
    jitter=(0.8, 0.8, 0.8, 0.2),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
ALL = {'moco_v1': MOCO_V1, 'moco_v2': MOCO_V2, 'moco_v3': MOCO_V3, 'byol': BYOL, 'simclr': SIMCLR}
RECIPES = pytest.mark.parametrize('policy', ALL.values(), ids=ALL)

# Nothing random but the crop, and that only in name: the box is the image.
PLAIN = Policy(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    jitter=(0.0, 0.0, 0.0, 0.0),
    grayscale=0.0,
    blur=(0.0,),
    solarize=(0.0,),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)

BATCH, SIZE = 16, 12
KEYS = jax.random.split(jax.random.key(3), BATCH)


@pytest.fixture(scope='module')
def images() -> np.ndarray:
    """Smooth images, as photographs are, with some noise."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.uniform(size=(BATCH, 5, 4, 3)), np.ones((1, 4, 4, 1)))
    return np.uint8(255 * np.clip(coarse + 0.1 * rng.normal(size=coarse.shape), 0, 1))


@functools.cache
def view(policy: Policy, number: int, size: int = SIZE):
    return jax.jit(lambda keys, images: policy(keys, images, number, size))


@functools.cache
def crop(policy: Policy, number: int, size: int = SIZE):
    return jax.jit(lambda keys, images: policy.crop(keys, images, number, size))


@functools.cache
def distort(policy: Policy, number: int = 0):
    return jax.jit(lambda keys, crops: policy.distort(keys, crops, number))


@RECIPES
def test_the_papers_order(policy, images):
    """Each image alone through the operations in the repositories' order, flip last, with its own draws."""

    def alone(example):
        x, draws, (factors, order) = example
        style = STYLES[policy.style]
        # The images have 20 rows: one pixel to either side.
        blur = (3, 'zero') if style.zero_padded_blur else (17, 'edge')

        def grayscale(x):
            return jnp.where(draws.grayscale < policy.grayscale, color.grayscale(x, style), x)

        x = x / 255
        x = grayscale(x) if policy.grayscale_first else x
        x = jnp.where(draws.jitter < policy.jitter_probability, color.color_jitter(x, factors, order, style), x)
        x = x if policy.grayscale_first else grayscale(x)
        sigma = policy.blur_sigma[0] + draws.sigma * (policy.blur_sigma[1] - policy.blur_sigma[0])
        x = jnp.where(draws.blur < policy.blur[1], geometry.gaussian_blur(x, sigma, *blur), x)
        x = jnp.where(draws.solarize < policy.solarize[1], jnp.where(x < 0.5, x, 1 - x), x)
        x = jnp.where(draws.flip < policy.flip, x[:, ::-1], x)
        return (x - jnp.array(policy.mean)) / jnp.array(policy.std)

    @jax.jit
    def one_by_one(keys, crops):
        return jax.lax.map(alone, (crops, *jax.vmap(policy._draw)(_view_keys(keys, 1, _DISTORT))))

    np.testing.assert_allclose(distort(policy, 1)(KEYS, images), one_by_one(KEYS, images), atol=1e-5)


def test_a_view_is_a_distorted_crop(images):
    expected = distort(MOCO_V3, 1)(KEYS, crop(MOCO_V3, 1)(KEYS, images))
    np.testing.assert_allclose(view(MOCO_V3, 1)(KEYS, images), expected, atol=1e-5)


@pytest.mark.parametrize('policy', [MOCO_V3, BYOL, SIMCLR], ids=['moco_v3', 'byol', 'simclr'])
def test_an_example_is_the_same_in_any_batch(policy, images):
    """Bit for bit in another place of the batch; in a smaller batch XLA compiles other code, with other last bits."""
    augment, pixels = view(policy, 1), np.array(policy.std)
    whole = np.asarray(augment(KEYS, images))
    np.testing.assert_array_equal(augment(KEYS[::-1], images[::-1]), whole[::-1])
    np.testing.assert_allclose(augment(KEYS[5:8], images[5:8]) * pixels, whole[5:8] * pixels, atol=1e-6)
    # Whole gray levels have no last bits.
    cut = crop(policy, 1)
    tolerance = 0 if policy is MOCO_V3 else 1e-3
    np.testing.assert_allclose(cut(KEYS[5:8], images[5:8]), cut(KEYS, images)[5:8], rtol=0, atol=tolerance)


def test_eight_devices_make_the_same_views_as_one(images):
    sharded = jax.shard_map(
        functools.partial(MOCO_V3, view=1, size=SIZE),
        mesh=jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=P('data'),
        out_specs=P('data'),
        check_vma=False,
    )
    pixels = np.array(MOCO_V3.std)
    one = view(MOCO_V3, 1)(KEYS, images)
    np.testing.assert_allclose(jax.jit(sharded)(KEYS, images) * pixels, one * pixels, atol=1e-6)


def test_views_and_examples_differ(images):
    """Two views of the same image for each of many keys: no two are equal, nor are their crops."""
    same = np.repeat(images[:1], BATCH, axis=0)
    for augment in (crop, distort):
        both = np.concatenate([augment(MOCO_V3, number)(KEYS, same) for number in (0, 1)])
        assert len(np.unique(both.reshape(2 * BATCH, -1), axis=0)) == 2 * BATCH


def test_crops_are_whole_gray_levels(images):
    crops = np.asarray(crop(MOCO_V3, 1)(KEYS, images))
    assert crops.dtype == np.float32 and crops.shape == (BATCH, SIZE, SIZE, 3)
    np.testing.assert_array_equal(crops, crops.astype(np.uint8))
    # What came from the host as bytes is distorted alike.
    gray = distort(dataclasses.replace(PLAIN, grayscale=1.0))
    np.testing.assert_array_equal(gray(KEYS, crops.astype(np.uint8)), gray(KEYS, crops))


@pytest.mark.parametrize('policy', [BYOL, SIMCLR], ids=['byol', 'simclr'])
def test_crops_of_other_libraries(policy, images):
    """Their own boxes, one by one; bicubic without antialias, clipped, and not rounded."""
    style = STYLES[policy.style]
    actual = np.asarray(crop(policy, 1)(KEYS, images))
    assert actual.min() >= 0 and actual.max() <= 255 and (actual != np.round(actual)).mean() > 0.5
    for key, image, crop_ in zip(_view_keys(KEYS, 1, _CROP)[:4], images, actual, strict=False):
        u = jax.random.uniform(key, (4, style.attempts), jnp.float32)
        box = style.box(u, *image.shape[:2], policy.crop_scale, policy.crop_ratio, jnp)
        expected = golden_ops.resized_crop(image, box, (SIZE, SIZE), 'bicubic', False, -0.5, False, False)
        np.testing.assert_allclose(crop_, np.clip(expected, 0, 255), atol=1e-3)


def test_nothing_happens_at_probability_zero(images):
    square = images[:, :16]
    np.testing.assert_allclose(view(PLAIN, 0, 16)(KEYS, square), square / 255, atol=1e-7)


@pytest.mark.parametrize(
    'change, expected',
    [
        ({'flip': 1.0}, lambda x: x[:, :, ::-1]),
        ({'grayscale': 1.0}, color.grayscale),
        ({'blur': (1.0,), 'blur_sigma': (1.5, 1.5)}, lambda x: geometry.gaussian_blur(x, 1.5, 13)),
        ({'solarize': (1.0,)}, lambda x: jnp.where(x < 128 / 255, x, 1 - x)),
        ({'mean': (0.1, 0.2, 0.3), 'std': (0.5, 0.6, 0.7)}, lambda x: (x - np.r_[0.1:0.35:0.1]) / np.r_[0.5:0.75:0.1]),
    ],
    ids=['flip', 'grayscale', 'blur', 'solarize', 'normalize'],
)
def test_always_at_probability_one(change, expected, images):
    actual = distort(dataclasses.replace(PLAIN, **change))(KEYS, images)
    np.testing.assert_allclose(actual, expected(jnp.asarray(images) / 255), atol=1e-6)


@pytest.mark.parametrize(
    'change, probability',
    [
        ({'flip': 0.3}, 0.3),
        ({'warp': 0.3}, 0.3),
        ({'grayscale': 0.3}, 0.3),
        ({'blur': (0.3,)}, 0.3),
        ({'solarize': (0.3,)}, 0.3),
        ({'jitter': (0.4, 0.4, 0.4, 0.1), 'jitter_probability': 0.3}, 0.3),
    ],
    ids=['flip', 'warp', 'grayscale', 'blur', 'solarize', 'jitter'],
)
def test_how_often(change, probability):
    """The share of images that change; the rest keep every bit."""
    count = 2000
    crops = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 3, 3, 3), np.uint8), count, axis=0)
    keys = jax.random.split(jax.random.key(0), count)
    out = distort(dataclasses.replace(PLAIN, **change))(keys, crops)
    changed = np.any(np.asarray(out) != distort(PLAIN)(keys, crops), axis=(1, 2, 3))
    assert abs(changed.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / count)


def test_a_warp_is_within_its_limits(images):
    """A bar in the middle of a black view: its two ends move by shear and angle, to either side, and no further."""
    bar = np.zeros((2000, 21, 21, 3), np.uint8)
    bar[:, :, 10] = 255
    keys = jax.random.split(jax.random.key(0), len(bar))

    def ends(**limits):
        """The mean column of the row 8 above the center, in columns from the center."""
        out = np.asarray(distort(dataclasses.replace(PLAIN, warp=1.0, **limits))(keys, bar))[:, 2, :, 0]
        return out @ (np.arange(21) - 10) / out.sum(1)

    for moved, limit in (
        (ends(rotation=0.0, shear=0.25), 8 * 0.25),
        (ends(rotation=10.0, shear=0.0), 8 * np.tan(np.deg2rad(10))),
    ):
        assert np.all(np.abs(moved) < limit + 0.05) and moved.min() < -0.9 * limit and moved.max() > 0.9 * limit
        assert abs(moved.mean()) < 0.1 * limit


def test_local_views(images):
    """They have a size, area and blur of their own; otherwise they are views like any other, each different."""
    policy = dataclasses.replace(MOCO_V2, local_crops=2, local_size=5, local_scale=(0.1, 0.2), local_blur=0.25)
    assert (policy.global_views, policy.num_views) == (2, 4)
    assert policy.view_sizes(SIZE) == (SIZE, SIZE, 5, 5)
    assert policy.view_scales == (policy.crop_scale, policy.crop_scale, (0.1, 0.2), (0.1, 0.2))
    alike = dataclasses.replace(policy, blur=(0.25,) * 4, solarize=(0.0,) * 4, crop_scale=(0.1, 0.2))
    for number in (2, 3):  # a traced number means the same
        traced = jax.jit(lambda keys, x, number: policy(keys, x, number, SIZE))(KEYS, images, number)
        np.testing.assert_allclose(traced, view(alike, number, 5)(KEYS, images), atol=1e-5)
    assert not np.allclose(view(policy, 2)(KEYS, images), view(policy, 3)(KEYS, images))


def test_what_never_happens_costs_nothing():
    """No matrix product without blur, no mirror without flip, no mean without jitter; also when only a view has it."""
    crops = jnp.zeros((2, 8, 8, 3))

    def operations(policy, number):
        jaxpr = str(jax.make_jaxpr(lambda keys, crops: policy.distort(keys, crops, number))(KEYS[:2], crops))
        return {name for name in ('dot_general', 'rev', 'reduce_sum') if f'{name}[' in jaxpr}

    assert operations(PLAIN, 0) == set()
    # The blur's weights are normalized by a sum.
    assert operations(dataclasses.replace(PLAIN, blur=(0.0, 0.5), solarize=(0.0, 0.0)), 0) == set()
    assert operations(dataclasses.replace(PLAIN, blur=(0.0, 0.5), solarize=(0.0, 0.0)), 1) == {
        'dot_general',
        'reduce_sum',
    }
    assert operations(dataclasses.replace(PLAIN, flip=0.5), 0) == {'rev'}
    assert operations(dataclasses.replace(PLAIN, jitter=(0.1, 0.0, 0.0, 0.0)), 0) == {'reduce_sum'}


def test_dtypes(images):
    """bfloat16 is only the result's; float64 differs by the rounding of float32."""
    policy = dataclasses.replace(PLAIN, grayscale=1.0)
    half = jax.jit(lambda keys, crops: policy.distort(keys, crops, 0, jnp.bfloat16))(KEYS, images)
    np.testing.assert_array_equal(half, distort(policy)(KEYS, images).astype(jnp.bfloat16))
    with jax.enable_x64(True):
        double = jax.jit(lambda keys, crops: MOCO_V3.distort(keys, crops, 1, jnp.float64))(KEYS, images)
    assert half.dtype == jnp.bfloat16 and double.dtype == np.float64
    np.testing.assert_allclose(distort(MOCO_V3, 1)(KEYS, images), double, atol=1e-4)


def test_normalize_for_evaluation(images):
    expected = (images / 255 - np.array(MOCO_V2.mean)) / np.array(MOCO_V2.std)
    np.testing.assert_allclose(MOCO_V2.normalize(jnp.asarray(images)), expected, atol=1e-5)
    assert MOCO_V2.normalize(jnp.asarray(images), jnp.bfloat16).dtype == jnp.bfloat16


def test_lists_become_tuples():
    policy = Policy(blur=[0.5, 0.5], mean=[0.485, 0.456, 0.406])
    assert policy == Policy() and hash(policy) == hash(Policy())


@RECIPES
def test_recipes_have_no_problems(policy):
    assert policy.problems() == []


@pytest.mark.parametrize(
    'name, value',
    [
        ('flip', 1.5),
        ('flip', '0.5'),
        ('warp', 1.5),
        ('rotation', 200.0),
        ('shear', 1.0),
        ('jitter_probability', -0.1),
        ('grayscale', float('nan')),
        ('blur', (0.5, 2.0)),
        ('blur', 0.5),
        ('blur', ()),
        ('solarize', (0.0,)),
        ('solarize', (0.0, -1.0)),
        ('crop_scale', (0.0, 1.0)),
        ('crop_scale', (0.5, 0.2)),
        ('crop_scale', (0.2, 1.1)),
        ('crop_scale', 0.2),
        ('crop_ratio', (1.5, 0.75)),
        ('crop_ratio', (-1.0, 1.0)),
        ('blur_sigma', (0.0, 2.0)),
        ('blur_sigma', (2.0, 0.1)),
        ('interpolation', 'cubic'),
        ('jitter', (0.4, 0.4, 0.4)),
        ('jitter', (0.4, -0.4, 0.4, 0.1)),
        ('jitter', (0.4, 0.4, 0.4, 0.6)),
        ('grayscale_first', 'no'),
        ('style', 'PIL'),
        ('color_space', 'hsv'),
        ('mean', (123.7, 116.3, 103.5)),
        ('std', (0.229, 0.0, 0.225)),
        ('std', (0.229, 0.224)),
        ('local_crops', -1),
        ('local_size', 0),
        ('local_scale', (0.5, 0.1)),
        ('local_blur', 1.5),
    ],
)
def test_problems(name, value):
    """One line for each wrong value, with its name and the value."""
    problems = Policy(**{name: value}).problems()
    assert problems and all(f'{value!r}' in line and '\n' not in line for line in problems), problems
    assert any(line.field == f'augment.{name}' and line.startswith(f'augment.{name} ') for line in problems)
    assert all(' -> ' in line for line in problems)


def test_simclr_takes_no_area_below_a_tenth():
    assert dataclasses.replace(SIMCLR, crop_scale=(0.05, 0.1)).problems()
    small = dataclasses.replace(SIMCLR, local_scale=(0.05, 0.1))
    assert small.problems() == [] and dataclasses.replace(small, local_crops=1).problems()
