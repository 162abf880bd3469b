"""Facts about a data set that sizes of a run depend on: how many images there are, how large, and whether in color."""

import dataclasses
import statistics

import numpy as np

from contrastive_jax.data.channels import mean_and_std
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.sources import Source

SIZED = 64  # images whose size is read, evenly spaced in the data
DECODED = 16  # images that are looked at for color


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Facts about training images.

    Attributes:
      images: the number of images.
      side: median of the shorter sides of a sample of the stored images, in pixels; 0: none of them can be read.
      gray: whether all images of a sample are gray.
      channels: C, the number of channels.
      mean, std: mean and standard deviation of each channel, in units of [0, 1]; () if they are not estimated.
    """

    images: int
    side: int
    gray: bool = False
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def measure(source: Source, estimate: bool = False) -> DataFacts:
    """Looks at a sample of a data set.

    Args:
      source: the training images.
      estimate: whether to estimate mean and standard deviation of the channels, see `channels.mean_and_std`.
    """
    chosen = np.linspace(0, len(source) - 1, min(len(source), SIZED)).astype(int).tolist()
    sides = [min(size) for i in chosen if (size := _size(source, i)) is not None]
    looked_at = chosen[:: max(1, len(chosen) // DECODED)]
    grays = [gray for i in looked_at if (gray := _is_gray(source, i)) is not None]
    side = round(statistics.median(sides)) if sides else 0
    mean, std = mean_and_std(source) if estimate else ((), ())
    return DataFacts(len(source), side, bool(grays) and all(grays), source.channels, mean, std)


def _size(source: Source, i: int) -> tuple[int, int] | None:
    try:
        return source.stored_size(i)
    except ImageError:
        return None


def _is_gray(source: Source, i: int) -> bool | None:
    try:
        image = source.image(i)
    except ImageError:
        return None
    return bool((image == image[..., :1]).all())
