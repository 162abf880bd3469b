"""Images as three planes, red, green and blue, each [..., H, W]: the arithmetic behind `color`.

On planes every step is elementwise with one index, so XLA fuses a chain of steps into one pass over memory. With the
channels on an axis, each grey would mix neighbours along it, and what came before would be computed again for each of
them. So a chain of colour operations is split into planes once, at its start, and joined once, at its end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from contrastive_jax.augment.styles import PIL, Style

Planes = tuple[Array, Array, Array]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def split(x: Array) -> Planes:
    """[..., H, W, 3] as planes."""
    return x[..., 0], x[..., 1], x[..., 2]


def join(planes: Planes) -> Array:
    """Planes as [..., H, W, 3]."""
    return jnp.stack(planes, axis=-1)


def weighted(weights: Sequence[float], planes: Sequence[Array]) -> Array:
    """[..., H, W]: the weighted sum of three planes."""
    return weights[0] * planes[0] + weights[1] * planes[1] + weights[2] * planes[2]


def grey(planes: Planes, style: Style = PIL) -> Array:
    """[..., H, W]: the weighted sum of the planes."""
    return weighted(style.luma, planes)


def grayscale(planes: Planes, style: Style = PIL) -> Planes:
    """The grey in all three planes."""
    level = grey(planes, style)
    return level, level, level


def brightness(planes: Planes, setting: Array, style: Style = PIL) -> Planes:
    """Multiplies by the setting [..., 1, 1], or adds it; clipped to [0, 1]."""
    return _clipped(planes, 1.0, setting) if style.adds_brightness else _clipped(planes, setting, 0.0)


def contrast(planes: Planes, factor: Array, style: Style = PIL) -> Planes:
    """Blends with the mean grey of each image, or each channel with its own mean; factor [..., 1, 1]."""
    if not style.by_channel:
        return blend(planes, grey(planes, style).mean(axis=(-2, -1), keepdims=True), factor)
    red, green, blue = ((1 - factor) * plane.mean(axis=(-2, -1), keepdims=True) for plane in planes)
    return _clipped(planes, factor, (red, green, blue))


def saturation(planes: Planes, factor: Array, style: Style = PIL) -> Planes:
    """Blends each pixel with its grey, or multiplies its saturation in HSV; factor [..., 1, 1]."""
    if style.by_channel:
        return turn_hue(planes, jnp.zeros_like(factor), factor)
    return blend(planes, grey(planes, style), factor)


def blend(planes: Planes, target: Array, factor: Array) -> Planes:
    """From the target (factor 0) to the image (1) and on beyond it, clipped to [0, 1]."""
    return _clipped(planes, factor, (1 - factor) * target)


def turn_hue(planes: Planes, delta: Array, saturate: ArrayLike = 1.0) -> Planes:
    """Turns the hue by delta [..., 1, 1] turns and multiplies the saturation, up to 1: HSV and back in one.

    Value stays, chroma = value * saturation; the hue, in sixths of a turn from red, moves on. A channel falls from the
    value by the whole chroma where the hue is furthest from it: v - c clip(2 - |d|, 0, 1), with d the way from the hue
    to the opposite of the channel, in [-3, 3].
    """
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    hue = difference / jnp.where(chroma > 0, chroma, 1) + 6 * delta + jnp.where(is_red, 0, jnp.where(is_green, 2, -2))
    chroma = jnp.minimum(saturate * chroma, value)

    def channel(opposite: int) -> Array:
        way = hue - opposite
        way -= 6 * jnp.round(way / 6)
        return value - chroma * jnp.clip(2 - jnp.abs(way), 0, 1)

    return channel(3), channel(-1), channel(1)


def jitter(planes: Planes, factors: Array, order: Array, style: Style = PIL) -> Planes:
    """Brightness, contrast, saturation and hue, in an order of its own for each image; see `color.color_jitter`.

    Under vmap, a switch on the order would compute all four in each of four places, with a mean of the image each time.
    But each operation happens once. So the chain is laid out around contrast, whose mean is the one thing that needs a
    pass over the image: a stage of pointwise steps before it and one after it. A step whose turn it is not has the
    neutral setting, which leaves every bit as it was.
    """
    plan = _plan(factors.astype(planes[0].dtype), order, style)
    # The barrier keeps the planning, which is per image, out of the loops over pixels that use it.
    before, mix, after = jax.tree.map(lambda v: v[..., None, None], lax.optimization_barrier(plan))
    planes = _run(planes, before, style)
    planes = contrast(planes, mix, style)
    return _run(planes, after, style)


class _Blend(NamedTuple):
    """factor * x + to_grey * grey(x): brightness where to_grey is 0, saturation where it is 1 - factor."""

    factor: Array
    to_grey: Array


class _GreyStage(NamedTuple):
    """Two blends, a turn of the hue, two blends: brightness and saturation in either order, before or after the hue."""

    early: tuple[_Blend, _Blend]
    turn: Array
    late: tuple[_Blend, _Blend]


class _HsvStage(NamedTuple):
    """A turn of the hue with a saturation, brightness, and the same again.

    In HSV, hue and saturation do not touch each other, and both keep colours in [0, 1]: only brightness has a place
    among them.
    """

    early: tuple[Array, Array]
    brightness: Array
    late: tuple[Array, Array]


_Stage = _GreyStage | _HsvStage


def _plan(factors: Array, order: Array, style: Style) -> tuple[_Stage, Array, _Stage]:
    """What each image does before contrast, its contrast factor, and what it does after; all arrays are [...]."""
    at = jnp.argsort(order, axis=-1)  # the place of each operation

    def stage(here: Array) -> _Stage:
        def setting(i: int, where: Array) -> Array:
            return jnp.where(where[..., i], factors[..., i], style.neutral[i])

        def turn_and_saturate(where: Array) -> tuple[Array, Array]:
            return setting(HUE, where), setting(SATURATION, where)

        def blends(where: Array) -> tuple[_Blend, _Blend]:
            b, s = setting(BRIGHTNESS, where), setting(SATURATION, where)
            one = _Blend(jnp.where(bright_first, b, s), jnp.where(bright_first, 0, 1 - s))
            two = _Blend(jnp.where(bright_first, s, b), jnp.where(bright_first, 1 - s, 0))
            return one, two

        if style.by_channel:
            pivot = at[..., BRIGHTNESS, None]
            early, late = turn_and_saturate(here & (at < pivot)), turn_and_saturate(here & (at > pivot))
            return _HsvStage(early, setting(BRIGHTNESS, here), late)
        pivot = at[..., HUE, None]
        bright_first = at[..., BRIGHTNESS] < at[..., SATURATION]
        return _GreyStage(blends(here & (at < pivot)), setting(HUE, here), blends(here & (at > pivot)))

    pivot = at[..., CONTRAST, None]
    return stage(at < pivot), factors[..., CONTRAST], stage(at > pivot)


def _run(planes: Planes, stage: _Stage, style: Style) -> Planes:
    def apply(planes: Planes, step: _Blend) -> Planes:
        return _clipped(planes, step.factor, step.to_grey * grey(planes, style))

    if isinstance(stage, _HsvStage):
        planes = _turned(planes, *stage.early)
        planes = brightness(planes, stage.brightness, style)
        return _turned(planes, *stage.late)
    planes = apply(apply(planes, stage.early[0]), stage.early[1])
    planes = _turned(planes, stage.turn)
    return apply(apply(planes, stage.late[0]), stage.late[1])


def _turned(planes: Planes, turn: Array, saturate: ArrayLike = 1.0) -> Planes:
    """`turn_hue`, except that what is not to be changed would come back with other last bits."""
    same = (turn == 0) & (jnp.asarray(saturate) == 1)
    turned = turn_hue(planes, turn, saturate)
    red, green, blue = (jnp.where(same, old, new) for old, new in zip(planes, turned, strict=True))
    return red, green, blue


def _clipped(planes: Planes, factor: ArrayLike, shift: ArrayLike | Planes) -> Planes:
    shifts = shift if isinstance(shift, tuple) else (shift, shift, shift)
    red, green, blue = (jnp.clip(factor * plane + s, 0, 1) for plane, s in zip(planes, shifts, strict=True))
    return red, green, blue
