"""Image files to RGB uint8 arrays, whatever they are, and the crops that the host cuts from them.

Files are recognised by content, never by name. One rule for each kind of image:

  greyscale, 1-bit      the value in all three channels
  CMYK                  converted by Pillow, which also undoes Adobe's inversion
  palette               looked up; a transparent colour counts as its colour
  alpha                 dropped, as the readers behind the papers' numbers do (torchvision, TensorFlow)
  16-bit grey           divided by 257: 65535 becomes 255 (Pillow alone clips everything above 255 to white)
  32-bit and float grey 65535 or 1.0 becomes 255; images that go beyond are scaled by their own maximum
  animated              the first frame
  EXIF orientation      applied; damaged EXIF is ignored
"""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from contrastive_jax.augment import crops
from contrastive_jax.augment.styles import PIL, Style

# Raster formats whose decoders stay inside this process (Pillow hands PostScript files to Ghostscript).
_SAFE_FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'AVIF', 'JPEG2000')
Image.init()  # registers the formats now, before threads race to do it
FORMATS = tuple(name for name in _SAFE_FORMATS if name in Image.OPEN)
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.avif', '.jp2')

# Pillow warns of odd EXIF, palettes and sizes, once a file. What matters of that is decided here. (A filter for good:
# warnings.catch_warnings is not safe in threads.)
warnings.filterwarnings('ignore', module=r'PIL\.')

MAX_PIXELS = 100_000_000  # read from the header, before any memory is taken: 300 MB as RGB

INTERPOLATIONS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}

# What undoes each value of EXIF tag 0x0112.
_ORIENTATION_TAG = 0x0112
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
    """One image that cannot be read, with the reason. The loader replaces it and counts it."""


def decode(file: str | os.PathLike | bytes, *, min_side: int = 0) -> np.ndarray:
    """Decodes an image file, by the rules at the top of this file.

    Args:
      file: a path, or the bytes of the file.
      min_side: JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size (much faster, and antialiased) as long as both
        sides keep at least this many pixels. 0: full size.

    Returns:
      uint8 [H, W, 3], RGB, read-only.

    Raises:
      ImageError: the file cannot be read, is no image, is damaged, or has more than MAX_PIXELS pixels.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
            if min_side:
                image.draft(None, (min_side, min_side))
            image.load()
            return np.asarray(_rgb(_upright(image)))
    except ImageError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything: OSError, SyntaxError, struct.error, ...
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ImageError(f'{type(error).__name__}: {reason}') from error


def _upright(image: Image.Image) -> Image.Image:
    orientation = 1
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to lose the picture
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):  # 16-bit in either byte order, or 32-bit
        return _grey(np.asarray(image), 65535)
    if image.mode == 'F':
        return _grey(np.asarray(image), 1)
    return image if image.mode == 'RGB' else image.convert('RGB')


def _grey(x: np.ndarray, white: float) -> Image.Image:
    """Grey values 0..white as an RGB image; a larger maximum becomes white, so that nothing saturates."""
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise ImageError('pixels that are not finite')
    x = np.maximum(x, 0) * (255 / max(white, x.max()))
    return Image.fromarray(np.rint(x).astype(np.uint8)).convert('RGB')


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    style: Style = PIL,
) -> tuple[int, int, int, int]:
    """The box of a random resized crop: (left, top, right, bottom), integers, never empty.

    Args:
      rng: always advanced by the same amount, so later draws do not depend on this one.
      height, width: of the image, in pixels.
      scale: (smallest, largest) area fraction.
      ratio: (smallest, largest) width / height.
      style: decides the distribution, by default torchvision's.
    """
    area, aspect, right, down = rng.random((style.attempts, 4)).T
    top, left, h, w = map(int, style.box((area, aspect, down, right), height, width, scale, ratio, np))
    return left, top, left + w, top + h


def random_resized_crop(
    image: np.ndarray | Image.Image,
    rng: np.random.Generator,
    size: int,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = 'bilinear',
    style: Style = PIL,
) -> np.ndarray:
    """A random box of the image, resized to a square.

    Args:
      image: uint8 [H, W, 3] or a Pillow RGB image (cheaper when several crops are cut from one image).
      rng: the source of randomness.
      size: side of the result, in pixels.
      scale, ratio: see `crop_box`.
      interpolation: a key of INTERPOLATIONS; in the style of TensorFlow 'bilinear' or 'bicubic'.
      style: whether to antialias, as Pillow does, or not, as TensorFlow: see `interpolate`.

    Returns:
      uint8 [size, size, 3].
    """
    image = _pillow(image)
    # Cropped first: Pillow's resize(box=...) lets the filter see pixels outside the box, and torchvision does not.
    crop = image.crop(crop_box(rng, image.height, image.width, scale, ratio, style))
    return (resize if style.pillow_crops else interpolate)(crop, size, interpolation)


def resize(image: np.ndarray | Image.Image, size: int, interpolation: str = 'bilinear') -> np.ndarray:
    """The whole image as uint8 [size, size, 3], antialiased; the aspect ratio is not kept."""
    return np.asarray(_pillow(image).resize((size, size), INTERPOLATIONS[interpolation]))


def interpolate(image: np.ndarray | Image.Image, size: int, interpolation: str = 'bicubic') -> np.ndarray:
    """The whole image as uint8 [size, size, 3] without antialiasing, as TensorFlow's `resize` by default.

    However much the image is reduced, each pixel is made of the four by four around its centre, or of the two by two if
    'bilinear'. TensorFlow rounds nothing. These pixels travel as bytes: they are rounded, and overshoot is clipped.
    """
    x = np.asarray(image, np.float32)
    for _ in range(2):  # the rows, then the columns
        at, weights = _taps(len(x), size, interpolation)
        mixed = weights[:, None] @ x.reshape(len(x), -1)[at]
        x = mixed.reshape(size, *x.shape[1:]).swapaxes(0, 1)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def center_crop(
    image: np.ndarray | Image.Image, size: int, interpolation: str = 'bilinear', style: Style = PIL
) -> np.ndarray:
    """The evaluation crop: short side to size * 256 / 224, then the central square. uint8 [size, size, 3].

    Without antialiasing, in the style of SimCLR and BYOL, the crop comes first: 224 / 256 of the short side.
    """
    image = _pillow(image)
    if not style.pillow_crops:
        side = round(min(image.width, image.height) * 224 / 256)
        left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
        return interpolate(image.crop((left, top, left + side, top + side)), size, interpolation)
    short = round(size * 256 / 224)
    # torchvision's Resize cuts the long side down to an integer.
    factor = short / min(image.width, image.height)
    width = short if image.width <= image.height else math.floor(image.width * factor)
    height = short if image.height <= image.width else math.floor(image.height * factor)
    left, top = round((width - size) / 2), round((height - size) / 2)
    # A panorama would become a huge canvas of which only the middle is kept: resize just that middle (and the filter's
    # environment, which resize(box=...) does see).
    inverse_x, inverse_y = image.width / width, image.height / height
    right = min((left + size) * inverse_x, image.width)  # rounding must not lead outside
    bottom = min((top + size) * inverse_y, image.height)
    box = (left * inverse_x, top * inverse_y, right, bottom)
    return np.asarray(image.resize((size, size), INTERPOLATIONS[interpolation], box=box))


def _taps(length: int, size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels around the centre of each output pixel, int [size, 4], and their weights, float32 [size, 4]."""
    whole, part = np.divmod((2 * np.arange(size)[:, None] + 1) * length - size, 2 * size)
    tap = np.arange(-1, 3)
    at, distance = whole + tap, tap - part / (2 * size)
    weights = crops.cubic(distance, np) if interpolation == 'bicubic' else crops.triangle(distance, np)
    weights = np.where((at >= 0) & (at < length), weights, 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(at, 0, length - 1), weights.astype(np.float32)


def _pillow(image: np.ndarray | Image.Image) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
