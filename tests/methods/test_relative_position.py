"""Relative position against loops over images and pairs, with a network of matrices."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.methods import RelativePosition
from tests.methods.tiny_encoder import network

B, P = 5, 3


def layers(tree, *names):
    return [(np.asarray(tree[name]['kernel']), np.asarray(tree[name]['bias'])) for name in names]


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum())


def test_every_pair_in_loops(rng):
    with jax.enable_x64(True):
        head = {'num_layers': 1, 'hidden_dim': 6, 'output_dim': 6, 'bias': True}
        method = RelativePosition(network(7, False, None, jnp.float64, head, None), hidden_dim=11)
        tiles = rng.normal(size=(B, 3, 3, P, P, 3))
        params, state = method.init(jax.random.key(0), {'views': (jnp.zeros((B, P, P, 3)),)})
        params = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        loss, (_, metrics) = method.loss(
            params, state, {'views': (jnp.asarray(tiles),)}, rng=jax.random.key(1), progress=0.0
        )

    encoder = params['encoder']['linear']['kernel']
    ((weight, bias),) = layers(params['projector'], 'linear_0')
    first, second, last = layers(params['classifier'], 'linear_0', 'linear_1', 'linear_2')

    def encode(tile):
        return np.maximum(np.maximum(tile.reshape(-1) @ encoder, 0) @ weight + bias, 0)

    # The eight positions around the center: row by row, without the center.
    places = [(r, c) for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    losses, right = [], []
    for image in tiles:
        for label, (r, c) in enumerate(places):
            x = np.concatenate([encode(image[1, 1]), encode(image[r, c])])
            for kernel, offset in (first, second):
                x = np.maximum(x @ kernel + offset, 0)
            scores = x @ last[0] + last[1]
            losses.append(-log_softmax(scores)[label])
            right.append(scores.argmax() == label)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)
    np.testing.assert_allclose(metrics['pretext_top1'], np.mean(right), atol=1e-6)
