"""An image is cut into a grid of patches, and each patch is augmented separately (CPC, relative position, jigsaw).

Otherwise low-level properties that neighboring patches share (continuing edges, a tint, the blur of a lens) would
identify the right latent, or the position of a patch, without any use of the content.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.augment import color, geometry, planes
from contrastive_jax.augment.chance import sometimes
from contrastive_jax.errors import Problem
from contrastive_jax.models.cpc import cut_patches
from contrastive_jax.rules import field, field_problems


class _Draws(NamedTuple):
    """The random numbers of patches other than those of the jitter, uniform in [0, 1), each [n]."""

    top: Array
    left: Array
    flip: Array
    warp: Array
    rotation: Array
    shear_down: Array
    shear_right: Array
    jitter: Array
    grayscale: Array
    color_drop: Array
    channel: Array


@dataclasses.dataclass(frozen=True)
class Patches:
    """The augmentation of patches; its fields are the config section `config.augment.patches`.

    CPC v1 (arXiv:1807.03748) uses crop=60 of 64 pixels. CPC v2 (arXiv:1905.09272) applies to each patch two operations
    of AutoAugment, shear and elastic deformation, Szegedy's color operations and grayscale; its previous version used
    color dropping. Here `warp` rotates and shears; elastic deformation and AutoAugment's tone curves are not
    implemented.

    Relative position (arXiv:1505.05192): size=110, stride=144, tile=96, color_drop=1: patches of 96 pixels with a gap
    of 48 pixels, each moved by up to 7 pixels. Jigsaw (arXiv:1603.09246): size=75, stride=75, tile=64, channel_shift=2.

    Attributes:
      size: the height and width of a patch, in pixels; with CPC equal to the encoder's.
      stride: the distance from one patch to the next, in pixels; with CPC equal to the encoder's.
      crop: the size in pixels of a random square of the patch, which is moved to the middle of a black patch; 0: the
        whole patch.
      tile: the size in pixels of a random square of the patch that replaces it, so that neighbors have a random gap;
        0: the whole patch.
      channel_shift: each channel of a tile is moved by up to so many pixels along each axis, within the patch, against
        chromatic aberration; patches without color are not changed.
      flip: the probability of a horizontal flip.
      warp: the probability of a rotation with shear; pixels from outside the patch are gray.
      rotation: the largest angle of a warp, in degrees.
      shear: the largest shear of a warp, along each axis.
      jitter: the strengths of brightness, contrast, saturation and hue (in turns, at most 0.5).
      jitter_probability: the probability that these four are applied, in random order; otherwise none is.
      grayscale: the probability of a gray patch.
      color_drop: the probability that one random channel is kept and the other two become mid-gray (Doersch et al.).
    """

    size: int = field(80, least=1)
    stride: int = field(36, least=1)
    crop: int = field(0, least=0)
    tile: int = field(0, least=0)
    channel_shift: int = field(0, least=0)
    flip: float = field(0.0, least=0, most=1)
    warp: float = field(0.0, least=0, most=1)
    rotation: float = field(30.0, least=0, most=180)
    shear: float = field(0.3, least=0, below=1)
    jitter: tuple[float, float, float, float] = field((0.0, 0.0, 0.0, 0.0), least=0)
    jitter_probability: float = field(0.8, least=0, most=1)
    grayscale: float = field(0.0, least=0, most=1)
    color_drop: float = field(0.0, least=0, most=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'jitter', tuple(self.jitter))  # configs may hold lists, which are not hashable

    def __call__(self, keys: Array, images: Array) -> Array:
        """Cuts images into patches and augments each. Operations with probability 0 are not computed.

        Args:
          keys: [b], one key for each example; an example's patches depend on its key, not on its position in the batch.
          images: float [b, H, W, C] in [0, 1].

        Returns:
          [b, R, C, p, p, channels] in [0, 1], where p is `tile` or, without tiles, `size`.
        """
        x = cut_patches(images, self.size, self.stride)
        shape, numbers = x.shape, jnp.arange(x.shape[1] * x.shape[2])
        keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers))(keys).reshape(-1)
        draws, (factors, order) = jax.tree.map(lax.optimization_barrier, jax.vmap(self._draw)(keys))
        x = x.reshape(-1, *shape[3:])  # [n, p, p, C]
        if 0 < self.crop < self.size:
            x = _crop(x, draws.top, draws.left, self.crop)
        if self.tile:
            x = self._tiles(keys, x, draws)
        x = sometimes(self.flip, draws.flip, geometry.hflip, x)
        x = sometimes(self.warp, draws.warp, lambda x: self._warp(x, draws), x)
        if self.jitter_probability > 0 and any(self.jitter):
            neutral = jnp.array([1, 1, 1, 0], factors.dtype)
            factors = jnp.where((draws.jitter < self.jitter_probability)[:, None], factors, neutral)
            x = planes.join(planes.jitter(planes.split(x), factors, order))
        x = sometimes(self.grayscale, draws.grayscale, color.grayscale, x)
        x = sometimes(self.color_drop, draws.color_drop, lambda x: keep_channel(x, draws.channel), x)
        return x.reshape(*shape[:3], *x.shape[1:])

    @property
    def output_size(self) -> int:
        """The height and width of the patches that come out, in pixels."""
        return self.tile or self.size

    def problems(self) -> list[Problem]:
        """One line for each illegal value; empty if all values are legal."""
        path = 'augment.patches'
        found = field_problems(path, self)
        wrong = {problem.field for problem in found}
        if not wrong & {f'{path}.crop', f'{path}.size'} and self.crop > self.size:
            remedy = f'give at most {self.size}, the size of a patch; 0: the whole patch'
            found.append(Problem(f'{path}.crop is {self.crop!r}', field=f'{path}.crop', remedy=remedy))
        if not wrong & {f'{path}.tile', f'{path}.size'} and self.tile > self.size:
            remedy = f'give at most {self.size}, the size of a patch; 0: the whole patch'
            found.append(Problem(f'{path}.tile is {self.tile!r}', field=f'{path}.tile', remedy=remedy))
        if not wrong & {f'{path}.tile', f'{path}.channel_shift'} and self.channel_shift and not self.tile:
            message, remedy = (
                f'{path}.channel_shift is {self.channel_shift!r} without tiles',
                'give augment.patches.tile',
            )
            found.append(Problem(message, field=f'{path}.channel_shift', remedy=remedy))
        if f'{path}.jitter' not in wrong and self.jitter[3] > 0.5:
            remedy = 'give a hue, the fourth strength, of at most 0.5'
            found.append(Problem(f'{path}.jitter is {self.jitter!r}', field=f'{path}.jitter', remedy=remedy))
        return found

    def _draw(self, key: Array) -> tuple[_Draws, tuple[Array, Array]]:
        """The random numbers of one patch; XLA removes those that are not used."""
        jitter, rest = jax.random.split(key)
        numbers = jax.random.uniform(rest, (len(_Draws._fields),), jnp.float32)
        return _Draws(*numbers), color.draw_jitter(jitter, self.jitter)

    def _tiles(self, keys: Array, x: Array, draws: _Draws) -> Array:
        """A random square of each patch [n, p, p, C]; its channels are moved by `channel_shift`."""
        room, shift = x.shape[1] - self.tile, self.channel_shift

        def cut(key: Array, x: Array, top: Array, left: Array) -> Array:
            if not shift:
                return lax.dynamic_slice(x, (top, left, jnp.zeros_like(top)), (self.tile, self.tile, x.shape[-1]))
            moves = jax.random.randint(jax.random.fold_in(key, 1), (x.shape[-1], 2), -shift, shift + 1, jnp.int32)
            moves = jnp.where(jnp.all(x == x[..., :1]), 0, moves)
            corners = jnp.clip(jnp.stack([top, left]) + moves, 0, room)  # [C, 2]
            cut_channel = lambda plane, corner: lax.dynamic_slice(plane, tuple(corner), (self.tile, self.tile))  # noqa: E731
            return jax.vmap(cut_channel, (-1, 0), -1)(x, corners)

        top, left = ((u * (room + 1)).astype(jnp.int32) for u in (draws.top, draws.left))
        return jax.vmap(cut)(keys, x, top, left)

    def _warp(self, x: Array, draws: _Draws) -> Array:
        rotation, down, right = (2 * u - 1 for u in (draws.rotation, draws.shear_down, draws.shear_right))
        angle = math.radians(self.rotation) * rotation
        return geometry.warp(x, angle, self.shear * down, self.shear * right, fill=0.5)


def keep_channel(x: Array, number: Array) -> Array:
    """Keeps one channel of patches [n, p, p, 3], chosen by a number [n] in [0, 1); the others become mid-gray."""
    kept = jnp.floor(3 * number)[:, None, None, None] == jnp.arange(3)
    return jnp.where(kept, x, 0.5)


def _crop(x: Array, top: Array, left: Array, size: int) -> Array:
    """Moves a square of each patch [n, p, p, C], chosen by numbers [n] in [0, 1), to the middle of a black patch."""
    room = x.shape[1] - size
    first, second = room // 2, room - room // 2

    def cut(x: Array, top: Array, left: Array) -> Array:
        return lax.dynamic_slice(x, (top, left, jnp.zeros_like(top)), (size, size, x.shape[-1]))

    top, left = ((u * (room + 1)).astype(jnp.int32) for u in (top, left))
    return jnp.pad(jax.vmap(cut)(x, top, left), ((0, 0), (first, second), (first, second), (0, 0)))
