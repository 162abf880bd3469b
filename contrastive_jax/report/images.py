"""Images inside a page: as data, small enough to be many."""

import base64
import io

import numpy as np
from PIL import Image

PIXELS = 64  # up to this side an image is kept pixel by pixel, and the page enlarges it without mixing them
SIDE = 176  # of larger ones, about twice as many pixels as a cell of a sheet has on a page
QUALITY = 85


def data_uri(image: np.ndarray) -> str:
    """An image as the value of `src`.

    Args:
      image: uint8, or float in [0, 1] (clipped), [H, W, 3 or 4]; the fourth channel is the opacity.
    """
    pixels = image
    if image.dtype != np.uint8:
        pixels = np.rint(255 * np.clip(np.nan_to_num(np.asarray(image, np.float32)), 0, 1)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    data = io.BytesIO()
    if max(picture.size) <= PIXELS or picture.mode == 'RGBA':
        picture.save(data, 'PNG', optimize=True)
        kind = 'png'
    else:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(data, 'JPEG', quality=QUALITY)
        kind = 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}'


def heat(values: np.ndarray, size: int) -> np.ndarray:
    """A map [h, w] of numbers in [0, 1] as an image, bright where they are high, enlarged to about `size` pixels.

    Cells stay cells: they are what was measured.

    Returns:
      uint8[H, W, 3].
    """
    from matplotlib import colormaps

    times = max(1, size // max(values.shape))
    large = np.repeat(np.repeat(values, times, axis=0), times, axis=1)
    return np.asarray(255 * colormaps['inferno'](large)[..., :3] + 0.5).astype(np.uint8)
