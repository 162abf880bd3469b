"""The pictures of a run: brings data to `figures`, which draws."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.images import ImageError, center_crop
from contrastive_jax.data.sources import Source
from contrastive_jax.errors import DataError
from contrastive_jax.evaluate.online import Neighbours, evenly_spaced
from contrastive_jax.plots import figures

ROWS = 8
DRAWS = 2  # of every view
MAX_VIEWS = 4  # the first local views look like the others


def contact_sheet(source: Source, policy: Policy, image_size: int, seed: int, path: Path) -> None:
    """What the augmentation makes of a few images, a row each: what the method is told to call the same."""
    images, views = augmented(source, policy, image_size, seed)
    figures.contact_sheet(images, views, path)


def augmented(
    source: Source, policy: Policy, image_size: int, seed: int, rows: int = ROWS
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Some images uint8[n, H, W, 3] and, by their titles, the views drawn of them: float [n, h, w, 3] in [0, 1]."""
    images = few_images(source, rows, image_size)
    keys = jax.random.split(jax.random.key(seed), (DRAWS, len(images)))
    return images, {
        f'{view_name(policy, view)}, draw {draw + 1}': to_pixels(
            tiled(policy(keys[draw], jnp.asarray(images), view, image_size)), policy
        )
        for draw in range(DRAWS)
        for view in range(min(policy.num_views, MAX_VIEWS))
    }


def view_name(policy: Policy, view: int) -> str:
    """'view 1', or 'local view 1' for the first small crop of multi-crop."""
    own = policy.global_views
    return f'view {view + 1}' if view < own else f'local view {view - own + 1}'


def few_images(source: Source, count: int, image_size: int) -> np.ndarray:
    """At most `count` evenly spaced images of a source that can be read, uint8[n, H, W, 3]."""
    images = []
    for i in evenly_spaced(len(source), count):
        try:
            images.append(square(source.image(int(i)), _canvas(source, image_size)))
        except ImageError:  # the loader counts these
            continue
    if not images:
        raise DataError(f'none of {count} images of {source.name} can be read -> mend the files')
    return np.stack(images)


def neighbours(train: Source, test: Source, found: Neighbours, config: ConfigDict, path: Path) -> None:
    """Held-out images and their nearest training images in feature space."""
    figures.nearest_neighbours(
        look(test, found.queries, config.data.image_size),
        look(train, found.nearest, config.data.image_size),
        path,
        labels_of(test, found.queries),
        labels_of(train, found.nearest),
        train.classes,
    )


def look(source: Source, ids: np.ndarray, image_size: int) -> np.ndarray:
    """The images [..., H, W, 3] of examples int[...]."""
    flat = [square(source.image(int(i)), _canvas(source, image_size)) for i in ids.ravel()]
    return np.stack(flat).reshape(*ids.shape, *flat[0].shape)


def labels_of(source: Source, ids: np.ndarray) -> np.ndarray | None:
    return None if source.labels is None else source.labels[ids]


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
