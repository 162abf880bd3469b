"""Features of a data set: the encoder runs alone, in evaluation mode, on all devices."""

from typing import Any

import jax
import numpy as np
from jax import Array

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.loader import eval_batches
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed import collectives, stopping, watchdog
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS, REPLICATED, SHARDED, Devices
from contrastive_jax.models.network import Network


class FeatureExtractor:
    """Computes the features of examples with a frozen encoder: each example once, in the given order.

    Args:
      network: the network of a method; only its encoder is used.
      policy: gives the resizing of images and the normalization of pixels.
      devices: the devices that the run uses.
      image_size: height and width of the center crop, in pixels.
      batch_size: global batch size; it is rounded up to a multiple of the number of devices.
    """

    def __init__(self, network: Network, policy: Policy, devices: Devices, *, image_size: int, batch_size: int):
        self._devices, self._image_size, self._policy = devices, image_size, policy
        self._batch_size = -(-batch_size // devices.count) * devices.count

        def encode(params: PyTree, stats: PyTree, images: Array, index: Array) -> tuple[Array, Array]:
            x = policy.normalize(images, network.encoder.dtype)
            h: Any = network.encoder.apply({'params': params, 'batch_stats': stats}, x, train=False)
            return collectives.all_gather(h.astype(np.float32), AXIS), collectives.all_gather(index, AXIS)

        r = REPLICATED
        self._encode = devices.run(encode, (r, r, SHARDED, SHARDED), r)

    def __call__(
        self, params: PyTree, stats: PyTree, source: Source, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes the features of some examples.

        Args:
          params: parameters of the encoder, in the devices' layout.
          stats: BN statistics of the encoder; {} without BN.
          source: the data set.
          indices: int[n], positions of the examples in the data set.

        Returns:
          Features float32[m, D] and positions int[m] of the m <= n examples that could be read; equal on every host.

        Raises:
          DataError: too many images cannot be read.
          Interrupted: the run was asked to stop, see `distributed.stopping`.
        """
        host: list[tuple[np.ndarray, np.ndarray]] = []
        ahead = None  # the result that the devices still compute while the host reads the next batch
        batches = eval_batches(
            source,
            indices=indices,
            image_size=self._image_size,
            batch_size=self._batch_size,
            interpolation=self._policy.interpolation,
            style=self._policy.style,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        for batch in watchdog.reading(batches, 'images to evaluate, batch'):
            stopping.check()
            rows = self._devices.place_rows({'image': batch['image'], 'index': batch['index']})
            before, ahead = ahead, self._encode(params, stats, rows['image'], rows['index'])
            if before is not None:
                host.append(self._devices.fetch(before))
        host.append(self._devices.fetch(ahead))
        h, index = (np.concatenate(parts) for parts in zip(*host, strict=True))
        return h[index >= 0], index[index >= 0]
