"""Applies the operations of the golden augmentation cases with our functions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.augment import color, geometry
from contrastive_jax.augment.styles import PIL, SIMCLR, STYLES, TENSORFLOW_LUMA, Style
from tests import goldens

# One compilation for each shape and for each way to resample; the strengths are arguments.
brightness, contrast, saturation, color_jitter, grayscale = (
    jax.jit(operation, static_argnames='style')
    for operation in (color.brightness, color.contrast, color.saturation, color.color_jitter, color.grayscale)
)
hue, solarize, normalize = map(jax.jit, (color.hue, color.solarize, color.normalize))
blur = jax.jit(geometry.gaussian_blur, static_argnums=(2, 3))
resized_crop = jax.jit(geometry.resized_crop, static_argnums=(2, 3, 4, 5, 6, 7))

# torchvision's float tensors take TensorFlow's gray.
LIBRARIES = {
    'pil': PIL,
    'torchvision': dataclasses.replace(PIL, luma=TENSORFLOW_LUMA),
    'tf': SIMCLR,
    'byol': STYLES['byol'],
}


def parameters(*names: str) -> list[Any]:
    """pytest parameters (case, op): the ops of these names in the golden files."""
    return [
        pytest.param(case, op, id=f'{case.file}:{op["key"]}')
        for (case,) in (p.values for p in goldens.cases('augmentation', 'image'))
        for op in case.fields['ops']
        if op['op'] in names
    ]


def apply(case: goldens.Case, op: dict[str, Any], x: jnp.ndarray, whole_levels: bool = False) -> jnp.ndarray:
    """One op, in the units of the case, on an image in [0, 1] (on gray levels if `whole_levels`)."""
    kind = style(case, op)
    box = np.array([op.get(name, 0) for name in ('top', 'left', 'height', 'width')])
    steps: dict[str, Callable[[], jnp.ndarray]] = {
        'brightness': lambda: brightness(x, op.get('factor', op.get('delta')), style=kind),
        'contrast': lambda: contrast(x, op['factor'], style=kind),
        'saturation': lambda: saturation(x, op['factor'], style=kind),
        'hue': lambda: hue(x, op['delta']),
        'grayscale': lambda: grayscale(x, style=kind)[..., 0],
        'solarize': lambda: solarize(x, threshold(case, op)),
        'hflip': lambda: geometry.hflip(x),
        'blur': lambda: blur(
            x, op['sigma'], op.get('kernel_size', full_kernel(op['sigma'])), op.get('padding', 'edge')
        ),
        'resized_crop': lambda: resized_crop(
            x,
            box,
            tuple(op['size']),
            op['interpolation'],
            op['antialias'],
            op.get('cubic_a', -0.5),
            whole_levels,
            kind.pillow_crops,
        ),
        'normalize': lambda: jnp.moveaxis(normalize(x, op['mean'], op['std']), -1, -3),
    }
    steps['center_crop'] = steps['resized_crop']
    return steps[op['op']]()


def style(case: goldens.Case, op: dict[str, Any]) -> Style:
    """The operations that the case's library has, with the op's weights of gray."""
    kind = LIBRARIES[case.fields['library']]
    if 'integer_weights' in op or 'weights' in op:
        weights = tuple(w / 65536 for w in op['integer_weights']) if 'integer_weights' in op else tuple(op['weights'])
        kind = dataclasses.replace(kind, luma=weights)
    steps = op.get('steps', [op])  # of a sequence: that of its brightness
    added = ['delta' in step for step in steps if step['op'] == 'brightness']
    return dataclasses.replace(kind, adds_brightness=added[0]) if added else kind


def full_kernel(sigma: float) -> int:
    """Taps to 4 sigma, as the default for the papers' 2 pixels; the same for all below, to compile once."""
    return 2 * math.ceil(4 * max(2.0, sigma)) + 1


def image(case: goldens.Case) -> jnp.ndarray:
    """The input in [0, 1]. NumPy divides: XLA multiplies by 1 / 255, which rounds some levels to another number."""
    return jnp.asarray(case.key(case.fields['input']) / case.fields['input_scale'])


def threshold(case: goldens.Case, op: dict[str, Any]) -> float:
    """Solarize's threshold in [0, 1]; for whole levels in the middle below the first level that is inverted."""
    return (op['threshold'] - 0.5 * (case.fields['dtype'] == 'uint8')) / top_level(case)


def top_level(case: goldens.Case) -> float:
    """White, in the case's units: 255, or 1."""
    return case.fields['range'][1]


NEAR = 16 / 255  # further than that, no float operation is from PIL's integers


def apply_steps(case: goldens.Case, steps: list[dict[str, Any]], x: jnp.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Ops one after the other: the image, and the same with both sides of solarize's jump exchanged near it.

    A value close to the threshold may be on the other side of it in another arithmetic. At a threshold in the middle of
    the range both sides are equal, and so are the two results.
    """
    before = x
    for step in steps:
        before, x = x, apply(case, step, x)
    if not steps or steps[-1]['op'] != 'solarize':
        return x, x
    limit = threshold(case, steps[-1])
    jumps = limit != 0.5
    return x, jnp.where(jumps & (jnp.abs(before - limit) < NEAR), 1 - x, x)


def check(case: goldens.Case, op: dict[str, Any], actual: Any, or_else: Any = None) -> None:
    """Compares an image in [0, 1] with the golden one, in the golden's units.

    Each pixel may be that of the image `or_else` as well, if the golden image is one of integers (see `apply_steps`).

    Against integers: within `ideal_diff` (stored with one and two decimals) if the case says how far exact arithmetic
    is from PIL's, else equal after rounding, within the tolerance. TensorFlow's operations clip nothing, its pipelines
    do after each, as ours do.
    """
    expected = case.key(op['key'])
    if op['op'] in ('brightness', 'contrast', 'saturation', 'hue') or op.get('clip'):
        expected, actual = (np.clip(y, *case.fields['range']) for y in (expected, actual))
    if expected.dtype != np.uint8:
        error = np.abs(np.asarray(actual, np.float64) - expected).max()
        assert error <= op.get('tolerance', case.tolerances)['float64'], f'{op["key"]}: off by {error:.1e}'
        return
    levels = np.asarray(actual, np.float64) * top_level(case)
    levels = np.clip(levels, *case.fields['range'])
    if 'ideal_diff' in op:
        error = np.abs(levels - expected)
        if or_else is not None:
            error = np.minimum(error, np.abs(np.clip(np.asarray(or_else) * top_level(case), 0, 255) - expected))
        assert error.max() <= op['ideal_diff']['max'] + 0.1
        assert error.mean() <= op['ideal_diff']['mean'] + 0.01
    else:
        assert np.abs(np.floor(levels + 0.5) - expected).max() <= op.get('tolerance', case.tolerances)['uint8']
