"""Colour operations against PIL's and torchvision's results, and the jitter against a loop over its four operations."""

import colorsys
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.augment import color
from contrastive_jax.augment.styles import PIL, STYLES
from tests import goldens
from tests.augment import golden_ops

IN_EVERY_STYLE = pytest.mark.parametrize('style', STYLES.values(), ids=STYLES)


@pytest.fixture(scope='module')
def images() -> np.ndarray:
    """24 small images, with grays, black and white among their pixels."""
    x = np.random.default_rng(0).uniform(size=(24, 3, 5, 3))
    x[:, 0] = x[:, 0, :, :1]
    x[:, 1, 0], x[:, 1, 1] = 0, 1
    return x


@pytest.mark.parametrize(
    'case, op',
    golden_ops.parameters('brightness', 'contrast', 'saturation', 'hue', 'grayscale', 'solarize', 'normalize'),
)
def test_golden(case, op):
    with jax.enable_x64(True):
        x = golden_ops.image(case)
        golden_ops.check(case, op, golden_ops.apply(case, op, x))


@pytest.mark.parametrize('case, op', golden_ops.parameters('sequence'))
def test_golden_sequence(case, op):
    with jax.enable_x64(True):
        x = golden_ops.image(case)
        golden_ops.check(case, op, *golden_ops.apply_steps(case, op['steps'], x))


@pytest.mark.parametrize('case, op', golden_ops.parameters('sequence'))
def test_jitter_is_golden_sequence(case, op):
    """The start of a stored sequence is a jitter where it names the four operations, in whatever order."""
    names = ['brightness', 'contrast', 'saturation', 'hue']
    four, rest = op['steps'][:4], op['steps'][4:]
    if sorted(step['op'] for step in four) != sorted(names):
        pytest.skip('not a color jitter')
    order = [names.index(step['op']) for step in four]
    factors = np.zeros(4)
    factors[order] = [step.get('factor', step.get('delta')) for step in four]
    with jax.enable_x64(True):
        x = golden_ops.image(case)
        x = golden_ops.color_jitter(x, factors, np.array(order), style=golden_ops.style(case, op))
        golden_ops.check(case, op, *golden_ops.apply_steps(case, rest, x))


def test_hue_is_colorsys(images):
    turned = np.array(
        [
            colorsys.hsv_to_rgb((h + 0.3) % 1, s, v)
            for h, s, v in (colorsys.rgb_to_hsv(*p) for p in images.reshape(-1, 3))
        ]
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(golden_ops.hue(images, 0.3), turned.reshape(images.shape), atol=1e-12)


@IN_EVERY_STYLE
def test_jitter_in_every_order(images, style):
    """One call on 24 images with the 24 orders, against the single operations one after the other."""
    orders = np.array(list(itertools.permutations(range(4))))
    # Strong, so that clipping makes the order matter.
    strength = np.array([0.8, 0.8, 0.8, 0.5])
    factors = style.neutral + strength * np.random.default_rng(1).uniform(-1, 1, size=(24, 4))
    operations = (
        *(partial(f, style=style) for f in (golden_ops.brightness, golden_ops.contrast, golden_ops.saturation)),
        golden_ops.hue,
    )
    with jax.enable_x64(True):
        actual = golden_ops.color_jitter(images, factors, orders, style=style)
        for x, f, order, y in zip(images, factors, orders, actual, strict=True):
            for i in order:
                x = operations[i](x, f[i])
            np.testing.assert_allclose(y, x, atol=1e-12, err_msg=str(order))


@IN_EVERY_STYLE
def test_neutral_jitter_keeps_every_bit(images, style):
    x = images.astype(np.float32)
    neutral = jnp.tile(jnp.array(style.neutral), (24, 1))
    np.testing.assert_array_equal(golden_ops.color_jitter(x, neutral, color.ORDERS, style=style), x)


def test_added_brightness_is_drawn_around_zero():
    """BYOL's and SimCLR v1's uniform shift; the other three are drawn as everywhere, from the same numbers."""
    keys, strength = jax.random.split(jax.random.key(0), 4000), (0.4, 0.4, 0.2, 0.1)
    added, multiplied = (
        np.asarray(jax.jit(jax.vmap(lambda key, s=s: color.draw_jitter(key, strength, s)[0]))(keys))
        for s in (STYLES['byol'], PIL)
    )
    np.testing.assert_allclose(added[:, 0], multiplied[:, 0] - 1, atol=1e-6)
    np.testing.assert_array_equal(added[:, 1:], multiplied[:, 1:])
    np.testing.assert_allclose(np.quantile(added[:, 0], [0, 0.25, 0.5, 1]), [-0.4, -0.2, 0, 0.4], atol=0.02)


def test_luma_keeps_gray():
    """The weights sum to exactly one, as PIL's integers do."""
    assert sum(PIL.luma) == 1
    np.testing.assert_array_equal(color.grayscale(jnp.ones((1, 1, 3))), 1)


def test_solarize_on_whole_levels_is_pils_threshold():
    levels = np.arange(256)
    with jax.enable_x64(True):
        actual = color.solarize(jnp.asarray(levels) / 255) * 255
    np.testing.assert_allclose(actual, np.where(levels < 128, levels, 255 - levels), atol=1e-9)


def test_factors_are_per_image(images):
    operations = (color.brightness, color.contrast, color.saturation, color.hue, color.solarize)

    @jax.jit
    def both(x, values):
        return [(f(x, values), jnp.stack([f(x[0], values[0]), f(x[1], values[1])])) for f in operations]

    for together, apart in both(images[:2].astype(np.float32), np.array([0.2, 0.9], np.float32)):
        np.testing.assert_allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize('case', goldens.cases('crop_statistics', 'color_jitter'))
def test_golden_jitter_statistics(case):
    """Quantiles of the factors and how often each operation comes first, over as many draws as torchvision made."""
    fields = case.fields
    strength = [fields[name] for name in ('brightness', 'contrast', 'saturation', 'hue')]
    draws = (fields['draws'], fields['draws'])  # theirs, ours
    keys = jax.random.split(jax.random.key(0), draws[1])
    factors, order = jax.jit(jax.vmap(lambda key: color.draw_jitter(key, strength)))(keys)
    columns = ['brightness', 'contrast', 'saturation', 'hue']
    quantiles = np.quantile(np.asarray(factors, np.float64), case.key(fields['quantile_levels']), axis=0)
    quantiles = quantiles[:, [columns.index(name) for name in fields['columns']]]
    for name, actual, expected in zip(fields['columns'], quantiles.T, case.key(fields['quantiles']).T, strict=True):
        # Each is uniform, twice as wide as its strength; a quantile deviates most in the middle.
        tolerance = goldens.or_chance(fields['tolerance']['quantile'], fields[name], *draws)
        assert np.abs(actual - expected).max() <= tolerance, name
    first = np.bincount(order[:, 0], minlength=4) / fields['draws']
    assert np.abs(first - case.key(fields['first_op_frequency'])).max() <= fields['tolerance']['frequency']
    # All 24 orders are equally likely.
    counts = np.unique(np.asarray(order), axis=0, return_counts=True)[1]
    assert len(counts) == 24 and np.abs(counts / fields['draws'] - 1 / 24).max() <= fields['tolerance']['frequency']
