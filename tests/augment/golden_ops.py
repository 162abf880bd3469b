"""Applies the operations of the golden augmentation cases with our functions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.augment import color, geometry
from tests import goldens

# One compilation for each shape and for each way to resample; the strengths are arguments.
brightness, contrast, saturation, hue = map(jax.jit, (color.brightness, color.contrast, color.saturation, color.hue))
grayscale, solarize, normalize = map(jax.jit, (color.grayscale, color.solarize, color.normalize))
blur = jax.jit(geometry.gaussian_blur, static_argnums=(2, 3))
resized_crop = jax.jit(geometry.resized_crop, static_argnums=(2, 3, 4, 5, 6))

# What the libraries take for grey: PIL integers in 16 bits, torchvision's float tensors three digits and a half.
WEIGHTS = {'pil': color.LUMA, 'torchvision': (0.2989, 0.587, 0.114)}


def parameters(*names: str) -> list[Any]:
    """pytest parameters (case, op): the ops of these names in the golden files of PIL and torchvision."""
    return [
        pytest.param(case, op, id=f'{case.file}:{op["key"]}')
        for (case,) in (p.values for p in goldens.cases('augmentation', 'image'))
        if case.fields['library'] in WEIGHTS
        for op in case.fields['ops']
        if op['op'] in names
    ]


def apply(case: goldens.Case, op: dict[str, Any], x: jnp.ndarray, whole_levels: bool = False) -> jnp.ndarray:
    """One op, in the units of the case, on an image in [0, 1] (on grey levels if `whole_levels`)."""
    weights = WEIGHTS[case.fields['library']]
    if 'integer_weights' in op:
        weights = tuple(w / 65536 for w in op['integer_weights'])
    box = np.array([op.get(name, 0) for name in ('top', 'left', 'height', 'width')])
    steps: dict[str, Callable[[], jnp.ndarray]] = {
        'brightness': lambda: brightness(x, op['factor']),
        'contrast': lambda: contrast(x, op['factor'], weights),
        'saturation': lambda: saturation(x, op['factor'], weights),
        'hue': lambda: hue(x, op['delta']),
        'grayscale': lambda: grayscale(x, weights)[..., 0],
        'solarize': lambda: solarize(x, op['threshold'] / top_level(case)),
        'hflip': lambda: geometry.hflip(x),
        'blur': lambda: blur(
            x, op['sigma'], op.get('kernel_size', full_kernel(op['sigma'])), op.get('padding', 'edge')
        ),
        'resized_crop': lambda: resized_crop(
            x, box, tuple(op['size']), op['interpolation'], op['antialias'], op.get('cubic_a', -0.5), whole_levels
        ),
        'normalize': lambda: jnp.moveaxis(normalize(x, op['mean'], op['std']), -1, -3),
    }
    return steps[op['op']]()


def full_kernel(sigma: float) -> int:
    """Taps to 4 sigma, as the default for the papers' 2 pixels; the same for all below, to compile once."""
    return 2 * math.ceil(4 * max(2.0, sigma)) + 1


def top_level(case: goldens.Case) -> float:
    """White, in the case's units: 255, or 1."""
    return case.fields['range'][1]


def check(case: goldens.Case, op: dict[str, Any], actual: Any) -> None:
    """Compares an image in [0, 1] with the golden one, in the golden's units.

    Against integers: within `ideal_diff` (stored with one and two decimals) if the case says how far exact arithmetic
    is from PIL's, else equal after rounding, within the tolerance.
    """
    expected = case.key(op['key'])
    if expected.dtype != np.uint8:
        error = np.abs(np.asarray(actual, np.float64) - expected).max()
        assert error <= op['tolerance']['float64'], f'{op["key"]}: off by {error:.1e}'
        return
    levels = np.asarray(actual, np.float64) * top_level(case)
    levels = np.clip(levels, *case.fields['range'])
    if 'ideal_diff' in op:
        error = np.abs(levels - expected)
        assert error.max() <= op['ideal_diff']['max'] + 0.1
        assert error.mean() <= op['ideal_diff']['mean'] + 0.01
    else:
        assert np.abs(np.floor(levels + 0.5) - expected).max() <= op['tolerance']['uint8']
