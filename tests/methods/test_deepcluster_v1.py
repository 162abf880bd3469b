"""DeepCluster against numpy: clusters and weights of an epoch, and the classifier that has an optimizer of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.methods import DeepClusterV1, MethodState
from contrastive_jax.methods.memory import sample_different_rows
from tests.methods.identity_network import same
from tests.methods.tiny_encoder import network

N, B, D, K = 40, 8, 5, 4
METHOD = DeepClusterV1(same(D), K, pca_dim=3, kmeans_iterations=5, classifier_learning_rate=0.3, num_examples=N)
SPECS = MethodState(P(), P(), DeepClusterV1.memory_spec)


def empty() -> MethodState:
    """The state at step 0, in float64."""
    head = {'num_layers': 1, 'hidden_dim': 1, 'output_dim': D}
    method = dataclasses.replace(METHOD, network=network(4, False, None, jnp.float32, head, None))
    memory = method.init(jax.random.key(0), {'views': (jnp.zeros((B, D)),)})[1].memory
    memory = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, memory)
    return MethodState({}, {'online': {}}, memory)


@pytest.mark.parametrize('count', [1, 4])
def test_the_start_of_an_epoch(rng, count):
    """Whitened, normalized, clustered: sklearn's PCA and k-means. The weights make all clusters count the same."""
    key = jax.random.key(3)
    with jax.enable_x64(True):
        start = empty()
        seen = np.zeros(len(start.memory['bank']), bool)
        seen[rng.permutation(N)[:32]] = True
        bank = np.where(seen[:, None], rng.normal(size=(len(seen), D)) * [3, 2, 1, 1, 1] + 1, 0)
        start = start.replace(memory=start.memory | {'bank': jnp.asarray(bank)})
        devices = find_devices('jit', count)
        run = devices.run(lambda state: METHOD.before_epoch(state, rng=key, axis_name='data'), (SPECS,), SPECS)
        new = jax.device_get(devices.collect(run(devices.place(start, SPECS)), SPECS, start)).memory

        x = PCA(3, whiten=True).fit(bank[seen]).transform(bank)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        first = sample_different_rows(jax.random.split(key, 3)[0], jnp.asarray(x), jnp.asarray(seen), K, N)
    found = KMeans(K, init=np.asarray(first), n_init=1, max_iter=5, tol=0, algorithm='lloyd').fit(x[seen])
    expected = np.full(len(seen), -1)
    expected[seen] = found.predict(x[seen])
    np.testing.assert_array_equal(new['assignments'][:, 0], expected)
    sizes = np.bincount(expected[seen], minlength=K)
    np.testing.assert_allclose(new['weights'] * sizes, 32 / K)
    p = sizes / 32
    np.testing.assert_allclose(new['entropy'], -(p * np.log(p)).sum() / np.log(K))
    assert not new['bank'].any() and not any(x.any() for x in new['velocity'].values())
    assert 0.005 < new['classifier']['kernel'].std() < 0.02 and not new['classifier']['bias'].any()


def test_steps_of_the_classifier(rng):
    """SGD with momentum by hand; examples without cluster do not count; the bank has the new features."""
    with jax.enable_x64(True):
        state = empty()
        cluster = np.full(len(state.memory['bank']), -1, np.int32)
        cluster[: N - 4] = rng.integers(0, K, N - 4)
        weights = rng.uniform(0.5, 2, K)
        W, b = rng.normal(size=(D, K)), rng.normal(size=K)
        memory = state.memory | {'assignments': jnp.asarray(cluster[:, None]), 'weights': jnp.asarray(weights)}
        memory |= {'classifier': {'kernel': jnp.asarray(W), 'bias': jnp.asarray(b)}}
        state = state.replace(memory=memory)
        order, z = rng.permutation(N), rng.normal(size=(N, D))
        velocity_W, velocity_b = np.zeros_like(W), np.zeros_like(b)
        for step in range(3):
            index = np.append(order[step * 7 : step * 7 + 7], N - 1 - step).astype(np.int32)  # the last: no cluster
            batch = {'views': (jnp.asarray(z[index]),), 'index': jnp.asarray(index)}
            loss, (state, _) = METHOD.loss({}, state, batch, rng=jax.random.key(0), progress=0.0)

            total, count, gradient_W, gradient_b = 0.0, 0, np.zeros_like(W), np.zeros_like(b)
            for i in index:
                if cluster[i] < 0:
                    continue
                f = np.maximum(z[i], 0)
                p = np.exp(f @ W + b) / np.exp(f @ W + b).sum()
                total -= weights[cluster[i]] * np.log(p[cluster[i]])
                error = weights[cluster[i]] * (p - np.eye(K)[cluster[i]])
                gradient_W, gradient_b, count = gradient_W + np.outer(f, error), gradient_b + error, count + 1
            np.testing.assert_allclose(loss, total / count)
            velocity_W = 0.9 * velocity_W + gradient_W / count + 1e-5 * W
            velocity_b = 0.9 * velocity_b + gradient_b / count + 1e-5 * b
            W, b = W - 0.3 * velocity_W, b - 0.3 * velocity_b
            np.testing.assert_allclose(state.memory['classifier']['kernel'], W)
            np.testing.assert_allclose(state.memory['classifier']['bias'], b)
            np.testing.assert_allclose(np.asarray(state.memory['bank'])[index], z[index])
