"""Batch normalization over groups of examples. The group size is a hyper-parameter and independent of the devices."""

import math

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import Array, lax

from contrastive_jax.distributed import collectives


def split_groups(group_size: int | None, local_batch: int, devices: int) -> tuple[int, int]:
    """How groups of consecutive examples of the global batch are distributed over the devices.

    Args:
      group_size: the number of examples that share statistics; None, or a size of at least the global batch: all.
      local_batch: the number of examples on each device.
      devices: the number of devices along the batch axis.

    Returns:
      (groups on each device, devices of each group); at least one of the two is 1.

    Raises:
      ValueError: the groups cannot be divided evenly among the devices.
    """
    if group_size is None or group_size >= local_batch * devices:
        return 1, devices
    if group_size < 1:
        raise ValueError(f'BatchNorm group_size {group_size} must be at least 1; None means the global batch')
    if group_size <= local_batch and local_batch % group_size == 0:
        return local_batch // group_size, 1
    group_devices = group_size // local_batch
    if group_size % local_batch == 0 and devices % group_devices == 0:
        return 1, group_devices
    across = f', or {local_batch} times a divisor of {devices}' if devices > 1 else ''
    raise ValueError(
        f'BatchNorm group_size {group_size} does not fit {devices} device(s) of {local_batch} examples; '
        f'use a divisor of {local_batch}{across}'
    )


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy, arXiv:1502.03167) over groups of examples.

    Each group of `group_size` consecutive examples of the global batch is normalized with its own mean and variance,
    whether it is on one device or on several, so the result depends only on the global batch. MoCo v1 and v2 used 32
    examples on each GPU, which is `group_size=32`; None is the "SyncBN" of the other methods. `init` makes the
    variables, which depend on the shape of x alone, and returns x as it is.

    It works under `jit(shard_map(check_vma=False))`, under `pmap`, and without a mapped axis. `vmap(axis_name=...)`
    does not support `axis_index_groups`; there a group must be the whole batch or be on one device.

    Attributes:
      group_size: the number of examples that share statistics; None: the global batch. A batch smaller than a group is
        one group.
      views: how many batches follow each other in the rows of a device, all of its first batch before its second. Each
        has its own groups, and the running statistics move once for each, as if they came one after the other.
      momentum: running = momentum * running + (1 - momentum) * batch; torch calls 1 - momentum the momentum.
      epsilon: added to the variance.
      unbiased: whether the running variance divides by n - 1, as in torch, or by n, as in Keras and Haiku.
      use_scale: whether to learn a scale for each channel.
      use_bias: whether to learn an offset for each channel.
      scale_init: the initializer of the scale; zeros for the last norm of a residual block ("zero-gamma").
      dtype: the dtype of the output. Statistics are computed and stored in float32 or a wider dtype.
    """

    group_size: int | None = None
    views: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = True
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        """Normalizes over all axes but the last.

        Args:
          x: [B, ..., C], the local examples.
          train: whether to use the statistics of the batch and update the running ones; otherwise the running ones are
            used.
          axis_name: the mapped device axis; None: the whole batch is on one device.

        Returns:
          [B, ..., C] in `dtype`.

        Raises:
          ValueError: the groups cannot be divided evenly among the devices.
        """
        channels = x.shape[-1:]
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
        running_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
        scale = self.param('scale', self.scale_init, channels, jnp.float32) if self.use_scale else None
        bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32) if self.use_bias else None
        if self.is_initializing():
            return x.astype(self.dtype)

        shape, x = x.shape, x.astype(jnp.promote_types(self.dtype, jnp.float32))
        if train:
            views, devices = self.views, collectives.axis_size(axis_name)
            groups, group_devices = split_groups(self.group_size, shape[0] // views, devices)
            x = x.reshape(views * groups, -1, *shape[1:])  # consecutive examples: [views * groups, examples, ..., C]
            mean, var = group_moments(x, group_devices, axis_name)  # [views * groups, 1, ..., 1, C]
            n = group_devices * math.prod(x.shape[1:-1])
            correction = n / max(n - 1, 1) if self.unbiased else 1.0
            batch = [x.reshape(views, groups, -1).mean(1) for x in (mean, var * correction)]  # [views, C]
            if group_devices < devices:  # other devices have other groups
                batch = collectives.pmean(batch, axis_name)
            for running, new in zip((running_mean, running_var), batch, strict=True):
                updated = running.value
                for of_view in lax.stop_gradient(new):
                    updated = self.momentum * updated + (1 - self.momentum) * of_view
                running.value = updated.astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value

        # (x - mean) / std * scale + bias as one multiplication and one addition for each element.
        factor = lax.rsqrt(var + self.epsilon)
        factor = factor if scale is None else factor * scale
        offset = -mean * factor if bias is None else bias - mean * factor
        return (x * factor + offset).reshape(shape).astype(self.dtype)


def group_moments(x: Array, group_devices: int, axis_name: str | None) -> tuple[Array, Array]:
    """The mean and the biased variance E[x²] − E[x]² of each group, in one pass over the data.

    Args:
      x: [groups, examples, ..., C], the local examples.
      group_devices: the number of consecutive devices that share each group.
      axis_name: the mapped device axis, or None.

    Returns:
      Mean and variance, each [groups, 1, ..., 1, C], in the dtype of x.
    """
    axes = tuple(range(1, x.ndim - 1))
    moments = (x.mean(axes, keepdims=True), (x * x).mean(axes, keepdims=True))
    if group_devices > 1 and axis_name is not None:
        devices = collectives.axis_size(axis_name)
        if group_devices == devices:
            moments = lax.pmean(moments, axis_name)
        else:
            groups = [list(range(i, i + group_devices)) for i in range(0, devices, group_devices)]
            moments = lax.pmean(moments, axis_name, axis_index_groups=groups)
    mean, mean_of_squares = moments
    return mean, jnp.maximum(mean_of_squares - mean * mean, 0.0)
