"""Color arithmetic on images as planes, one for each channel, each [..., H, W]; `color` is built on it.

Gray values, hue and saturation are those of RGB and need three planes. Brightness and contrast work with any number of
channels: with another number than three, contrast uses the mean of each channel, since there is no gray value.

On planes every operation is elementwise, so XLA fuses a chain of operations into one pass over memory. With channels on
an axis, each gray value would combine three elements, and XLA would compute the previous operations again for each of
them. Therefore a chain of color operations splits images into planes once, at its start, and joins them at its end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from contrastive_jax.augment.styles import PIL, Style

Planes = tuple[Array, ...]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def split(x: Array) -> Planes:
    """Splits [..., H, W, C] into planes."""
    return tuple(x[..., i] for i in range(x.shape[-1]))


def join(planes: Planes) -> Array:
    """Joins planes to [..., H, W, C]."""
    return jnp.stack(planes, axis=-1)


def weighted(weights: Sequence[float], planes: Sequence[Array]) -> Array:
    """The weighted sum of three planes, [..., H, W]."""
    assert len(planes) == 3, f'{len(planes)} channels are not RGB'  # config.choose_channels keeps such operations away
    return weights[0] * planes[0] + weights[1] * planes[1] + weights[2] * planes[2]


def gray(planes: Planes, style: Style = PIL) -> Array:
    """The gray value of each pixel, [..., H, W]."""
    return weighted(style.luma, planes)


def grayscale(planes: Planes, style: Style = PIL) -> Planes:
    """Replaces red, green and blue by the gray value of each pixel."""
    level = gray(planes, style)
    return level, level, level


def brightness(planes: Planes, setting: Array, style: Style = PIL) -> Planes:
    """Multiplies by the setting [..., 1, 1], or adds it in some styles; clipped to [0, 1]."""
    return _clipped(planes, 1.0, setting) if style.adds_brightness else _clipped(planes, setting, 0.0)


def contrast(planes: Planes, factor: Array, style: Style = PIL) -> Planes:
    """Blends with the mean gray of RGB or, in some styles and for other channels, each with its mean; [..., 1, 1]."""
    if len(planes) == 3 and not style.by_channel:
        return blend(planes, gray(planes, style).mean(axis=(-2, -1), keepdims=True), factor)
    shifts = ((1 - factor) * plane.mean(axis=(-2, -1), keepdims=True) for plane in planes)
    return _clipped(planes, factor, tuple(shifts))


def saturation(planes: Planes, factor: Array, style: Style = PIL) -> Planes:
    """Blends each pixel with its gray or, in some styles, multiplies its saturation in HSV; factor [..., 1, 1]."""
    if style.by_channel:
        return rotate_hue(planes, jnp.zeros_like(factor), factor)
    return blend(planes, gray(planes, style), factor)


def blend(planes: Planes, target: Array, factor: Array) -> Planes:
    """factor * planes + (1 - factor) * target, clipped to [0, 1]."""
    return _clipped(planes, factor, (1 - factor) * target)


def rotate_hue(planes: Planes, delta: Array, saturate: ArrayLike = 1.0) -> Planes:
    """Rotates the hue by `delta` [..., 1, 1] turns and multiplies the saturation, to at most 1, in HSV.

    The value v does not change, the chroma is c = v * saturation, and the hue is in sixths of a turn from red. A
    channel is v - c clip(2 - |d|, 0, 1), where d in [-3, 3] is the distance of the hue from the channel's complement.
    """
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    hue = difference / jnp.where(chroma > 0, chroma, 1) + 6 * delta + jnp.where(is_red, 0, jnp.where(is_green, 2, -2))
    chroma = jnp.minimum(saturate * chroma, value)

    def channel(opposite: int) -> Array:
        d = hue - opposite
        d -= 6 * jnp.round(d / 6)
        return value - chroma * jnp.clip(2 - jnp.abs(d), 0, 1)

    return channel(3), channel(-1), channel(1)


def jitter(planes: Planes, factors: Array, order: Array, style: Style = PIL) -> Planes:
    """Brightness, contrast, saturation and hue in a separate order for each image; see `color.color_jitter`.

    With another number of planes than three, only brightness and contrast are applied.

    With vmap, a switch on the order would compute all four operations at each of the four places, with a mean of the
    image each time. Instead there are three stages: pointwise operations, then contrast, whose mean needs a separate
    pass over the image, then pointwise operations again. An operation has its setting in the stage that the order
    demands, and elsewhere the neutral setting, which does not change a bit.
    """
    factors = factors.astype(planes[0].dtype)
    if len(planes) != 3:
        factors, order = lax.optimization_barrier((factors, order))
        return _brightness_and_contrast(planes, factors, order, style)
    plan = _plan(factors, order, style)
    # The barrier keeps the plan, which is computed once for each image, out of the loops over pixels.
    before, mix, after = jax.tree.map(lambda v: v[..., None, None], lax.optimization_barrier(plan))
    planes = _run(planes, before, style)
    planes = contrast(planes, mix, style)
    return _run(planes, after, style)


def _brightness_and_contrast(planes: Planes, factors: Array, order: Array, style: Style) -> Planes:
    at = jnp.argsort(order, axis=-1)  # the place of each operation in the order
    bright_first = at[..., BRIGHTNESS] < at[..., CONTRAST]
    setting, factor = factors[..., BRIGHTNESS], factors[..., CONTRAST, None, None]
    early, late = (
        jnp.where(here, setting, style.neutral[BRIGHTNESS])[..., None, None] for here in (bright_first, ~bright_first)
    )
    return brightness(contrast(brightness(planes, early, style), factor, style), late, style)


class _Blend(NamedTuple):
    """factor * x + to_gray * gray(x): brightness if to_gray is 0, saturation if it is 1 - factor."""

    factor: Array
    to_gray: Array


class _GrayStage(NamedTuple):
    """Two blends, a rotation of the hue, two blends: brightness and saturation, in any order, on both sides of hue."""

    early: tuple[_Blend, _Blend]
    rotation: Array
    late: tuple[_Blend, _Blend]


class _HsvStage(NamedTuple):
    """Hue and saturation, brightness, then hue and saturation again.

    In HSV, hue and saturation commute and keep colors in [0, 1], so only their order relative to brightness matters.
    """

    early: tuple[Array, Array]
    brightness: Array
    late: tuple[Array, Array]


_Stage = _GrayStage | _HsvStage


def _plan(factors: Array, order: Array, style: Style) -> tuple[_Stage, Array, _Stage]:
    """The stage before contrast, the factor of contrast, and the stage after it; all arrays are [...]."""
    at = jnp.argsort(order, axis=-1)  # the place of each operation in the order

    def stage(here: Array) -> _Stage:
        def setting(i: int, where: Array) -> Array:
            return jnp.where(where[..., i], factors[..., i], style.neutral[i])

        def hue_and_saturation(where: Array) -> tuple[Array, Array]:
            return setting(HUE, where), setting(SATURATION, where)

        def blends(where: Array) -> tuple[_Blend, _Blend]:
            b, s = setting(BRIGHTNESS, where), setting(SATURATION, where)
            one = _Blend(jnp.where(bright_first, b, s), jnp.where(bright_first, 0, 1 - s))
            two = _Blend(jnp.where(bright_first, s, b), jnp.where(bright_first, 1 - s, 0))
            return one, two

        if style.by_channel:
            pivot = at[..., BRIGHTNESS, None]
            early, late = hue_and_saturation(here & (at < pivot)), hue_and_saturation(here & (at > pivot))
            return _HsvStage(early, setting(BRIGHTNESS, here), late)
        pivot = at[..., HUE, None]
        bright_first = at[..., BRIGHTNESS] < at[..., SATURATION]
        return _GrayStage(blends(here & (at < pivot)), setting(HUE, here), blends(here & (at > pivot)))

    pivot = at[..., CONTRAST, None]
    return stage(at < pivot), factors[..., CONTRAST], stage(at > pivot)


def _run(planes: Planes, stage: _Stage, style: Style) -> Planes:
    def apply(planes: Planes, step: _Blend) -> Planes:
        return _clipped(planes, step.factor, step.to_gray * gray(planes, style))

    if isinstance(stage, _HsvStage):
        planes = _rotated(planes, *stage.early)
        planes = brightness(planes, stage.brightness, style)
        return _rotated(planes, *stage.late)
    planes = apply(apply(planes, stage.early[0]), stage.early[1])
    planes = _rotated(planes, stage.rotation)
    return apply(apply(planes, stage.late[0]), stage.late[1])


def _rotated(planes: Planes, delta: Array, saturate: ArrayLike = 1.0) -> Planes:
    """`rotate_hue`, but with neutral settings the output equals the input bit for bit."""
    same = (delta == 0) & (jnp.asarray(saturate) == 1)
    rotated = rotate_hue(planes, delta, saturate)
    red, green, blue = (jnp.where(same, old, new) for old, new in zip(planes, rotated, strict=True))
    return red, green, blue


def _clipped(planes: Planes, factor: ArrayLike, shift: ArrayLike | Planes) -> Planes:
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(planes)
    return tuple(jnp.clip(factor * plane + s, 0, 1) for plane, s in zip(planes, shifts, strict=True))
