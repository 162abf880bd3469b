"""From what a step is given to the views that a method sees, the same on any number of devices.

A step is given either whole images that live on the device and the order in which to take them, or crops that the host
has cut. In both cases the randomness of an example depends on its position in the global batch, never on its device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from contrastive_jax.augment.policy import Policy
from contrastive_jax.distributed import collectives

Crop = Callable[[int | Array, Array, Array], Array]


def resident_batch(
    key: Array,
    images: Array,
    labels: Array,
    order: Array,
    *,
    policy: Policy,
    size: int,
    shuffles: bool,
    dtype: DTypeLike,
    axis_name: str | None,
) -> dict[str, Any]:
    """The local part of a batch of images that every device holds whole.

    Args:
      key: of the step, the same on all devices.
      images: uint8[n, H, W, 3], all of the data.
      labels: int32[n].
      order: int32[B], which examples the global batch takes.
      policy: the augmentation.
      size: height and width of a global view.
      shuffles: whether the method wants 'shuffle' and 'shuffled'.
      dtype: of the views.
      axis_name: the mapped device axis.

    Returns:
      A batch as `methods.base.Method.loss` describes it.
    """
    position = collectives.positions(order.shape[0] // collectives.axis_size(axis_name), axis_name)
    index = order[position]

    def crop(view: int | Array, position: Array, keys: Array) -> Array:
        return policy.crop(keys, images[order[position]], view, size)

    views = _views(key, position, crop, crop, order.shape[0], policy, shuffles, dtype)
    return {'index': index, 'label': labels[index], **views}


def streamed_batch(
    key: Array,
    crops: tuple[Array, ...],
    index: Array,
    label: Array,
    *,
    policy: Policy,
    shuffles: bool,
    dtype: DTypeLike,
    axis_name: str | None,
) -> dict[str, Any]:
    """The local part of a batch whose crops come from the host.

    Args:
      key: of the step, the same on all devices.
      crops: for each view uint8[b, s, s, 3].
      index: int32[b] example ids.
      label: int32[b].
      policy, shuffles, dtype, axis_name: as for `resident_batch`.
    """
    b = index.shape[0]
    position = collectives.positions(b, axis_name)

    def own(view: int | Array, position: Array, keys: Array) -> Array:
        return (
            crops[view]
            if isinstance(view, int)
            else jnp.stack(crops[policy.global_views :])[view - policy.global_views]
        )

    def from_all(view: int | Array, position: Array, keys: Array) -> Array:
        return collectives.all_gather(own(view, position, keys), axis_name)[
            position
        ]  # still uint8: a quarter of the bytes

    views = _views(key, position, own, from_all, b * collectives.axis_size(axis_name), policy, shuffles, dtype)
    return {'index': index, 'label': label, **views}


def _views(
    key: Array,
    position: Array,
    crop: Crop,
    crop_elsewhere: Crop,
    batch_size: int,
    policy: Policy,
    shuffles: bool,
    dtype: DTypeLike,
) -> dict[str, Any]:
    key_views, key_shuffle = jax.random.split(key)

    def distorted(position: Array, crop: Crop) -> tuple[Array, ...]:
        keys = collectives.example_keys(key_views, position)

        def make(view: int | Array) -> Array:
            return policy.distort(keys, crop(view, position, keys), view, dtype)

        views = [make(view) for view in range(policy.global_views)]
        if policy.local_crops:  # alike but for their keys: one program for all of them
            views += list(jax.vmap(make)(jnp.arange(policy.global_views, policy.num_views)))
        return tuple(views)

    if not shuffles:
        return {'views': distorted(position, crop)}
    # Views that the method does not look at cost nothing: XLA drops them, collectives included.
    shuffle = jax.random.permutation(key_shuffle, jnp.arange(batch_size, dtype=jnp.int32))
    return {
        'views': distorted(position, crop),
        'shuffle': shuffle,
        'shuffled': distorted(shuffle[position], crop_elsewhere),
    }
