"""Images in memory of any depth and number of channels, as levels that all sources share.

Levels are uint8, where 255 is white, or uint16, where 65535 is. So 16 bits reach the device, which divides by the white
level. Other numbers become uint16 by the range of values that the user states: it cannot be told from the values, and a
wrong guess would train without an error.
"""

import numpy as np

from contrastive_jax.augment.policy import MAX_CHANNELS
from contrastive_jax.errors import DataError

WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
DARK = 4  # images of 16 bits whose largest value is less than 1/DARK of white get a remark
WHITES = (1, 255, 1023, 4095, 16383, 65535)  # the ranges of floats, and of 8, 10, 12, 14 and 16 bits


def image_array(
    images: np.ndarray, name: str, channels: int = 0, value_range: float = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images as levels.

    Args:
      images: [n, H, W, C], or [n, H, W] for gray images, with 1 to 16 channels. uint8 and uint16 are levels as they
        are; uint16 and all other numbers are scaled by `value_range` if it is given.
      name: the name of the data in messages.
      channels: C of the result. 0: that of the images, but 3 for gray images, whose value is repeated. 1 keeps gray.
      value_range: the value that becomes white in images of other dtypes than uint8; larger ones are clipped, negative
        ones become 0. 0: unknown, which only uint8 and uint16 allow.

    Returns:
      uint8 or uint16 [n, H, W, C], contiguous, and what the summary of the data should say about it.

    Raises:
      DataError: another dtype or shape, or values that are not finite.
    """
    given = f'{name}: images are {images.dtype}{list(images.shape)}'
    images = with_channels(_checked_shape(images, given, channels), channels, name)
    if images.dtype == np.uint8 or (images.dtype == np.uint16 and not value_range):
        return np.ascontiguousarray(images), _remarks(images)
    if images.dtype.kind not in 'iuf':
        raise DataError(f'{given}, which are no numbers -> store them as uint8 or uint16')
    if not value_range:
        hint = '(255 * x).round().astype("uint8") for values in [0, 1]'
        raise DataError(
            f'{given}, not uint8 in 0..255 or uint16 in 0..65535 -> store them so, e.g. {hint}, or set '
            'data.value_range to the value that is white'
        )
    levels, least = np.empty(images.shape, np.uint16), 0.0
    for i, image in enumerate(images):  # one at a time, since float64 takes four times the memory
        x = image.astype(np.float64)
        if not np.isfinite(x).all():
            raise DataError(f'{name}: image {i} has values that are not finite -> replace them')
        least = min(least, float(x.min()))
        levels[i] = np.rint(np.clip(x, 0, value_range) * (65535 / value_range))
    remarks = (f'values 0 to {value_range:g} become 0 to 1',)
    return levels, (*remarks, f'negative values (down to {least:g}) become 0') if least < 0 else remarks


def with_channels(images: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Images [..., C] with the wanted number of channels: gray ones are repeated to three, no other changes.

    Args:
      images: [..., C].
      channels: the number that is wanted; 0: any, but 3 for gray images.
      name: the name of the data in messages.

    Raises:
      DataError: the images have another number of channels.
    """
    if images.shape[-1] == 1 and channels in (0, 3):
        return np.broadcast_to(images, (*images.shape[:-1], 3))
    if channels not in (0, images.shape[-1]):
        raise DataError(wrong_number(name, images.shape[-1], channels))
    return images


def wrong_number(name: str, given: int, wanted: int) -> str:
    """The line about images with another number of channels than the network takes."""
    count = f'{given} channel' + ('s' if given > 1 else '')
    return (
        f'{name}: the images have {count}, and the network takes {wanted} -> give images with {wanted} '
        f'channel{"s" if wanted > 1 else ""}, or set data.channels of a new run to {given}'
    )


def _checked_shape(images: np.ndarray, given: str, channels: int) -> np.ndarray:
    """Images [n, H, W, C] with a legal shape."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and channels != images.shape[3] and _is_channels_first(images.shape):
        last = images.shape[3]
        other = f', or set data.channels to {last} if that is their number' if last <= MAX_CHANNELS else ''
        raise DataError(f'{given}, channels first -> store them as [n, H, W, C]: x.transpose(0, 2, 3, 1){other}')
    if images.ndim != 4 or images.shape[3] > MAX_CHANNELS or 0 in images.shape:
        raise DataError(
            f'{given} -> give [n, H, W, 3] (RGB), [n, H, W] (gray), or [n, H, W, C] with at most {MAX_CHANNELS} '
            'channels, and n, H, W >= 1'
        )
    return images


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images [n, a, b, c] have their channels at a: b and c are a square, or c is no number of channels."""
    _, first, height, width = shape
    if first in (1, 3) and width not in (1, 3):
        return True
    return first <= MAX_CHANNELS and (width > MAX_CHANNELS or first < height == width)


def _remarks(images: np.ndarray) -> tuple[str, ...]:
    """What to say about 16-bit images that use a small part of their range."""
    if images.dtype != np.uint16 or (most := int(images.max())) >= WHITE[images.dtype] / DARK:
        return ()
    white = next(white for white in WHITES[1:] if most <= white)
    return (f'the largest of the 16-bit values is {most:,}: data.value_range={white} would make that white',)
