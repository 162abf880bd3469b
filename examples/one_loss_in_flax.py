"""One loss of this package, NT-Xent (SimCLR, arXiv 2002.05709), in a Flax project that uses nothing else of it.

    python examples/one_loss_in_flax.py --steps=100

The network is a Flax NNX module written here, and the optimizer is optax's. A view is a digit that is shifted by up to
one pixel and changed in brightness. `contrastive_jax.losses` imports jax alone; its functions take arrays and return a
scalar. The script prints the loss, and the loss of a guess.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from sklearn.datasets import load_digits

from contrastive_jax.losses import nt_xent

B = 256  # images in a batch


class Encoder(nnx.Module):
    """Two convolutions and two linear layers; maps images [B, 8, 8, 1] to features [B, 128] and projections [B, 32]."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.linear = nnx.Linear(4 * 4 * 32, 128, rngs=rngs)
        self.projector = nnx.Linear(128, 32, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        h = nnx.relu(self.linear(x.reshape(len(x), -1)))
        return h, self.projector(h)


def make_view(key: Array, images: Array) -> Array:
    """A random view of each image float32[B, 8, 8, 1]."""
    key_shift, key_brightness = jax.random.split(key)
    shifts = jax.random.randint(key_shift, (len(images), 2), 0, 3)
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = jax.vmap(lambda x, s: jax.lax.dynamic_slice(x, (s[0], s[1], 0), (8, 8, 1)))(padded, shifts)
    return shifted * jax.random.uniform(key_brightness, (len(images), 1, 1, 1), minval=0.6, maxval=1.4)


def loss_fn(model: Encoder, images: Array, key: Array) -> Array:
    """NT-Xent of two views of each image."""
    key1, key2 = jax.random.split(key)
    _, z1 = model(make_view(key1, images))
    _, z2 = model(make_view(key2, images))
    return nt_xent(z1, z2, temperature=0.2)


@nnx.jit
def train_step(model: Encoder, optimizer: nnx.Optimizer, images: Array, key: Array) -> Array:
    """One step; changes model and optimizer, and returns the loss."""
    loss, grads = nnx.value_and_grad(loss_fn)(model, images, key)
    optimizer.update(model, grads)
    return loss


def main(steps: int) -> list[float]:
    """Trains, and returns the loss of every step."""
    images = (load_digits().images / 16).astype(np.float32)[..., None]
    model = Encoder(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    print(f'loss of a guess among the other {2 * B - 1} views: {2 * np.log(2 * B - 1):.3f}')  # both views are queries
    losses, rng = [], np.random.default_rng(0)
    for step in range(steps):
        batch = images[rng.choice(len(images), B, replace=False)]
        losses.append(float(train_step(model, optimizer, batch, jax.random.key(step))))
        if step % 20 == 0 or step == steps - 1:
            print(f'step {step + 1:4}  loss {losses[-1]:.3f}')
    return losses


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Trains a Flax NNX network with NT-Xent on the handwritten digits.')
    parser.add_argument('--steps', type=int, default=100, help='the number of training steps')
    main(parser.parse_args().steps)
