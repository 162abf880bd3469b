"""Images of the page, encoded as data URIs."""

import base64
import io

import numpy as np
from PIL import Image

PIXELS = 64  # images up to this side are stored losslessly, and the page enlarges them without interpolation
SIDE = 176  # larger images are reduced to this side, about twice the pixels of a cell of an image grid on the page
QUALITY = 85  # of JPEG


def data_uri(image: np.ndarray) -> str:
    """Encodes an image as the value of the `src` attribute.

    Args:
      image: [H, W, 3 or 4], uint8, or float in [0, 1] (clipped); the fourth channel is the opacity.
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


def enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """Repeats each cell of [h, w, ...] so that the longer side has about `size` pixels, without interpolation."""
    times = max(1, size // max(values.shape[:2]))
    return np.repeat(np.repeat(values, times, axis=0), times, axis=1)


def heat_map(values: np.ndarray, size: int) -> np.ndarray:
    """Colors a map of values, bright where they are high, and enlarges its cells.

    Args:
      values: [h, w] in [0, 1].
      size: the longer side of the result in pixels, about.

    Returns:
      uint8[H, W, 3].
    """
    from matplotlib import colormaps

    return np.asarray(255 * colormaps['inferno'](enlarge(values, size))[..., :3] + 0.5).astype(np.uint8)
