"""Image files with other channels than RGB: gray ones, and TIFF files with any number of bands.

Pillow reads gray images of up to 32 bits, and no TIFF file with more than four bands or with 16 bits for each of them.
Those need `tifffile`; with `imagecodecs` it also reads their LZW and JPEG compression.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from contrastive_jax.augment.policy import MAX_CHANNELS
from contrastive_jax.data import images
from contrastive_jax.data.pixels import image_array
from contrastive_jax.errors import DataError

ENDINGS = ('.tif', '.tiff')
INSTALL = "pip install 'contrastive_jax[tiff]'"


def kind_of(
    files: Sequence[str], name: str, channels: int, value_range: float, deep: bool
) -> tuple[int, np.dtype[Any], tuple[str, ...]]:
    """The channels and the type of the images in files, and remarks for the summary of the data.

    Args:
      files: a sample of the files; the first one that can be read tells.
      name: the name of the data in messages.
      channels: the number that is wanted; 0: that of TIFF files that Pillow cannot read, 3 for all others.
      value_range: the value that is white, for TIFF files of other types than uint8; 0: unknown.
      deep: whether some of the files have more than 8 bits and one channel.

    Raises:
      DataError: the files have another number of bands, or tifffile is needed and not installed.
    """
    if channels == 0 and (not files or not _is_other(files[0])):
        channels = 3
    if channels in (1, 3):
        return channels, np.dtype(np.uint16 if deep and channels == 1 else np.uint8), ()
    problem = f'{name} has no files'
    for file in files:
        try:
            image, remarks = _read(file, name, channels, value_range)
            return image.shape[2], image.dtype, remarks
        except images.ImageError as error:
            problem = f'{file}: {error}'
    raise DataError(
        f'{problem} -> give TIFF files with {channels or "2 to 16"} bands, or set data.channels to 3 for RGB'
    )


def decode(file: str, channels: int, dtype: np.dtype[Any], white: float) -> np.ndarray:
    """Decodes an image file with other channels than RGB.

    Args:
      file: its path.
      channels: 1 for gray, or the number of bands of a TIFF file.
      dtype: uint8 or uint16, see `kind_of`.
      white: the value that becomes white, see `images.decode`; 0: unknown.

    Returns:
      [H, W, channels] of the type.

    Raises:
      ImageError: the file cannot be read, or has other bands.
    """
    if channels == 1:
        return images.decode(file, white=white, gray=dtype)
    try:
        image, _ = _read(file, 'it', channels, white)
    except DataError as error:
        raise images.ImageError(str(error)) from error
    if image.dtype != dtype:
        raise images.ImageError(f'levels of {image.dtype}, not of {dtype} as in the first images')
    return image


def _is_other(file: str) -> bool:
    """Whether a file is a TIFF that Pillow cannot read."""
    if not file.lower().endswith(ENDINGS):
        return False
    try:
        with Image.open(file, formats=('TIFF',)):
            return False
    except Exception:  # as in `images.decode`
        return os.path.isfile(file)


def _read(file: str, name: str, channels: int, value_range: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """All bands of a TIFF file as levels [H, W, C], and remarks.

    Raises:
      DataError: another number of bands, values whose range is unknown, or tifffile is not installed.
      ImageError: the file cannot be read.
    """
    if not file.lower().endswith(ENDINGS):
        raise images.ImageError(f'it is no TIFF file, and Pillow reads no {channels} channels')
    if importlib.util.find_spec('tifffile') is None:
        raise DataError(f'{file} has bands that Pillow cannot read, and tifffile can -> {INSTALL}')
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            series = opened.series[0]
            pixels, axes, shape = opened.pages[0].size, series.axes, series.shape
            if max(pixels, series.size) > images.MAX_PIXELS * MAX_CHANNELS:
                raise images.ImageError(f'{shape} pixels, more than {images.MAX_PIXELS:,}')
            image = series.asarray()
    except images.ImageError:
        raise
    except Exception as error:  # damaged files raise many types
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise images.ImageError(f'{type(error).__name__}: {reason}') from error
    axis = next((axes.index(letter) for letter in 'SC' if letter in axes), None)
    if image.ndim != 3 or axis is None:
        raise images.ImageError(
            f'its axes are {axes} {list(shape)}, not those of one image with bands (tifffile writes pages unless '
            "planarconfig='contig' is given)"
        )
    levels, remarks = image_array(np.moveaxis(image, axis, -1)[None], name, channels or image.shape[axis], value_range)
    return levels[0], remarks
