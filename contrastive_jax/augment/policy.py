"""The views of a paper: which operations, how strong, how often, in the order of the MoCo repositories.

Views are numbered: the global ones first, then the local ones of multi-crop, small crops of small parts (SwAV, DINO).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from contrastive_jax.augment import color, geometry, planes, spaces
from contrastive_jax.augment.crops import MIN_OBJECT_COVERED
from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.styles import STYLES, Style

T = TypeVar('T')

_CROP, _DISTORT, _PATCHES = 0, 1, 2**20  # the parts of a view, each with its own key


class _Draws(NamedTuple):
    """What is random about a view apart from its box and its jitter: numbers in [0, 1), each [b]."""

    flip: Array
    jitter: Array
    grayscale: Array
    blur: Array
    sigma: Array
    solarize: Array


@dataclasses.dataclass(frozen=True)
class Policy:
    """The augmentation of one recipe; its fields are the config section `config.augment`, one to one.

    A view is `distort(crop(image))`. The two are separate because crops may come from the host, as uint8. Everything
    random about an example comes from its key and the view's number: not from its place in the batch, nor from the
    devices. The number of a local view may be a traced integer, so that one program makes all of them.

    MoCo v2: all defaults.
    MoCo v1: jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1, grayscale_first=True, blur=(0, 0).
    MoCo v3: jitter=(0.4, 0.4, 0.2, 0.1), blur=(1, 0.1), solarize=(0, 0.2).
    BYOL: the same with style='byol', crop_scale=(0.08, 1), interpolation='bicubic'.
    SimCLR: style='simclr', crop_scale=(0.08, 1), interpolation='bicubic', jitter=(0.8, 0.8, 0.8, 0.2), mean=(0, 0, 0),
      std=(1, 1, 1).

    Attributes:
      style: whose image operations, a key of `styles.STYLES`: 'pil', 'simclr', 'simclrv1', 'byol'. It decides how crops
        are drawn and resized, what jitter, grey and blur compute, and how the strengths of the jitter are meant.
      crop_scale: least and greatest area of a crop, as a fraction of the image's.
      crop_ratio: least and greatest width / height of a crop.
      interpolation: 'bilinear' or 'bicubic', of crops.
      flip: probability of a mirrored view.
      jitter: strengths of brightness, contrast, saturation and hue (turns, at most 0.5).
      jitter_probability: how often the four are applied (all or none), in random order.
      grayscale: probability of a grey view.
      grayscale_first: grey before the jitter, as in MoCo v1 and InstDis, rather than after it.
      blur: probability of a Gaussian blur, for each global view; their number is that of the global views.
      blur_sigma: least and greatest standard deviation of the blur, in pixels.
      solarize: probability of solarisation, for each global view.
      local_crops: number of local views.
      local_size: their height and width.
      local_scale: least and greatest area of a local crop, as a fraction of the image's.
      local_blur: probability of a Gaussian blur of a local view.
      patches: how a view is cut into patches, and what happens to each of them (CPC); None: it stays whole.
      color_space: of the views, 'rgb', 'lab' or 'ycbcr'. All operations work on RGB; the result is converted.
      mean, std: of the channels, for the final normalisation. RGB lies in [0, 1], L in [0, 100], a and b in about
        [-110, 100], Y, Cb and Cr in [16, 240].
    """

    style: str = 'pil'
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = 'bilinear'
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grayscale: float = 0.2
    grayscale_first: bool = False
    blur: tuple[float, ...] = (0.5, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, ...] = (0.0, 0.0)
    local_crops: int = 0
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.14)
    local_blur: float = 0.5
    patches: Patches | None = None
    color_space: str = 'rgb'
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))  # configs bring lists; a hash needs tuples
        if isinstance(self.patches, Mapping):
            object.__setattr__(self, 'patches', Patches(**self.patches))

    @property
    def global_views(self) -> int:
        return len(self.blur)

    @property
    def num_views(self) -> int:
        return self.global_views + self.local_crops

    def view_sizes(self, image_size: int) -> tuple[int, ...]:
        """Height and width of each view, given that of the global ones."""
        return (image_size,) * self.global_views + (self.local_size,) * self.local_crops

    @property
    def view_scales(self) -> tuple[tuple[float, float], ...]:
        """Least and greatest area of each view's crop, as a fraction of the image's."""
        return (self.crop_scale,) * self.global_views + (self.local_scale,) * self.local_crops

    def __call__(
        self, keys: Array, images: Array, view: int | Array, size: int, dtype: DTypeLike = jnp.float32
    ) -> Array:
        """View number `view` of each image: `distort(crop(images))`.

        Args:
          keys: one key per example, [b]; the same for all views of a step.
          images: uint8 [b, H, W, 3].
          view: number of the view; one that is traced, as in a loop over views, is that of a local one.
          size: height and width of a global view.
          dtype: of the result.

        Returns:
          Normalised images [b, s, s, 3], s being the view's size, or their patches [b, R, C, p, p, 3].
        """
        return self.distort(keys, self.crop(keys, images, view, size), view, dtype)

    def crop(self, keys: Array, images: Array, view: int | Array, size: int) -> Array:
        """Random resized crops.

        Args:
          keys: [b]; images: uint8 [b, H, W, 3]; view, size: as for the whole view.

        Returns:
          float32 [b, s, s, 3] in [0, 255]. In the style of PIL they are whole grey levels, rounded where PIL rounds:
          what a host loader would have sent as uint8.
        """
        height, width = images.shape[1:3]
        size, scale = (self.local_size, self.local_scale) if self._is_local(view) else (size, self.crop_scale)

        style = self._style

        def box(key: Array) -> Array:
            return geometry.random_resized_crop_box(
                key, height, width, scale, self.crop_ratio, style.attempts, style.box
            )

        boxes = _apart(jax.vmap(box)(_view_keys(keys, view, _CROP)))
        resize = partial(geometry.resized_crop, images, boxes, (size, size), self.interpolation)
        if style.pillow_crops:
            return resize(whole_levels=True)
        # BYOL clips here; SimCLR clips the overshoot of bicubic only after the first step of its jitter.
        return jnp.clip(resize(antialias=False, clamp=False), 0, 255)

    def distort(self, keys: Array, crops: Array, view: int | Array, dtype: DTypeLike = jnp.float32) -> Array:
        """Flip, colours, blur and normalisation.

        What has probability 0 is not computed at all; what has a probability in between is computed and selected.

        Args:
          keys: [b]; crops: [b, s, s, 3] in [0, 255], uint8 or float; view, dtype: as for the whole view.

        Returns:
          Normalised images [b, s, s, 3], or their patches [b, R, C, p, p, 3].
        """
        style = self._style
        draws, (factors, order) = _apart(jax.vmap(self._draw)(_view_keys(keys, view, _DISTORT)))
        # The papers flip last. A mirror image commutes with all of the rest, and here a pixel may still be a byte.
        x = _sometimes(self.flip, draws.flip, geometry.hflip, crops)
        x = x.astype(jnp.promote_types(dtype, jnp.float32)) / 255
        rgb, grayscale = planes.split(x), partial(planes.grayscale, style=style)
        if self.grayscale_first:
            rgb = _sometimes(self.grayscale, draws.grayscale, grayscale, rgb)
        if self.jitter_probability > 0 and any(self.jitter):
            # Not a select of images: with neutral factors the jitter is the identity.
            neutral = jnp.array(style.neutral, factors.dtype)
            factors = jnp.where((draws.jitter < self.jitter_probability)[:, None], factors, neutral)
            rgb = planes.jitter(rgb, factors, order, style)
        if not self.grayscale_first:
            rgb = _sometimes(self.grayscale, draws.grayscale, grayscale, rgb)
        x = planes.join(rgb)
        low, high = self.blur_sigma
        sigma = low + (high - low) * draws.sigma
        radius = crops.shape[1] // 20 if style.zero_padded_blur else math.ceil(4 * high)
        padding: geometry.Padding = 'zero' if style.zero_padded_blur else 'edge'
        blur, solarize = self.local_blur, 0.0
        if not self._is_local(view):
            blur, solarize = self.blur[view], self.solarize[view]
        if radius > 0:  # a kernel of one pixel changes nothing
            taps = 2 * radius + 1
            x = _sometimes(blur, draws.blur, lambda x: geometry.gaussian_blur(x, sigma, taps, padding), x)
        x = _sometimes(solarize, draws.solarize, color.solarize, x)
        if self.patches is not None:
            x = self.patches(_view_keys(keys, view, _PATCHES), x)
        return self._finish(x, dtype)

    def normalize(self, images: Array, dtype: DTypeLike = jnp.float32) -> Array:
        """For evaluation: images [..., 3] in [0, 255], uint8 or float, only converted and normalised."""
        return self._finish(images.astype(jnp.promote_types(dtype, jnp.float32)) / 255, dtype)

    def to_rgb(self, views: Array) -> Array:
        """For pictures: undoes the normalisation and the colour space of views [..., 3]; RGB in [0, 1]."""
        x = jnp.asarray(views, jnp.float32) * jnp.asarray(self.std) + jnp.asarray(self.mean)
        return spaces.to_rgb(x, self.color_space)

    def problems(self) -> list[str]:
        """What is wrong with the values, a readable line each; empty if nothing is."""
        found = []

        def check(name: str, good: bool, rule: str) -> None:
            if not good:
                found.append(f'augment.{name} is {getattr(self, name)!r}: {rule}')

        for name in ('flip', 'jitter_probability', 'grayscale', 'local_blur'):
            check(name, _probability(getattr(self, name)), 'a probability lies in [0, 1]')
        for name in ('blur', 'solarize'):
            values = getattr(self, name)
            good = isinstance(values, tuple) and len(values) > 0 and all(map(_probability, values))
            check(name, good, 'give a probability in [0, 1] for each view, e.g. (0.5, 0.5)')
        if isinstance(self.blur, tuple) and isinstance(self.solarize, tuple):
            rule = f'as many views as augment.blur, which is {self.blur!r}'
            check('solarize', len(self.blur) == len(self.solarize), rule)
        check('local_crops', _whole(self.local_crops) and self.local_crops >= 0, 'a number of views, at least 0')
        check('local_size', _whole(self.local_size) and self.local_size >= 1, 'a size in pixels, at least 1')
        for name in ('crop_scale', 'local_scale'):
            check(name, _rising(getattr(self, name), most=1), 'two areas with 0 < least <= greatest <= 1')
        check('crop_ratio', _rising(self.crop_ratio), 'two ratios with 0 < least <= greatest, e.g. (0.75, 1.333)')
        check('blur_sigma', _rising(self.blur_sigma), 'two widths in pixels with 0 < least <= greatest')
        check('interpolation', self.interpolation in geometry.INTERPOLATIONS, f'one of {geometry.INTERPOLATIONS}')
        check(
            'jitter',
            _numbers(self.jitter, 4) and min(self.jitter) >= 0 and self.jitter[3] <= 0.5,
            'four strengths >= 0 (brightness, contrast, saturation, hue), the hue at most 0.5',
        )
        check('grayscale_first', isinstance(self.grayscale_first, bool), 'True or False')
        check('style', self.style in STYLES, f'one of {tuple(STYLES)}')
        for name in ('crop_scale', 'local_scale') if self.local_crops else ('crop_scale',):
            if self.style in ('simclr', 'simclrv1') and _rising(getattr(self, name)):
                rule = f'style {self.style!r} takes no area below {MIN_OBJECT_COVERED}, as in the official code'
                check(name, getattr(self, name)[1] > MIN_OBJECT_COVERED, rule)
        check('color_space', self.color_space in spaces.SPACES, f'one of {tuple(spaces.SPACES)}')
        low, white, least, scale = 0, 1, 0, 'in units of [0, 1]; divide values in grey levels by 255'
        if self.color_space != 'rgb':  # deviations below 1 are left over from RGB
            low, white, least, scale = -128, 255, 1, f'in units of {self.color_space!r}, where channels reach past 100'
        check('mean', _numbers(self.mean, 3) and all(low <= m <= white for m in self.mean), f'three means {scale}')
        good = _numbers(self.std, 3) and all(s > 0 and least <= s <= white for s in self.std)
        check('std', good, f'three deviations > 0, {scale}')
        return found + (self.patches.problems() if self.patches else [])

    def _is_local(self, view: int | Array) -> bool:
        return not isinstance(view, int) or view >= self.global_views

    @property
    def _style(self) -> Style:
        return STYLES[self.style]

    def _finish(self, x: Array, dtype: DTypeLike) -> Array:
        """From RGB in [0, 1] to what a network sees."""
        return color.normalize(spaces.from_rgb(x, self.color_space), self.mean, self.std).astype(dtype)

    def _draw(self, key: Array) -> tuple[_Draws, tuple[Array, Array]]:
        """The random numbers of one view of one example; those nobody uses are never computed."""
        jitter, rest = jax.random.split(key)
        numbers = jax.random.uniform(rest, (len(_Draws._fields),), jnp.float32)
        return _Draws(*numbers), color.draw_jitter(jitter, self.jitter, self._style)


def _view_keys(keys: Array, view: int | Array, part: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, 2 * view + part))(keys)


def _apart(draws: Any) -> Any:
    """Keeps what is drawn once per image out of the loops over pixels, where XLA would draw it again for each."""
    return jax.tree.map(lax.optimization_barrier, draws)


def _sometimes(probability: float, number: Array, change: Callable[[T], T], x: T) -> T:
    """Applies `change` to the images (or their planes) whose number in [0, 1) is below the probability."""
    if probability == 0:
        return x
    if probability == 1:
        return change(x)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(jnp.expand_dims(number < probability, range(1, old.ndim)), new, old)

    return jax.tree.map(choose, change(x), x)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _probability(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, tuple) and len(values) == count and all(map(_number, values))


def _rising(values: Any, most: float = math.inf) -> bool:
    return _numbers(values, 2) and 0 < values[0] <= values[1] <= most
