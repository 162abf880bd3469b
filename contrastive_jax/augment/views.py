"""Makes the views of a batch that a method gets; they are the same on any number of devices.

The input of a step is either all images of the data, kept on the device, and the examples of the batch; or crops that
the host has cut. In both cases the randomness of an example depends on its position in the global batch, not on its
device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from contrastive_jax.augment.policy import Policy
from contrastive_jax.distributed import collectives

# The crops of a view, from its number and the positions and keys of the examples. If the examples are not those of this
# device, the permutation of the global batch that they follow comes last.
Crop = Callable[[int | Array, Array, Array, Array | None], Array]


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
    """The local part of a batch from data that is kept on every device.

    Args:
      key: the key of the step, the same on all devices.
      images: uint8 or uint16 [n, H, W, C], all images of the data.
      labels: int32 [n].
      order: int32 [B], the examples of the global batch.
      policy: the augmentation.
      size: the height and width of a global view, in pixels.
      shuffles: whether the method uses 'shuffle' and 'shuffled'.
      dtype: the dtype of the views.
      axis_name: the mapped device axis; None: the whole batch is on one device.

    Returns:
      A batch as `methods.base.Method.loss` describes it.
    """
    position = collectives.positions(order.shape[0] // collectives.axis_size(axis_name), axis_name)
    index = order[position]

    def crop(view: int | Array, position: Array, keys: Array, shuffle: Array | None) -> Array:
        return policy.crop(keys, images[order[position]], view, size)

    views = _views(key, position, crop, order.shape[0], policy, shuffles, dtype)
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
    """The local part of a batch from crops that the host has cut.

    Args:
      key: the key of the step, the same on all devices.
      crops: one uint8 or uint16 [b, s, s, C] for each view.
      index: int32 [b], the indices of the examples.
      label: int32 [b].
      policy, shuffles, dtype, axis_name: as in `resident_batch`.

    Returns:
      A batch as `methods.base.Method.loss` describes it.
    """
    b = index.shape[0]
    position = collectives.positions(b, axis_name)

    def crop(view: int | Array, position: Array, keys: Array, shuffle: Array | None) -> Array:
        if isinstance(view, int):
            local = crops[view]
        else:
            local = jnp.stack(crops[policy.global_views :])[view - policy.global_views]
        # Still whole levels, so fewer bytes than the views.
        return local if shuffle is None else collectives.permuted_rows(local, shuffle, axis_name)

    views = _views(key, position, crop, b * collectives.axis_size(axis_name), policy, shuffles, dtype)
    return {'index': index, 'label': label, **views}


def _views(
    key: Array,
    position: Array,
    crop: Crop,
    batch_size: int,
    policy: Policy,
    shuffles: bool,
    dtype: DTypeLike,
) -> dict[str, Any]:
    key_views, key_shuffle = jax.random.split(key)

    def distorted(position: Array, shuffle: Array | None) -> tuple[Array, ...]:
        keys = collectives.example_keys(key_views, position)

        def make(view: int | Array) -> Array:
            return policy.distort(keys, crop(view, position, keys, shuffle), view, dtype)

        views = [make(view) for view in range(policy.global_views)]
        if policy.local_crops:  # they differ only in their keys, so one program makes all of them
            views += list(jax.vmap(make)(jnp.arange(policy.global_views, policy.num_views)))
        return tuple(views)

    if not shuffles:
        return {'views': distorted(position, None)}
    # XLA removes the views that the method does not use, with their collectives.
    shuffle = jax.random.permutation(key_shuffle, jnp.arange(batch_size, dtype=jnp.int32))
    return {
        'views': distorted(position, None),
        'shuffle': shuffle,
        'shuffled': distorted(shuffle[position], shuffle),
    }
