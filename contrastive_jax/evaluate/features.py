"""Features of a whole data set: the encoder alone, in evaluation mode, on all devices."""

from typing import Any

import jax
import numpy as np
from jax import Array

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.loader import eval_batches
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS, REPLICATED, SHARDED, Devices
from contrastive_jax.models.network import Network


class FeatureExtractor:
    """Runs a frozen encoder over a data set, each example once, in order.

    Args:
      network: whose encoder is used.
      policy: for the resizing of images and the normalisation of pixels.
      devices: of the run.
      image_size: of the centre crop.
      batch_size: global; a multiple of the number of devices is chosen near it.
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
        """Features of some examples.

        Args:
          params: of the encoder, in the devices' layout.
          stats: its BN statistics; {} without BN.
          source: the data set.
          indices: int[n], which examples.

        Returns:
          float32[m, D] and int[m]: the features of the m <= n examples that could be read, and which these are; the
          same on every host.
        """
        host: list[tuple[np.ndarray, np.ndarray]] = []
        ahead = None  # the batch that the devices work on: its features leave them before the next but one begins
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
        for batch in batches:
            rows = self._devices.place_rows({'image': batch['image'], 'index': batch['index']})
            before, ahead = ahead, self._encode(params, stats, rows['image'], rows['index'])
            if before is not None:
                host.append(self._devices.fetch(before))
        host.append(self._devices.fetch(ahead))
        h, index = (np.concatenate(parts) for parts in zip(*host, strict=True))
        return h[index >= 0], index[index >= 0]
