"""Decodes image files of any kind to RGB uint8 arrays, and cuts crops from them on the host.

The format is detected from the content of a file, not from its name. Each kind of image is converted as follows:

  grayscale, 1-bit      the value is repeated in all three channels
  CMYK                  converted by Pillow, which also undoes Adobe's inversion
  palette               replaced by its colors; transparency is ignored
  alpha                 dropped, as torchvision and TensorFlow do, which the papers used: hidden colors show
  16-bit color          the upper 8 bits of each color
  16- and 32-bit gray   `white` becomes 255, by default 65535 (Pillow alone clips everything above 255 to white)
  float gray            `white` becomes 255, by default 1.0; negative values become 0, in integers as well
  animated              the first frame
  EXIF orientation      applied; damaged EXIF is ignored
"""

import contextlib
import dataclasses
import io
import math
import os
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from contrastive_jax.augment.styles import PIL, Style
from contrastive_jax.models.interpolation import cubic, triangle

# Raster formats that Pillow decodes in this process (it starts Ghostscript for PostScript files).
_SAFE_FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'GIF', 'BMP', 'DIB', 'TIFF', 'PPM', 'AVIF', 'JPEG2000')
Image.init()  # registers the formats now, since threads would race to do it later
FORMATS = tuple(name for name in _SAFE_FORMATS if name in Image.OPEN)
EXTENSIONS = tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in FORMATS))

# Pillow warns about unusual EXIF, palettes and sizes once a file; this module handles these cases itself. The filter is
# permanent because warnings.catch_warnings is not thread-safe.
warnings.filterwarnings('ignore', module=r'PIL\.')

MAX_PIXELS = 100_000_000  # 300 MB as RGB; compared with the size in the header, before memory is allocated

# A JPEG may be decoded at a reduced size as long as its sides keep this many times the size of a crop. The smallest
# crops cover 5 % of the area, 0.22 of the side, so no crop is ever enlarged because of the reduction.
DRAFT_FACTOR = 4

# Gray images of more than 8 bits: 16 bits in either byte order, 32 bits, and floats.
DEEP_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N', 'F')
WHITES = (255, 1023, 4095, 16383, 65535)  # largest values of 8, 10, 12, 14 and 16 bits

LEAST_CROPPED = 128  # the size from which images are cropped for evaluation; smaller data sets come in their size

INTERPOLATIONS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}

# The transposition that undoes each value of the EXIF tag 'orientation', 0x0112.
_ORIENTATION_TAG = 0x0112
_BANDS_TAG = 0x0115  # SamplesPerPixel of a TIFF file
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """One image cannot be read; the message gives the reason. The loader replaces the image and counts it."""


def decode(
    file: str | os.PathLike | bytes, *, min_side: int = 0, white: float = 0, gray: np.dtype[Any] | None = None
) -> np.ndarray:
    """Decodes an image file by the rules at the top of this file.

    Args:
      file: a path, or the bytes of the file.
      min_side: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (much faster, and antialiased) if both sides keep at
        least this many pixels; 0 decodes at full size.
      white: the value that becomes 255 in gray images of more than 8 bits, see `Look`; larger values are clipped,
        and negative ones become 0.
        0: 65535 for integers, 1 for floats; an image with larger values is scaled by its maximum.
      gray: the type of a gray image instead of RGB, uint8 or uint16; colors become gray as in Pillow.

    Returns:
      uint8 [H, W, 3], RGB, read-only; or [H, W, 1] of the type `gray`.

    Raises:
      ImageError: the file cannot be read, is not an image, is damaged, or has more than MAX_PIXELS pixels.
    """
    try:
        with _opened(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
            if min_side:
                image.draft(None, (min_side, min_side))
            image.load()
            upright = _upright(image)
            return np.asarray(_rgb(upright, white)) if gray is None else _one_channel(upright, white, gray)
    except ImageError:
        raise
    except Exception as error:  # damaged files raise many types: OSError, SyntaxError, struct.error, ...
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ImageError(f'{type(error).__name__}: {reason}') from error


def stored_size(file: str | os.PathLike | bytes) -> tuple[int, int]:
    """Height and width in the header of an image file, before a rotation by EXIF.

    Raises:
      ImageError: the file cannot be read or is not an image.
    """
    try:
        with _opened(file) as image:
            return image.height, image.width
    except Exception as error:  # as in `decode`
        raise ImageError(f'{type(error).__name__}: {error}') from error


def _opened(file: str | os.PathLike | bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)


def _upright(image: Image.Image) -> Image.Image:
    orientation = 1
    with contextlib.suppress(Exception):  # an image with damaged EXIF is still used
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


@dataclasses.dataclass(frozen=True)
class Look:
    """What a sample of image files says about conversions that lose something.

    Attributes:
      white: the largest value that gray images of more than 8 bits can have; 0: there are none. It is the smallest of
        WHITES that no pixel exceeds, or else the largest pixel; for float images 1, or the same above 1.
      least: the smallest value of these images, if it is negative; else 0. Negative values become 0.
      transparent: number of images with transparent pixels, whose colors are kept as stored.
      dark: the largest value, after decoding, of the images with 16 bits for each color if none of them needs all of
        these bits; 0: there are none. Only the upper 8 bits are read.
      frames: number of images with several frames or pages, of which the first one is read.
      bands: the number of bands of TIFF files of which Pillow reads fewer; 0: there are none.
    """

    white: float = 0.0
    least: float = 0.0
    transparent: int = 0
    dark: int = 0
    frames: int = 0
    bands: int = 0


def look(files: Sequence[str | bytes]) -> Look:
    """Looks at a sample of image files, given by path or by content; those that cannot be read do not count.

    12-bit cameras, X-rays and microscopes write files of 16 bits whose values end at 4095: read as 16 bits they are
    nearly black.
    """
    most, least, transparent, colors, frames, bands = 0.0, 0.0, 0, list[int](), 0, 0
    for file in files:
        with contextlib.suppress(Exception), _opened(file) as image:
            if image.width * image.height > MAX_PIXELS:
                continue
            deep = any(';16' in str(tile[3]) for tile in image.tile)  # as of the file, before it is loaded
            if image.mode in DEEP_MODES:
                x = np.asarray(image, np.float64)
                x, floor = x[np.isfinite(x)], 1.0 if image.mode == 'F' else WHITES[0]
                most, least = max(most, floor, float(x.max(initial=0))), min(least, float(x.min(initial=0)))
            elif deep:
                colors.append(int(np.asarray(image.convert('RGB')).max()))
            frames += image.format != 'MPO' and getattr(image, 'n_frames', 1) > 1  # a photo with its preview is MPO
            stored = getattr(image, 'tag_v2', {}).get(_BANDS_TAG, 0)
            bands = max(bands, stored if stored > len(image.getbands()) else 0)
            if image.has_transparency_data:
                transparent += int(np.asarray(image.convert('RGBA'))[..., 3].min()) < 255
    white = next((float(white) for white in (1, *WHITES) if most <= white), most) if most else 0.0
    brightest = max(colors, default=0)
    return Look(white, least, transparent, brightest if brightest < 64 else 0, frames, bands)


def _rgb(image: Image.Image, white: float) -> Image.Image:
    if image.mode in DEEP_MODES:
        return Image.fromarray(_scaled(image, white, np.dtype(np.uint8))).convert('RGB')
    return image if image.mode == 'RGB' else image.convert('RGB')


def _one_channel(image: Image.Image, white: float, dtype: np.dtype[Any]) -> np.ndarray:
    """A gray image [H, W, 1] of a type, see `decode`."""
    if image.mode in DEEP_MODES:
        return _scaled(image, white, dtype)[..., None]
    levels = np.asarray(image.convert('L')).astype(dtype)
    return (levels * (np.iinfo(dtype).max // 255))[..., None]


def _scaled(image: Image.Image, white: float, dtype: np.dtype[Any]) -> np.ndarray:
    """Gray values 0..white of an image in one of DEEP_MODES as all levels of a type, see `decode`."""
    x, default, top = np.asarray(image, np.float64), 1 if image.mode == 'F' else 65535, np.iinfo(dtype).max
    if not np.isfinite(x).all():
        raise ImageError('pixels that are not finite')
    x = np.maximum(x, 0) * (top / (white or max(default, x.max())))
    return np.rint(np.minimum(x, top)).astype(dtype)


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    style: Style = PIL,
) -> tuple[int, int, int, int]:
    """Draws the box of a random resized crop.

    Args:
      rng: the source of randomness; each call advances it by the same amount, so later draws do not depend on the box.
      height, width: the size of the image, in pixels.
      scale: (smallest, largest) area of the box, as a fraction of the image's.
      ratio: (smallest, largest) width / height of the box.
      style: decides the distribution; by default torchvision's.

    Returns:
      (left, top, right, bottom), integers; the box is not empty.
    """
    area, aspect, right, down = rng.random((style.attempts, 4)).T
    top, left, h, w = map(int, style.box((area, aspect, down, right), height, width, scale, ratio, np))
    return left, top, left + w, top + h


def random_resized_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    size: int,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = 'bilinear',
    style: Style = PIL,
) -> np.ndarray:
    """Cuts a random box from an image and resizes it to a square.

    Args:
      image: uint8 or uint16 [H, W, C].
      rng: the source of randomness.
      size: height and width of the result, in pixels.
      scale, ratio: see `crop_box`.
      interpolation: a key of INTERPOLATIONS; for TensorFlow's styles only 'bilinear' or 'bicubic'.
      style: decides whether to antialias, as Pillow does (`resize`), or not, as TensorFlow does (`interpolate`).

    Returns:
      [size, size, C], of the type of the image.
    """
    # Crop first, as torchvision does: with Pillow's resize(box=...) the filter would use pixels outside the box.
    height, width = image.shape[:2]
    crop = _cut(image, crop_box(rng, height, width, scale, ratio, style))
    return (resize if style.pillow_crops else interpolate)(crop, size, interpolation)


def resize(
    image: np.ndarray,
    size: int,
    interpolation: str = 'bilinear',
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resizes a box of the image to a square, antialiased; the aspect ratio is not kept.

    Args:
      image: as in `random_resized_crop`.
      size: height and width of the result, in pixels.
      interpolation: a key of INTERPOLATIONS.
      box: left, top, right, bottom; the filter also uses pixels outside. None: the whole image.

    Returns:
      [size, size, C], of the type of the image. Levels of 16 bits are rounded once, those of 8 bits as Pillow does.
    """
    how = partial(Image.Image.resize, size=(size, size), resample=INTERPOLATIONS[interpolation], box=box)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(how(Image.fromarray(image)))
    bands = image if image.dtype == np.uint8 else image.astype(np.float32)  # Pillow has no images of so many channels
    x = np.stack([np.asarray(how(Image.fromarray(np.ascontiguousarray(bands[..., i])))) for i in range(bands.shape[2])])
    return _levels(np.moveaxis(x, 0, -1), image.dtype)


def interpolate(image: np.ndarray, size: int, interpolation: str = 'bicubic') -> np.ndarray:
    """Resizes the whole image to [size, size, C] without antialiasing, as TensorFlow's `resize` does by default.

    At any scale, each output pixel depends on the 4x4 pixels around its center for 'bicubic', on 2x2 for 'bilinear'.
    Unlike TensorFlow, the result is rounded and clipped to the type of the image.
    """
    x = image.astype(np.float32)
    for _ in range(2):  # the rows, then the columns
        at, weights = _taps(len(x), size, interpolation)
        mixed = weights[:, None] @ x.reshape(len(x), -1)[at]
        x = mixed.reshape(size, *x.shape[1:]).swapaxes(0, 1)
    return _levels(x, image.dtype)


def crop_fraction(size: int) -> float:
    """The part of the short side of an image that is used for evaluation: all of small images.

    Args:
      size: height and width that the encoder gets, in pixels.
    """
    return 224 / 256 if size >= LEAST_CROPPED else 1.0


def center_crop(
    image: np.ndarray,
    size: int,
    interpolation: str = 'bilinear',
    style: Style = PIL,
    fraction: float = 224 / 256,
) -> np.ndarray:
    """The crop for evaluation: resizes the short side to size / fraction, then cuts the central square.

    SimCLR's and BYOL's styles crop first, a square of this fraction of the short side, and resize without antialiasing.

    Args:
      image: uint8 or uint16 [H, W, C].
      size: height and width of the result, in pixels.
      interpolation: as in `random_resized_crop`.
      style: as in `random_resized_crop`.
      fraction: the part of the short side that the square has, see `crop_fraction`.

    Returns:
      [size, size, C], of the type of the image.
    """
    of_height, of_width = image.shape[:2]
    if not style.pillow_crops:
        side = round(min(of_width, of_height) * fraction)
        left, top = (of_width - side + 1) // 2, (of_height - side + 1) // 2
        return interpolate(_cut(image, (left, top, left + side, top + side)), size, interpolation)
    short = round(size / fraction)
    # torchvision's Resize rounds the long side down.
    factor = short / min(of_width, of_height)
    width = short if of_width <= of_height else math.floor(of_width * factor)
    height = short if of_height <= of_width else math.floor(of_height * factor)
    left, top = round((width - size) / 2), round((height - size) / 2)
    # Only the central square is resized, because a panorama would become a very large image first. With resize(box=...)
    # the filter uses pixels outside the box, so the result is the same.
    inverse_x, inverse_y = of_width / width, of_height / height
    right = min((left + size) * inverse_x, of_width)  # rounding could exceed the width
    bottom = min((top + size) * inverse_y, of_height)
    return resize(image, size, interpolation, (left * inverse_x, top * inverse_y, right, bottom))


def _taps(length: int, size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels around the center of each output pixel, int [size, 4], and their weights, float32 [size, 4]."""
    whole, part = np.divmod((2 * np.arange(size)[:, None] + 1) * length - size, 2 * size)
    tap = np.arange(-1, 3)
    at, distance = whole + tap, tap - part / (2 * size)
    weights = cubic(distance, np) if interpolation == 'bicubic' else triangle(distance, np)
    weights = np.where((at >= 0) & (at < length), weights, 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(at, 0, length - 1), weights.astype(np.float32)


def _cut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A box (left, top, right, bottom) of an image."""
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def _levels(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Rounds and clips to the levels of a type."""
    return np.clip(np.rint(x), 0, np.iinfo(dtype).max).astype(dtype)
