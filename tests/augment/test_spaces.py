"""Colour spaces against skimage's numbers, there and back; views and evaluation in them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.augment import spaces
from contrastive_jax.augment.policy import Policy
from tests import goldens

# CMC's normalization of either space.
LAB = {'color_space': 'lab', 'mean': (50.0, 6.025, -6.6895), 'std': (50.0, 92.208, 101.1675)}
YCBCR = {'color_space': 'ycbcr', 'mean': (116.151, 121.080, 132.342), 'std': (109.500, 111.855, 111.964)}
CMC = Policy(jitter_probability=0.0, grayscale=0.0, blur=(0.0,), solarize=(0.0,))


@pytest.mark.parametrize('case', goldens.cases('rgb2lab', 'rgb2lab'))
def test_golden_lab(case):
    fields = case.fields
    if (fields['illuminant'], fields['observer']) != ('D65', '2'):
        pytest.skip('Lab is that of daylight (D65) and the observer of 2 degrees')
    rgb = case.key(fields['input'])
    policy = Policy(color_space='lab', mean=tuple(fields['mean']), std=tuple(fields['std']))
    for enabled, name in ((True, 'float64'), (False, 'float32')):
        with jax.enable_x64(enabled):
            lab = spaces.from_rgb(jnp.asarray(rgb / fields['input_scale']), 'lab')
            normalized = policy.normalize(jnp.asarray(rgb), lab.dtype)
        assert lab.dtype == name
        goldens.assert_close(lab, case.key(fields['output']), case.tolerances[name])
        goldens.assert_close(normalized, case.key(fields['normalised']), case.tolerances[name])


@pytest.mark.parametrize(
    'rgb, ycbcr',
    [
        ((0, 0, 0), (16, 128, 128)),
        ((1, 1, 1), (235, 128, 128)),
        ((1, 0, 0), (81.481, 90.203, 240)),
        ((0, 0, 1), (40.966, 240, 109.786)),
    ],
)
def test_ycbcr_of_known_colors(rgb, ycbcr):
    np.testing.assert_allclose(spaces.from_rgb(jnp.array(rgb, jnp.float32), 'ycbcr'), ycbcr, atol=1e-3)


@pytest.mark.parametrize('space', spaces.SPACES)
def test_there_and_back(space):
    """Every 17th level of every channel, black and white among them; colors that do not exist are clipped."""
    levels = np.linspace(0, 1, 16)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    with jax.enable_x64(True):
        back = spaces.to_rgb(spaces.from_rgb(jnp.asarray(rgb), space), space)
    np.testing.assert_allclose(back, rgb, atol=1e-5)
    beyond = np.asarray(spaces.to_rgb(jnp.array([[150.0, 120.0, -200.0], [-9.0, -200.0, 300.0]]), space))
    assert beyond.min() >= 0 and beyond.max() <= 1 and np.isfinite(beyond).all()


@pytest.mark.parametrize('settings', [LAB, YCBCR], ids=['lab', 'ycbcr'])
def test_views_are_converted_last(settings):
    """The view in another space is the RGB view, converted; pictures of it are in RGB again."""
    policy = dataclasses.replace(CMC, **settings)
    rgb = dataclasses.replace(CMC, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), np.uint8))
    keys = jax.random.split(jax.random.key(0), 3)
    plain, views = (jax.jit(lambda k, x, p=p: p(k, x, 0, 6))(keys, images) for p in (rgb, policy))
    expected = (np.asarray(spaces.from_rgb(plain, policy.color_space)) - policy.mean) / policy.std
    np.testing.assert_allclose(views, expected, atol=1e-4)
    np.testing.assert_allclose(policy.to_rgb(views), plain, atol=1e-4)
    assert policy.problems() == []
    assert np.abs(views).max() < 1.3


def test_statistics_of_another_space_are_a_problem():
    """ImageNet's RGB deviations would blow L*a*b* up four hundred times."""
    assert len(Policy(color_space='lab').problems()) == 1
    assert len(Policy(**{**LAB, 'color_space': 'rgb'}).problems()) == 2
    assert (
        Policy(color_space='hsv')
        .problems()[0]
        .startswith("augment.color_space 'hsv' is unknown -> choose from rgb, lab")
    )
