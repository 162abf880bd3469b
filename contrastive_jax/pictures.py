"""The pictures of a run: brings data to `figures`, which draws."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax import figures
from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.images import center_crop
from contrastive_jax.data.sources import Source
from contrastive_jax.evaluate.online import Neighbours, evenly_spaced
from contrastive_jax.train import Recipe

Array = jax.Array

ROWS = 8
DRAWS = 2  # of every view
MAX_VIEWS = 4  # the first local views look like the others


def contact_sheet(source: Source, run: Recipe, path: Path) -> None:
    """What the augmentation makes of a few images, a row each: what the method is told to call the same."""
    ids = evenly_spaced(len(source), ROWS)
    images = np.stack([square(source.image(int(i)), _canvas(source, run.image_size)) for i in ids])
    keys = jax.random.split(jax.random.key(run.seed), (DRAWS, len(ids)))
    views = [
        to_pixels(tiled(run.policy(keys[draw], jnp.asarray(images), view, run.image_size)), run.policy)
        for draw in range(DRAWS)
        for view in range(min(run.policy.num_views, MAX_VIEWS))
    ]
    figures.contact_sheet(images, views, path)


def neighbours(train: Source, test: Source, found: Neighbours, config: ConfigDict, path: Path) -> None:
    """Held-out images and their nearest training images in feature space."""
    size = config.data.image_size

    def look(source: Source, ids: np.ndarray) -> np.ndarray:
        flat = [square(source.image(int(i)), _canvas(source, size)) for i in ids.ravel()]
        return np.stack(flat).reshape(*ids.shape, *flat[0].shape)

    def label(source: Source, ids: np.ndarray) -> np.ndarray | None:
        return None if source.labels is None else source.labels[ids]

    figures.nearest_neighbours(
        look(test, found.queries),
        look(train, found.nearest),
        path,
        label(test, found.queries),
        label(train, found.nearest),
        train.classes,
    )


def tiled(views: Array) -> Array:
    """Patches [n, R, C, p, p, 3] side by side, [n, R p, C p, 3]; whole views as they are."""
    if views.ndim == 4:
        return views
    n, R, C, p = views.shape[:4]
    return jnp.swapaxes(views, 2, 3).reshape(n, R * p, C * p, 3)


def to_pixels(views: Any, policy: Policy) -> np.ndarray:
    """Undoes the normalisation: float [..., 3] in [0, 1]."""
    return np.asarray(policy.to_rgb(views))


def square(image: np.ndarray, size: int | None) -> np.ndarray:
    """Images of one size for a sheet; an array's images have one."""
    return image if size is None else center_crop(image, size)


def _canvas(source: Source, image_size: int) -> int | None:
    return image_size if source.array is None else None
