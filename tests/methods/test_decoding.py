"""Denoising autoencoder and context encoder against loops, with an encoder that only moves pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.distributed import collectives
from contrastive_jax.methods import ContextEncoder, DenoisingAutoencoder
from contrastive_jax.methods.context_encoder import BLOCKS
from contrastive_jax.methods.denoising import corrupt
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.network import Network

B, SIZE, KEY = 4, 8, jax.random.key(5)


class Cells(nn.Module):
    """The feature map is the image, with the pixels of 2 x 2 cells as channels."""

    dtype: type = jnp.float64

    def feature_map(self, x, *, train: bool, axis_name: str | None = None):
        B, H, W, C = x.shape
        return x.reshape(B, H // 2, 2, W // 2, 2, C).swapaxes(2, 3).reshape(B, H // 2, W // 2, 4 * C)

    def __call__(self, x, *, train: bool, axis_name: str | None = None):
        return self.feature_map(x, train=train).mean((1, 2))


NETWORK = Network(encoder=Cells(), projector=MLP(1, 7, 7, bias=True))


def decoded(image: np.ndarray, params: dict) -> np.ndarray:
    """The projection of each cell of one image, the transposed convolution of them, and the last convolution."""
    half, linear, layer = SIZE // 2, params['projector']['linear_0'], params['decoder']['deconv_0']
    weight, offset, kernel, bias = linear['kernel'], linear['bias'], layer['kernel'], layer['bias']
    out = np.tile(bias, (SIZE + 4, SIZE + 4, 1)).astype(float)  # with a margin of two pixels, which is cut off
    for r in range(half):
        for s in range(half):
            cell = np.concatenate([image[2 * r + i, 2 * s + j] for i in range(2) for j in range(2)])
            for i in range(4):
                for j in range(4):  # the kernel is turned: the first row of it makes the last one
                    out[2 * r + i + 1, 2 * s + j + 1] += np.maximum(cell @ weight + offset, 0) @ kernel[3 - i, 3 - j]
    hidden = np.pad(np.maximum(out[2:-2, 2:-2], 0), ((1, 1), (1, 1), (0, 0)))
    image = params['decoder']['image']
    return np.array(
        [
            [image['bias'] + np.tensordot(hidden[r : r + 3, s : s + 3], image['kernel'], 3) for s in range(SIZE)]
            for r in range(SIZE)
        ]
    )


@pytest.fixture
def images(rng) -> np.ndarray:
    return rng.uniform(size=(B, SIZE, SIZE, 3))


def run(method, images, rng):
    """Loss and metrics, in float64, the keys of the images and the parameters."""
    with jax.enable_x64(True):
        x = jnp.asarray(images)
        params, state = method.init(jax.random.key(0), {'views': (x,)})
        params = jax.tree.map(lambda p: jnp.asarray(rng.normal(scale=0.3, size=p.shape)), params)
        loss, (_, metrics) = method.loss(params, state, {'views': (x,)}, rng=KEY, progress=0.0)
        keys = collectives.example_keys(KEY, jnp.arange(B))
    assert params['decoder'].keys() == {'deconv_0', 'image'}
    return loss, metrics, keys, jax.device_get(params)


def test_a_share_of_the_pixels_is_zero(images):
    x = jnp.asarray(images[0] + 1)
    masks = [np.asarray(corrupt(jax.random.key(i), x, 0.3)) for i in range(2)]
    for mask in masks:
        assert (mask == 0).all(-1).sum() == (mask == 0).any(-1).sum() == int(0.3 * SIZE**2)
        np.testing.assert_array_equal(mask[mask != 0], x[mask != 0])
    assert ((masks[0] == 0) != (masks[1] == 0)).any()
    np.testing.assert_array_equal(corrupt(KEY, x, 0.0), x)


def test_denoising_in_loops(images, rng):
    method = DenoisingAutoencoder(NETWORK, corruption=0.3, decoder_width=5)
    loss, metrics, keys, params = run(method, images, rng)
    losses, errors = [], []
    for key, image in zip(keys, images, strict=True):
        with jax.enable_x64(True):
            seen = np.asarray(corrupt(key, jnp.asarray(image), 0.3))
        z = 1 / (1 + np.exp(-decoded(seen, params)))
        losses.append(np.mean(-image * np.log(z) - (1 - image) * np.log(1 - z)))
        errors.append(np.mean((z - image) ** 2))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)
    np.testing.assert_allclose(metrics['reconstruction_error'], np.mean(errors), rtol=1e-6)


def test_the_center_in_loops(images, rng):
    """A square of 4 pixels is predicted; the encoder misses the inner 2, and the margin has ten times the weight."""
    method = ContextEncoder(NETWORK, 'center', overlap=1, decoder_width=5)
    loss, metrics, _, params = run(method, images, rng)
    losses, errors = [], []
    for image in images:
        seen = image.copy()
        seen[3:5, 3:5] = 0
        error = ((decoded(seen, params) - image) ** 2).mean(-1)
        total = sum((1 if 3 <= r < 5 and 3 <= s < 5 else 10) * error[r, s] for r in range(2, 6) for s in range(2, 6))
        losses.append(total / (4 + 10 * 12))
        errors.append(error[3:5, 3:5].mean())
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)
    np.testing.assert_allclose(metrics['reconstruction_error'], np.mean(errors), rtol=1e-6)


def test_random_blocks(images, rng):
    """Four squares of a quarter of the side, inside the image; what is missing is what is predicted."""
    method = ContextEncoder(NETWORK, 'blocks', decoder_width=5)
    loss, _, keys, params = run(method, images, rng)
    losses = []
    for key, image in zip(keys, images, strict=True):
        missing, weights = map(np.asarray, method.masks(key, SIZE))
        np.testing.assert_array_equal(missing, weights)
        squares = [missing[r : r + 2, s : s + 2] for r in range(SIZE - 1) for s in range(SIZE - 1)]
        assert sum(square.all() for square in squares) >= 1 and 4 <= missing.sum() <= 4 * BLOCKS
        error = ((decoded(np.where(missing[..., None], 0, image), params) - image) ** 2).mean(-1)
        losses.append(error[missing].mean())
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)
    places = {tuple(np.argwhere(method.masks(jax.random.key(i), SIZE)[0])[0]) for i in range(20)}
    assert len(places) > 5
