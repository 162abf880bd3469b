"""SimCLR's step against the same computed from its parts, and the memory of v2 against a queue in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.losses import nt_xent, nt_xent_with_memory
from contrastive_jax.methods import SimCLR, SimCLRMemory, ema
from contrastive_jax.methods.simclr import mean_similarity_in_batch
from tests.methods.tiny_encoder import network

B, D, T = 4, 3, 0.2


@pytest.fixture
def net():
    projector = {'num_layers': 2, 'hidden_dim': 6, 'output_dim': D, 'last_batch_norm': True}
    return network(6, True, None, jnp.float32, projector, None)


@pytest.fixture
def views(rng: np.random.Generator):
    return tuple(jnp.asarray(rng.normal(size=(B, 5)), jnp.float32) for _ in range(2))


def project(net, params, stats, x):
    (_, z), new = net.apply(
        {'params': params, 'batch_stats': stats}, x, train=True, method='project', mutable=['batch_stats']
    )
    return z, new['batch_stats']


def test_both_views_share_one_batch_norm(net, views):
    method = SimCLR(net, temperature=T)
    params, state = method.init(jax.random.key(0), {'views': views})
    loss, (new, metrics) = method.loss(params, state, {'views': views}, rng=None, progress=0.0)

    z, stats = project(net, params, state.batch_stats['online'], jnp.concatenate(views))  # statistics of 2B views
    np.testing.assert_allclose(loss, nt_xent(z[:B], z[B:], temperature=T), rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.batch_stats, {'online': stats})
    assert new.target == {} and new.memory == {}

    z = np.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True))
    similar = z @ z.T
    positive = np.mean([similar[i, (i + B) % (2 * B)] for i in range(2 * B)])
    negative = np.mean([similar[i, k] for i in range(2 * B) for k in range(2 * B) if (k - i) % B])
    np.testing.assert_allclose(metrics['positive_similarity'], positive, rtol=1e-5)
    np.testing.assert_allclose(metrics['negative_similarity'], negative, rtol=1e-4, atol=1e-6)
    wins = [all(similar[i, (i + B) % (2 * B)] > similar[i, k] for k in range(2 * B) if (k - i) % B) for i in range(8)]
    np.testing.assert_allclose(metrics['contrastive_top1'], np.mean(wins))


def test_a_single_image_has_no_negatives():
    z = jnp.ones((1, 1))
    assert mean_similarity_in_batch(z, z) == 0.0


def test_memory(net, views, rng):
    """Negatives of earlier batches; then the memory network is updated, encodes both views, and they are enqueued."""
    method = SimCLRMemory(net, queue_size=4 * B, momentum=0.9, temperature=T)
    params, state = method.init(jax.random.key(0), {'views': views})
    moved = jax.tree.map(lambda x: x + 0.1, params)  # as after a step of the optimizer
    target = ema.update(state.target, moved, 0.9)
    queue = np.asarray(state.memory['queue']['keys'])
    assert queue.shape == (4, B, D)

    x = jnp.concatenate(views)
    loss, (new, metrics) = method.loss(moved, state, {'views': views}, rng=None, progress=0.0)
    z, stats = project(net, moved, state.batch_stats['online'], x)
    k, stats_k = project(net, target, state.batch_stats['target'], x)
    np.testing.assert_allclose(loss, nt_xent_with_memory(z[:B], z[B:], queue, temperature=T), rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        (new.target, new.batch_stats),
        (target, {'online': stats, 'target': stats_k}),
    )
    k = k / np.linalg.norm(k, axis=-1, keepdims=True)
    expected = np.concatenate([np.stack([k[:B], k[B:]]), queue[2:]])
    np.testing.assert_allclose(new.memory['queue']['keys'], expected, rtol=1e-5, atol=1e-6)
    assert int(new.memory['queue']['slot']) == 2

    z = np.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True))
    similar = np.concatenate([z @ z.T, z @ queue.reshape(-1, D).T], axis=1)
    negative = [similar[i, j] for i in range(2 * B) for j in range(6 * B) if j >= 2 * B or (j - i) % B]
    np.testing.assert_allclose(metrics['negative_similarity'], np.mean(negative), rtol=1e-4, atol=1e-6)
