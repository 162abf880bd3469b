"""The pictures of a run: reads images and labels from its data and lets `figures` draw them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.images import ImageError, center_crop
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import quick_options
from contrastive_jax.errors import DataError
from contrastive_jax.evaluate.online import Neighbors, evenly_spaced, labels_of
from contrastive_jax.plots import figures

ROWS = 8  # images in the picture of augmented views
DRAWS = 2  # random draws of every view
MAX_VIEWS = 4  # views of an image that are shown; all local views are alike


def contact_sheet(source: Source, policy: Policy, image_size: int, seed: int, path: Path) -> None:
    """Draws a few images and augmented views of them, one row for each image.

    Args:
      source: training images.
      policy: the augmentation.
      image_size: height and width of a global view, in pixels.
      seed: seed of the random draws.
      path: the PNG to write.

    Raises:
      DataError: none of the images can be read.
    """
    images, views = augmented(source, policy, image_size, seed)
    figures.contact_sheet(images, views, path, policy.shown_channels)


def augmented(source: Source, policy: Policy, image_size: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads `ROWS` images and draws augmented views of them.

    The number is the same for all callers, so that the report finds the program that the training has compiled.

    Args:
      source: training images.
      policy: the augmentation.
      image_size: height and width of a global view, in pixels.
      seed: seed of the random draws.

    Returns:
      The images [n, H, W, 3] as `shown` makes them, and title -> views float[n, h, w, 3] in [0, 1].

    Raises:
      DataError: none of the images can be read.
    """
    images = few_images(source, ROWS, image_size)
    # One program for all views, which runs once: operation by operation, compilation would take several times as long.
    draw = jax.jit(_draw, static_argnames=('policy', 'image_size'), compiler_options=quick_options())
    views = jax.device_get(draw(policy, jax.random.key(seed), images, image_size))
    return shown(images, policy), {
        f'{view_name(policy, view)}, draw {draw + 1}': x[draw * len(images) : (draw + 1) * len(images)]
        for draw in range(DRAWS)
        for view, x in enumerate(views)
    }


def _draw(policy: Policy, key: Array, images: np.ndarray, image_size: int) -> list[Array]:
    """The first `MAX_VIEWS` views of images uint8[n, H, W, 3], draw after draw: float[DRAWS n, h, w, 3]."""
    keys = jax.random.split(key, (DRAWS, len(images))).reshape(-1)
    repeated = jnp.concatenate([images] * DRAWS)
    views = range(min(policy.num_views, MAX_VIEWS))
    return [policy.to_rgb(tiled(policy(keys, repeated, view, image_size))) for view in views]


def view_name(policy: Policy, view: int) -> str:
    """'view 1', or 'local view 1' for the first small crop of multi-crop."""
    views = policy.global_views
    return f'view {view + 1}' if view < views else f'local view {view - views + 1}'


def few_images(source: Source, count: int, image_size: int) -> np.ndarray:
    """Reads at most `count` evenly spaced images of a source, without those that cannot be read: [n, H, W, C].

    Raises:
      DataError: none of them can be read.
    """
    images = []
    for i in evenly_spaced(len(source), count):
        try:
            images.append(_read(source, int(i), image_size))
        except ImageError:  # training counts and reports them
            continue
    if not images:
        raise DataError(f'none of {count} images of {source.name} can be read -> replace the files')
    return np.stack(images)


def neighbors(train: Source, test: Source, found: Neighbors, policy: Policy, image_size: int, path: Path) -> None:
    """Draws held-out images and the training images whose features are nearest.

    Args:
      train: training images.
      test: held-out images.
      found: positions of the images in both.
      policy: the augmentation of the run; gives the scale of channels that are not RGB.
      image_size: height and width to which images from files are cropped, in pixels.
      path: the PNG to write.
    """
    figures.nearest_neighbors(
        shown(read_images(test, found.queries, image_size), policy),
        shown(read_images(train, found.nearest, image_size), policy),
        path,
        labels_of(test, found.queries),
        labels_of(train, found.nearest),
        train.classes,
        policy.shown_channels,
    )


def read_images(source: Source, ids: np.ndarray, image_size: int) -> np.ndarray:
    """Reads the images [..., H, W, C] at positions int[...] of a source."""
    flat = [_read(source, int(i), image_size) for i in ids.ravel()]
    return np.stack(flat).reshape(*ids.shape, *flat[0].shape)


def tiled(views: Array) -> Array:
    """Puts patches [n, R, S, p, p, C] side by side, [n, R p, S p, C]; views without patches are returned unchanged."""
    if views.ndim == 4:
        return views
    n, R, S, p = views.shape[:4]
    return jnp.swapaxes(views, 2, 3).reshape(n, R * p, S * p, views.shape[-1])


def shown(images: np.ndarray, policy: Policy) -> np.ndarray:
    """Images [..., C] of a source as [..., 3] for display: uint8 RGB as they are, others by `Policy.to_rgb`."""
    if images.dtype == np.uint8 and policy.channels == 3:
        return images
    return to_pixels(policy.normalize(jnp.asarray(images)), policy)


def to_pixels(views: Any, policy: Policy) -> np.ndarray:
    """Views [..., C] for display: float[..., 3] in [0, 1], see `Policy.to_rgb`."""
    return np.asarray(policy.to_rgb(views))


def _read(source: Source, i: int, image_size: int) -> np.ndarray:
    """Reads image i. Those of a source in memory have one size; those of files are cropped to a square of this size."""
    image = source.image(i)
    return image if source.array is not None else center_crop(image, image_size)
