"""Exemplar against a loop: the class of an example is its index in the data set."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.methods import Exemplar
from tests.methods.identity_network import same
from tests.methods.tiny_encoder import network

N, B, D = 30, 6, 4


def test_cross_entropy_over_all_images(rng):
    z, index = rng.normal(size=(B, D)), rng.permutation(N)[:B].astype(np.int32)
    W, b = rng.normal(size=(D, N)), rng.normal(size=N)
    with jax.enable_x64(True):
        method = Exemplar(same(D), num_examples=N)
        batch = {'views': (jnp.asarray(z),), 'index': jnp.asarray(index)}
        head = {'num_layers': 1, 'hidden_dim': 1, 'output_dim': D}
        trained = Exemplar(network(4, False, None, jnp.float32, head, None), num_examples=N)
        params, state = trained.init(jax.random.key(0), batch)
        assert params['classifier']['kernel'].shape == (D, N)
        params = {'classifier': {'kernel': jnp.asarray(W), 'bias': jnp.asarray(b)}}
        state = state.replace(batch_stats={'online': {}})
        loss, (_, metrics) = method.loss(params, state, batch, rng=jax.random.key(0), progress=0.0)
    losses, right = [], []
    for row, i in zip(z, index, strict=True):
        scores = np.maximum(row, 0) @ W + b
        losses.append(np.log(np.exp(scores).sum()) - scores[i])
        right.append(scores.argmax() == i)
    np.testing.assert_allclose(loss, np.mean(losses))
    np.testing.assert_allclose(metrics['pretext_top1'], np.mean(right), atol=1e-7)
