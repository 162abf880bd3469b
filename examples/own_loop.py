"""MoCo v2 (arXiv 2003.04297) in a training loop of your own, from parts of this package that can be imported alone.

    python examples/own_loop.py --steps=300

There is no trainer, config or workdir here. Ours are the network, the views, the loss, the queue of keys, the moving
average and the kNN evaluation; the optimizer is optax's. The script trains a small ResNet on scikit-learn's handwritten
digits, in less than a minute on two CPU cores. It prints the loss, and the kNN accuracy before and after the training.
"""

import argparse
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array, lax
from sklearn.datasets import load_digits

from contrastive_jax.augment.policy import Policy
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.losses import info_nce
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import ema, memory
from contrastive_jax.models.network import build

B, K, D, SIZE = 128, 1024, 64, 8  # images in a batch, keys in the queue, dimensions of a key, pixels of a side
m, T = 0.99, 0.2  # momentum of the key encoder, temperature

# For larger images {'name': 'resnet50'}, {'name': 'vit_small'}, ...; models.network.ENCODERS lists the names.
encoder = {'name': 'resnet_tiny', 'stem': 'cifar', 'stage_sizes': (1, 1), 'width': 32}
projector = {'num_layers': 2, 'hidden_dim': 128, 'output_dim': D, 'bias': True, 'batch_norm': False}
network = build(encoder, projector, bn_group_size=32)
policy = Policy(crop_scale=(0.5, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.0, 0.0), grayscale=0.0, blur=(0.0, 0.0))


class State(NamedTuple):
    """Everything that changes during training; `*_k` belongs to the key encoder."""

    params: Any
    stats: Any  # the running BN statistics
    params_k: Any
    stats_k: Any
    queue: memory.Queue
    opt_state: Any


def init(key: Array, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step. Both encoders start with the same weights."""
    key_network, key_queue = jax.random.split(key)
    variables = jax.jit(partial(network.init, train=True))(key_network, np.zeros((2, SIZE, SIZE, 3), np.float32))
    params, stats = variables['params'], variables['batch_stats']
    return State(params, stats, params, stats, memory.init_queue(key_queue, K, B, D), optimizer.init(params))


def project(params: Any, stats: Any, x: Array) -> tuple[Array, Any]:
    """Projections [B, D] of normalized images [B, H, W, 3] in training mode, and the new BN statistics."""
    variables = {'params': params, 'batch_stats': stats}
    (_, z), new = network.apply(variables, x, train=True, method='project', mutable=['batch_stats'])
    return z, new['batch_stats']


def loss_fn(params: Any, state: State, x_q: Array, x_k: Array, shuffle: Array) -> tuple[Array, tuple[Any, Any, Array]]:
    """InfoNCE of the queries and their keys; also both BN statistics and the keys [B, D].

    The keys are encoded in shuffled order, so that the BN groups of queries and keys hold different images.
    """
    q, stats = project(params, state.stats, x_q)
    k, stats_k = project(state.params_k, state.stats_k, x_k[shuffle])
    k = lax.stop_gradient(normalize(k[shuffle.argsort()]))
    return info_nce(q, k, state.queue['keys'], temperature=T), (stats, stats_k, k)


@partial(jax.jit, static_argnames='optimizer')
def train_step(state: State, images: Array, key: Array, optimizer: optax.GradientTransformation) -> tuple[State, Array]:
    """One step on images uint8[B, H, W, 3]; returns the new state and the loss."""
    key_views, key_shuffle = jax.random.split(key)
    keys = jax.random.split(key_views, len(images))  # one for each image
    x_q, x_k = (policy(keys, images, view, SIZE) for view in (0, 1))
    state = state._replace(params_k=ema.update(state.params_k, state.params, m))
    shuffle = jax.random.permutation(key_shuffle, len(images))
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (stats, stats_k, k)), grads = grad_fn(state.params, state, x_q, x_k, shuffle)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, stats, state.params_k, stats_k, memory.enqueue(state.queue, k), opt_state), loss


@jax.jit
def encode(state: State, images: Array) -> Array:
    """Features [n, D of the encoder] of images uint8[n, H, W, 3] in evaluation mode."""
    variables = {'params': state.params, 'batch_stats': state.stats}
    return network.apply(variables, policy.normalize(images), train=False, method='encode')


def main(steps: int) -> tuple[float, float]:
    """Trains, and returns the kNN accuracy before and after."""
    digits = load_digits()
    images = np.repeat(np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)  # [n, 8, 8, 3]
    n = 1437  # training images; the others are held out
    schedule = optax.cosine_decay_schedule(0.06, steps)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(schedule, momentum=0.9))
    state = init(jax.random.key(0), optimizer)

    def knn() -> float:
        h, y = encode(state, images), digits.target
        return knn_accuracy(h[:n], y[:n], h[n:], y[n:], num_classes=10, k=20)['top1']

    before, rng = knn(), np.random.default_rng(0)
    for step in range(steps):
        batch = images[rng.choice(n, B, replace=False)]
        state, loss = train_step(state, batch, jax.random.fold_in(jax.random.key(1), step), optimizer)
        if step % 50 == 0 or step == steps - 1:
            print(f'step {step + 1:4}  loss {loss:.3f}')
    after = knn()
    print(f'kNN accuracy on held-out digits: {after:.1%} (untrained encoder: {before:.1%})')
    return before, after


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Trains MoCo v2 on the handwritten digits in a loop of its own.')
    parser.add_argument('--steps', type=int, default=300, help='the number of training steps')
    main(parser.parse_args().steps)
