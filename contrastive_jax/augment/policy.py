"""The augmentation of a paper: operations, their strengths and probabilities, in the order of the MoCo repositories.

Views are numbered: first the global ones, then the local ones of multi-crop, which are smaller crops of smaller parts
(SwAV, DINO).
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from contrastive_jax.augment import color, geometry, planes, separable, spaces
from contrastive_jax.augment.chance import sometimes
from contrastive_jax.augment.crops import MIN_OBJECT_COVERED
from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.styles import STYLES, Style
from contrastive_jax.errors import Problem, UserError
from contrastive_jax.rules import field, field_problems, import_named

MAX_CHANNELS = 16
SHOWN_STD = 2.5  # pictures of other channels than RGB go from mean - SHOWN_STD * std to mean + SHOWN_STD * std

# The steps that make a view; each has its own random key.
_CROP, _DISTORT, _PATCHES, _EXTRA, _WARP = 0, 1, 2**20, 2**21, 2**22


class _Draws(NamedTuple):
    """The random numbers of views other than those of the box and the jitter, uniform in [0, 1), each [b]."""

    flip: Array
    jitter: Array
    grayscale: Array
    blur: Array
    sigma: Array
    solarize: Array


@dataclasses.dataclass(frozen=True)
class Policy:
    """The augmentation of one recipe; its fields are the config section `config.augment`.

    A view is `distort(crop(image))`. The two are separate because the host may cut the crops. All randomness
    comes from the key of the example and the number of the view, so it does not depend on the position in the batch or
    on the devices. The number of a local view may be traced, so that one program makes all local views.

    MoCo v2: all defaults.
    MoCo v1: jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1, grayscale_first=True, blur=(0, 0).
    MoCo v3: jitter=(0.4, 0.4, 0.2, 0.1), blur=(1, 0.1), solarize=(0, 0.2).
    BYOL: the same with style='byol', crop_scale=(0.08, 1), interpolation='bicubic'.
    SimCLR: style='simclr', crop_scale=(0.08, 1), interpolation='bicubic', jitter=(0.8, 0.8, 0.8, 0.2), mean=(0, 0, 0),
      std=(1, 1, 1).

    Attributes:
      style: the library whose operations are used, a key of `styles.STYLES`: 'pil', 'simclr', 'simclrv1' or 'byol'. It
        decides how crops are drawn and resized, and how jitter, grayscale and blur are defined.
      crop_scale: the smallest and largest area of a crop, as a fraction of the image's.
      crop_ratio: the smallest and largest width / height of a crop.
      interpolation: the interpolation of crops, 'bilinear' or 'bicubic'.
      flip: the probability of a horizontal flip.
      warp: the probability of a rotation with shear, about the center of the view; pixels from outside it are black.
      rotation: the largest angle of a warp, in degrees.
      shear: the largest shear of a warp, along each axis.
      jitter: the strengths of brightness, contrast, saturation and hue (in turns, at most 0.5). Saturation and hue are
        those of RGB; with other channels they must be 0.
      jitter_probability: the probability that these four are applied, in random order; otherwise none is.
      grayscale: the probability of a gray view, of RGB.
      grayscale_first: whether grayscale comes before the jitter, as in MoCo v1 and InstDis, instead of after it.
      blur: the probability of a Gaussian blur, for each global view; its length is the number of global views.
      blur_sigma: the smallest and largest standard deviation of the blur, in pixels.
      solarize: the probability of solarization, for each global view.
      local_crops: the number of local views.
      local_size: the height and width of local views, in pixels.
      local_scale: the smallest and largest area of a local crop, as a fraction of the image's.
      local_blur: the probability of a Gaussian blur of a local view.
      patches: the patches of views and their augmentation (CPC, relative position, jigsaw); None: views are not cut.
      extra: a function of the user's own, 'package.module:name', that changes each view after blur and solarization and
        before patches and normalization; '': none. It is called as `extra(keys, images, view)`, with a key for each
        example [b], images float[b, s, s, C] (in [0, 1], mostly RGB) and the number of the view, inside the compiled
        step, and returns images of the same shape and dtype.
      color_space: the color space of the views, 'rgb', 'lab' or 'ycbcr'. All operations work on RGB; the result is
        converted.
      mean, std: the mean and standard deviation of each channel, for the final normalization; their number is that of
        the channels. The range of RGB and of other channels is [0, 1], of L [0, 100], of a and b about [-110, 100], of
        Y, Cb and Cr [16, 240]. In the config of a new run (): estimated from the training images.
    """

    style: str = field('pil', choices=tuple(STYLES))
    crop_scale: tuple[float, float] = field((0.2, 1.0), above=0, most=1)
    crop_ratio: tuple[float, float] = field((3 / 4, 4 / 3), above=0)
    interpolation: str = field('bilinear', choices=tuple(geometry.INTERPOLATIONS))
    flip: float = field(0.5, least=0, most=1)
    warp: float = field(0.0, least=0, most=1)
    rotation: float = field(15.0, least=0, most=180)
    shear: float = field(0.2, least=0, below=1)
    jitter: tuple[float, float, float, float] = field((0.4, 0.4, 0.4, 0.1), least=0)
    jitter_probability: float = field(0.8, least=0, most=1)
    grayscale: float = field(0.2, least=0, most=1)
    grayscale_first: bool = False
    blur: tuple[float, ...] = field((0.5, 0.5), least=0, most=1, min_items=1)
    blur_sigma: tuple[float, float] = field((0.1, 2.0), above=0)
    solarize: tuple[float, ...] = field((0.0, 0.0), least=0, most=1, min_items=1)
    local_crops: int = field(0, least=0, most=256)
    local_size: int = field(96, least=1)
    local_scale: tuple[float, float] = field((0.05, 0.14), above=0, most=1)
    local_blur: float = field(0.5, least=0, most=1)
    patches: Patches | None = None
    extra: str = ''
    color_space: str = field('rgb', choices=tuple(spaces.SPACES))
    mean: tuple[float, ...] = field((0.485, 0.456, 0.406), least=-128, most=255)
    std: tuple[float, ...] = field((0.229, 0.224, 0.225), above=0, most=255)

    def __post_init__(self) -> None:
        for name in (each.name for each in dataclasses.fields(self)):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))  # configs may hold lists, which are not hashable
        if isinstance(self.patches, Mapping):
            object.__setattr__(self, 'patches', Patches(**self.patches))

    @property
    def channels(self) -> int:
        """C, the number of channels of the images."""
        return len(self.mean)

    @property
    def global_views(self) -> int:
        """The number of global views."""
        return len(self.blur)

    @property
    def num_views(self) -> int:
        """The number of global and local views."""
        return self.global_views + self.local_crops

    def view_sizes(self, image_size: int) -> tuple[int, ...]:
        """The height and width of each view; `image_size` is that of the global views."""
        return (image_size,) * self.global_views + (self.local_size,) * self.local_crops

    def blur_radius(self, size: int) -> int:
        """Pixels on each side of one that its blur sums over, in a view of `size` pixels; 0: it is the identity."""
        wide = STYLES[self.style].zero_padded_blur
        return size // 20 if wide else math.ceil(4 * self.blur_sigma[1])

    @property
    def view_scales(self) -> tuple[tuple[float, float], ...]:
        """The smallest and largest area of the crop of each view, as a fraction of the image's."""
        return (self.crop_scale,) * self.global_views + (self.local_scale,) * self.local_crops

    def __call__(
        self, keys: Array, images: Array, view: int | Array, size: int, dtype: DTypeLike = jnp.float32
    ) -> Array:
        """View number `view` of each image: `distort(crop(images))`.

        Args:
          keys: [b], one key for each example, the same for all views of a step.
          images: uint8 or uint16 [b, H, W, C].
          view: the number of the view; a traced number must be that of a local view.
          size: the height and width of a global view, in pixels.
          dtype: the dtype of the result.

        Returns:
          Normalized images [b, s, s, C], where s is the size of the view, or their patches [b, R, S, p, p, C].
        """
        return self.distort(keys, self.crop(keys, images, view, size), view, dtype)

    def crop(self, keys: Array, images: Array, view: int | Array, size: int) -> Array:
        """Random resized crops.

        Args:
          keys, images, view, size: as in `__call__`.

        Returns:
          float32 [b, s, s, C] in [0, 255]. In PIL's style, those of uint8 images are integers, rounded where PIL
          rounds, as the crops of the loader on the host. Those of uint16 images are not rounded.
        """
        height, width = images.shape[1:3]
        size, scale = (self.local_size, self.local_scale) if self._is_local(view) else (size, self.crop_scale)

        style = self._style

        def box(key: Array) -> Array:
            return geometry.random_resized_crop_box(
                key, height, width, scale, self.crop_ratio, style.attempts, style.box
            )

        boxes = _barrier(jax.vmap(box)(_view_keys(keys, view, _CROP)))
        resize = partial(geometry.resized_crop, images, boxes, (size, size), self.interpolation)
        unit = _white(images) / 255
        if style.pillow_crops:
            return resize(whole_levels=True) if unit == 1 else jnp.clip(resize() / unit, 0, 255)
        # BYOL clips the overshoot of bicubic here; SimCLR itself clips it only after the first operation of its jitter.
        return jnp.clip(resize(antialias=False, clamp=False) / unit, 0, 255)

    def distort(self, keys: Array, crops: Array, view: int | Array, dtype: DTypeLike = jnp.float32) -> Array:
        """Applies flip, warp, color operations, blur, solarization, patches and normalization to crops.

        An operation with probability 0 is not computed; with a probability below 1, its result is computed for all
        images and selected for some.

        Args:
          keys, view, dtype: as in `__call__`.
          crops: [b, s, s, C], uint8, uint16, or float in [0, 255].

        Returns:
          Normalized images [b, s, s, C], or their patches [b, R, S, p, p, C].
        """
        style = self._style
        draws, (factors, order) = _barrier(jax.vmap(self._draw)(_view_keys(keys, view, _DISTORT)))
        # The papers flip last. A flip commutes with all other operations, and here the pixels may be whole levels.
        x = sometimes(self.flip, draws.flip, geometry.hflip, crops)
        x = _in_unit_range(x, dtype)
        if self.warp > 0:
            x = self._warp(_view_keys(keys, view, _WARP), x)
        channels, grayscale = planes.split(x), partial(planes.grayscale, style=style)
        if self.grayscale_first:
            channels = sometimes(self.grayscale, draws.grayscale, grayscale, channels)
        if self.jitter_probability > 0 and any(self.jitter):
            # Selects factors, not images: with neutral factors the jitter is the identity.
            neutral = jnp.array(style.neutral, factors.dtype)
            factors = jnp.where((draws.jitter < self.jitter_probability)[:, None], factors, neutral)
            channels = planes.jitter(channels, factors, order, style)
        if not self.grayscale_first:
            channels = sometimes(self.grayscale, draws.grayscale, grayscale, channels)
        x = planes.join(channels)
        low, high = self.blur_sigma
        sigma = low + (high - low) * draws.sigma
        radius = self.blur_radius(crops.shape[1])
        padding: separable.Padding = 'zero' if style.zero_padded_blur else 'edge'
        blur, solarize = self.local_blur, 0.0
        if not self._is_local(view):
            blur, solarize = self.blur[view], self.solarize[view]
        if radius > 0:  # with one tap the blur is the identity
            taps = 2 * radius + 1
            x = sometimes(blur, draws.blur, lambda x: geometry.gaussian_blur(x, sigma, taps, padding), x)
        x = sometimes(solarize, draws.solarize, color.solarize, x)
        if self.extra:
            x = self._apply_extra(_view_keys(keys, view, _EXTRA), x, view)
        if self.patches is not None:
            x = self.patches(_view_keys(keys, view, _PATCHES), x)
        return self._finish(x, dtype)

    def _warp(self, keys: Array, x: Array) -> Array:
        draws = _barrier(jax.vmap(lambda key: jax.random.uniform(key, (4,), jnp.float32))(keys))
        rotation, down, right = (2 * draws[:, i] - 1 for i in range(1, 4))
        turn = partial(
            geometry.warp,
            angle=math.radians(self.rotation) * rotation,
            shear_down=self.shear * down,
            shear_right=self.shear * right,
            fill=0.0,
        )
        return sometimes(self.warp, draws[:, 0], turn, x)

    def _apply_extra(self, keys: Array, images: Array, view: int | Array) -> Array:
        changed = import_named('augment.extra', self.extra)(keys, images, view)
        if (changed.shape, changed.dtype) != (images.shape, images.dtype):
            raise UserError(
                f'augment.extra {self.extra!r} returns {changed.dtype}{list(changed.shape)} for '
                f'{images.dtype}{list(images.shape)} -> return images of the same shape and dtype'
            )
        return changed

    def normalize(self, images: Array, dtype: DTypeLike = jnp.float32) -> Array:
        """Normalizes images for evaluation, without augmentation.

        Args:
          images: [..., C], uint8, uint16, or float in [0, 255].
          dtype: the dtype of the result.

        Returns:
          [..., C], in the color space of the views.
        """
        return self._finish(_in_unit_range(images, dtype), dtype)

    def denormalize(self, views: Array) -> Array:
        """Undoes the normalization and the color space of views [..., C]; returns [..., C] in [0, 1]."""
        x = jnp.asarray(views, jnp.float32) * jnp.asarray(self.std) + jnp.asarray(self.mean)
        return spaces.to_rgb(x, self.color_space) if self.channels == 3 else jnp.clip(x, 0, 1)

    def to_rgb(self, views: Array) -> Array:
        """Views [..., C] as RGB in [0, 1], for display.

        RGB loses its normalization. Of more channels than three the first three are shown as red, green and blue, of
        fewer the first one as gray, each from its mean - SHOWN_STD * std to its mean + SHOWN_STD * std.
        """
        if self.channels == 3:
            return self.denormalize(views)
        shown = views[..., :3] if self.channels > 3 else jnp.repeat(views[..., :1], 3, axis=-1)
        return jnp.clip(0.5 + jnp.asarray(shown, jnp.float32) / (2 * SHOWN_STD), 0, 1)

    @property
    def shown_channels(self) -> str:
        """What `to_rgb` shows of images that are not RGB, in words; '' for RGB."""
        if self.channels == 3:
            return ''
        return f'channels 1 to 3 of {self.channels}' if self.channels > 3 else f'channel 1 of {self.channels}'

    def problems(self) -> list[Problem]:
        """One line for each illegal value; empty if all values are legal."""
        found = field_problems('augment', self)
        wrong = {problem.field for problem in found}

        def right(*names: str) -> bool:
            return not wrong & {f'augment.{name}' for name in names}

        def add(name: str, remedy: str) -> None:
            path = f'augment.{name}'
            found.append(Problem(f'{path} is {getattr(self, name)!r}', field=path, remedy=remedy))

        if right('blur', 'solarize') and len(self.blur) != len(self.solarize):
            add('solarize', f'give as many probabilities as augment.blur has, which is {self.blur!r}')
        for name in ('crop_scale', 'crop_ratio', 'blur_sigma', 'local_scale'):
            if right(name) and getattr(self, name)[0] > getattr(self, name)[1]:
                add(name, 'give the smaller number first')
        if right('jitter') and self.jitter[3] > 0.5:
            add('jitter', 'give a hue, the fourth strength, of at most 0.5')
        for name in ('crop_scale', 'local_scale') if self.local_crops else ('crop_scale',):
            if self.style in ('simclr', 'simclrv1') and right(name):
                smallest, largest = getattr(self, name)
                if smallest <= largest <= MIN_OBJECT_COVERED:
                    rule = f'style {self.style!r} cuts no smaller area than {MIN_OBJECT_COVERED}'
                    add(name, f'{rule}: give a larger second area')
        least, white, smallest, units = 0, 1, 0, 'in units of [0, 1] (divide 8-bit levels by 255)'
        if self.color_space != 'rgb':  # deviations below 1 are most likely those of RGB
            least, white, smallest, units = -128, 255, 1, f'in units of {self.color_space!r}, where channels exceed 100'
        if right('mean') and not all(least <= m <= white for m in self.mean):
            add('mean', f'give means {units}')
        if right('std') and not all(smallest <= s <= white for s in self.std):
            add('std', f'give standard deviations above 0, {units}')
        if right('mean', 'std') and len(self.mean) != len(self.std):
            add('std', f'give as many as augment.mean has, which is {self.mean!r}')
        if right('mean') and not 1 <= self.channels <= MAX_CHANNELS:
            add('mean', f'give one value for each of 1 to {MAX_CHANNELS} channels')
        if right('mean', 'color_space') and self.color_space != 'rgb' and self.channels != 3:
            add('color_space', f"it is computed from RGB, and augment.mean has {self.channels} channels: use 'rgb'")
        patches = self.patches.problems() if isinstance(self.patches, Patches) else []
        return found + self._extra_problems() + patches

    def _extra_problems(self) -> list[Problem]:
        """What is wrong with a user's own function."""
        path = 'augment.extra'
        if not self.extra or not isinstance(self.extra, str):
            return []
        if ':' not in self.extra:
            remedy = "name a function as 'package.module:name', or leave it empty"
            return [Problem(f'{path} is {self.extra!r}', field=path, remedy=remedy)]
        try:
            found = import_named(path, self.extra)
        except UserError as error:
            return [Problem(str(error), field=path)]
        if callable(found):
            return []
        return [Problem(f'{path} {self.extra!r} cannot be called', field=path, remedy='name a function')]

    def _is_local(self, view: int | Array) -> bool:
        return not isinstance(view, int) or view >= self.global_views

    @property
    def _style(self) -> Style:
        return STYLES[self.style]

    def _finish(self, x: Array, dtype: DTypeLike) -> Array:
        """Converts pixels in [0, 1] to the input of a network."""
        return color.normalize(spaces.from_rgb(x, self.color_space), self.mean, self.std).astype(dtype)

    def _draw(self, key: Array) -> tuple[_Draws, tuple[Array, Array]]:
        """The random numbers of one view of one example; XLA removes those that are not used."""
        jitter, rest = jax.random.split(key)
        numbers = jax.random.uniform(rest, (len(_Draws._fields),), jnp.float32)
        return _Draws(*numbers), color.draw_jitter(jitter, self.jitter, self._style)


def _white(images: Array) -> int:
    """The level that is white: 65535 of uint16 images, 255 of uint8 images and of floats."""
    return 65535 if images.dtype == jnp.uint16 else 255


def _in_unit_range(images: Array, dtype: DTypeLike) -> Array:
    """Pixels in [0, 1], in `dtype` or float32, whichever is wider."""
    return images.astype(jnp.promote_types(dtype, jnp.float32)) / _white(images)


def _view_keys(keys: Array, view: int | Array, part: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, 2 * view + part))(keys)


def _barrier(draws: Any) -> Any:
    """A barrier after draws that are made once for each image; without it XLA would repeat them for each pixel."""
    return jax.tree.map(lax.optimization_barrier, draws)
