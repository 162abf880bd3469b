"""Images as three planes, red, green and blue, each [..., H, W]: the arithmetic behind `color`.

On planes every step is elementwise with one index, so XLA fuses a chain of steps into one pass over memory. With the
channels on an axis, each grey would mix neighbours along it, and what came before would be computed again for each of
them. So a chain of colour operations is split into planes once, at its start, and joined once, at its end.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

Array = jax.Array
Planes = tuple[Array, Array, Array]

# Luma as PIL's conversion to 'L' computes it: ITU-R 601-2 (.299, .587, .114) in 16 bits. They sum to exactly 1, so grey
# stays grey. torchvision's float tensors use .2989 for red, which darkens white; the recipes were trained through PIL.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def split(x: Array) -> Planes:
    """[..., H, W, 3] as planes."""
    return x[..., 0], x[..., 1], x[..., 2]


def join(planes: Planes) -> Array:
    """Planes as [..., H, W, 3]."""
    return jnp.stack(planes, axis=-1)


def grey(planes: Planes, weights: Sequence[float] = LUMA) -> Array:
    """[..., H, W]: the weighted sum of the planes."""
    red, green, blue = planes
    return weights[0] * red + weights[1] * green + weights[2] * blue


def grayscale(planes: Planes, weights: Sequence[float] = LUMA) -> Planes:
    """The grey in all three planes."""
    level = grey(planes, weights)
    return level, level, level


def mean_grey(planes: Planes, weights: Sequence[float] = LUMA) -> Array:
    """[..., 1, 1]: the mean grey of each image."""
    return grey(planes, weights).mean(axis=(-2, -1), keepdims=True)


def blend(planes: Planes, target: ArrayLike, factor: Array) -> Planes:
    """From the target (factor 0) to the image (1) and on beyond it, clipped to [0, 1]."""
    return _clipped(planes, factor, (1 - factor) * target)


def turn_hue(planes: Planes, delta: Array) -> Planes:
    """Turns the hue by delta [..., 1, 1] turns: HSV and back in one.

    Value and chroma stay; the hue, in sixths of a turn from red, moves on. A channel falls from the value by the whole
    chroma where the hue is furthest from it: v - c clip(2 - |d|, 0, 1), with d the way from the hue to the opposite of
    the channel, in [-3, 3].
    """
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    hue = difference / jnp.where(chroma > 0, chroma, 1) + 6 * delta + jnp.where(is_red, 0, jnp.where(is_green, 2, -2))

    def channel(opposite: int) -> Array:
        way = hue - opposite
        way -= 6 * jnp.round(way / 6)
        return value - chroma * jnp.clip(2 - jnp.abs(way), 0, 1)

    return channel(3), channel(-1), channel(1)


def jitter(planes: Planes, factors: Array, order: Array, weights: Sequence[float] = LUMA) -> Planes:
    """Brightness, contrast, saturation and hue, in an order of its own for each image; see `color.color_jitter`.

    Under vmap, a switch on the order would compute all four in each of four places, with a mean of the image each time.
    But each operation happens once. So the chain is laid out around contrast, whose mean is the one thing that needs a
    pass over the image: a stage of pointwise steps before it and one after it. In a stage, the two blends (brightness
    and saturation) may come before or after the hue. A step whose turn it is not has the factor 1, which leaves every
    bit as it was.
    """
    plan = _plan(factors.astype(planes[0].dtype), order)
    # The barrier keeps the planning, which is per image, out of the loops over pixels that use it.
    before, mix, after = jax.tree.map(lambda v: v[..., None, None], lax.optimization_barrier(plan))
    planes = _run(planes, before, weights)
    planes = blend(planes, mean_grey(planes, weights), mix)
    return _run(planes, after, weights)


class _Blend(NamedTuple):
    """factor * x + to_grey * grey(x): brightness where to_grey is 0, saturation where it is 1 - factor."""

    factor: Array
    to_grey: Array


class _Stage(NamedTuple):
    """Two blends, a turn of the hue (0: leave it alone), two blends."""

    early: tuple[_Blend, _Blend]
    turn: Array
    late: tuple[_Blend, _Blend]


def _plan(factors: Array, order: Array) -> tuple[_Stage, Array, _Stage]:
    """What each image does before contrast, its contrast factor, and what it does after; all arrays are [...]."""
    bright, mix, saturate, turn = jnp.moveaxis(factors, -1, 0)
    at = [jnp.argmax(order == i, axis=-1) for i in range(4)]
    bright_first = at[BRIGHTNESS] < at[SATURATION]

    def blends(here: Callable[[Array], Array]) -> tuple[_Blend, _Blend]:
        b = jnp.where(here(at[BRIGHTNESS]), bright, 1)
        s = jnp.where(here(at[SATURATION]), saturate, 1)
        one = _Blend(jnp.where(bright_first, b, s), jnp.where(bright_first, 0, 1 - s))
        two = _Blend(jnp.where(bright_first, s, b), jnp.where(bright_first, 1 - s, 0))
        return one, two

    def stage(here: Callable[[Array], Array]) -> _Stage:
        return _Stage(
            early=blends(lambda place: here(place) & (place < at[HUE])),
            turn=jnp.where(here(at[HUE]), turn, 0),
            late=blends(lambda place: here(place) & (place > at[HUE])),
        )

    return stage(lambda place: place < at[CONTRAST]), mix, stage(lambda place: place > at[CONTRAST])


def _run(planes: Planes, stage: _Stage, weights: Sequence[float]) -> Planes:
    def apply(planes: Planes, step: _Blend) -> Planes:
        return _clipped(planes, step.factor, step.to_grey * grey(planes, weights))

    planes = apply(apply(planes, stage.early[0]), stage.early[1])
    turned = turn_hue(planes, stage.turn)
    # A turn of 0 would come back with other last bits.
    red, green, blue = (jnp.where(stage.turn == 0, old, new) for old, new in zip(planes, turned, strict=True))
    return apply(apply((red, green, blue), stage.late[0]), stage.late[1])


def _clipped(planes: Planes, factor: Array, shift: ArrayLike) -> Planes:
    red, green, blue = (jnp.clip(factor * plane + shift, 0, 1) for plane in planes)
    return red, green, blue
