"""Mean and standard deviation of each channel, estimated from a sample of images, the same on every machine."""

import math

import numpy as np

from contrastive_jax.data.images import ImageError
from contrastive_jax.data.pixels import WHITE
from contrastive_jax.data.sources import Source
from contrastive_jax.errors import DataError

SAMPLED = 512  # images, evenly spaced in the data
DIGITS = 6  # of the results


def mean_and_std(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimates mean and standard deviation of each channel, over all pixels of at most SAMPLED images as stored.

    Sums are of integers, so they are exact, and results do not depend on the machine.

    Args:
      source: the training images.

    Returns:
      Mean and standard deviation in units of [0, 1], rounded to DIGITS digits. A constant channel has the deviation 1.

    Raises:
      DataError: none of the images can be read.
    """
    pixels, sums, squares = 0, [0] * source.channels, [0] * source.channels
    for i in np.linspace(0, len(source) - 1, min(len(source), SAMPLED)).astype(int).tolist():
        try:
            x = source.image(i).astype(np.uint64).reshape(-1, source.channels)
        except ImageError:  # training counts and reports them
            continue
        pixels += len(x)
        sums = [a + int(b) for a, b in zip(sums, x.sum(axis=0), strict=True)]
        squares = [a + int(b) for a, b in zip(squares, (x * x).sum(axis=0), strict=True)]
    if not pixels:
        raise DataError(f'none of the sampled images of {source.name} can be read -> replace the files')
    white = WHITE[source.dtype]
    # n Σx² - (Σx)² is an exact integer of any size, and not negative.
    spreads = [math.sqrt(pixels * b - a * a) / pixels for a, b in zip(sums, squares, strict=True)]
    mean = tuple(_rounded(a / pixels / white) for a in sums)
    return mean, tuple(_rounded(spread / white) or 1.0 for spread in spreads)


def _rounded(x: float) -> float:
    return float(f'{x:.{DIGITS}g}')
