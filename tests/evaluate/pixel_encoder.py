"""A small Linen encoder whose features can be computed in NumPy, and random images for it."""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.sources import ArraySource

SIZE = 4
POLICY = Policy()


class Pixels(nn.Module):
    """Returns the first row of pixels, multiplied by a parameter, plus a running statistic."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        assert not train and axis_name is None, 'in evaluation no statistics of the batch are used'
        scale = self.param('scale', nn.initializers.ones, ())
        offset = self.variable('batch_stats', 'offset', jnp.zeros, ())
        return x[:, 0].reshape(x.shape[0], -1) * scale + offset.value


NETWORK: Any = types.SimpleNamespace(encoder=Pixels())
PARAMS, STATS = {'scale': np.float32(2.0)}, {'offset': np.float32(0.5)}


def features(images: np.ndarray) -> np.ndarray:
    """The features that the extractor must return, computed image by image."""
    rows = [(image[0] / 255 - np.array(POLICY.mean)) / np.array(POLICY.std) for image in images]
    return np.stack([2.0 * row.ravel() + 0.5 for row in rows]).astype(np.float32)


def source(n: int, labels: Any = None, seed: int = 0) -> ArraySource:
    """n random images uint8[n, SIZE, SIZE, 3]."""
    images = np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    return ArraySource(images, None if labels is None else np.asarray(labels), classes=None)
