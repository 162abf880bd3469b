"""Spherical k-means and cluster prediction against slow loops, the authors' epoch, and themselves on more devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import cluster_prediction, deepcluster, kmeans, pca_whiten, spherical_kmeans
from tests import goldens

N, D, K, V = 24, 6, 5, 3


@pytest.fixture(scope='module')
def points() -> np.ndarray:
    z = np.random.default_rng(0).normal(size=(N, D))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture(scope='module')
def scores() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, size=(V, N, K))


ASSIGNED = np.arange(N) % (K + 1) - 1  # -1: not in the memory
SEEN = np.arange(N) % 4 > 0


def slow_kmeans(z: np.ndarray, centroids: np.ndarray, seen: np.ndarray, iterations: int):
    centroids = centroids.copy()
    for t in range(iterations + 1):
        nearest = [int(np.argmax([row @ c for c in centroids])) if ok else -1 for row, ok in zip(z, seen, strict=True)]
        if t == iterations:
            return centroids, np.array(nearest)
        for k in range(len(centroids)):
            members = [row for row, a in zip(z, nearest, strict=True) if a == k]
            if members:
                mean = np.mean(members, axis=0)
                centroids[k] = mean / np.linalg.norm(mean)
    raise AssertionError


@pytest.mark.parametrize('block', [4096, 7, 1])
def test_kmeans_in_slow_loops(points, block, monkeypatch):
    """With ignored rows, a cluster that stays empty, and blocks that do not divide the rows."""
    monkeypatch.setattr(deepcluster, 'BLOCK', block)
    start = points[:K].copy()
    start[3] = -points[SEEN].mean(axis=0) / np.linalg.norm(points[SEEN].mean(axis=0))
    start[4] = start[2]  # the first of two equal ones wins: this one is empty at first
    with jax.enable_x64(True):
        clusters = jax.jit(functools.partial(spherical_kmeans, iterations=4))
        centroids, assignments = clusters(points, start, mask=SEEN)
    expected, nearest = slow_kmeans(points, start, SEEN, 4)
    np.testing.assert_array_equal(assignments, nearest)
    np.testing.assert_allclose(centroids, expected, rtol=1e-12)
    assert assignments.dtype == jnp.int32


def test_prediction_is_the_mean_cross_entropy(scores):
    losses = []
    for v in range(V):
        for i in range(N):
            if ASSIGNED[i] >= 0:
                p = np.exp(scores[v, i] / 0.1)
                losses.append(-np.log(p[ASSIGNED[i]] / p.sum()))
    with jax.enable_x64(True):
        loss = jax.jit(functools.partial(cluster_prediction, assignments=jnp.asarray(ASSIGNED), temperature=0.1))
        np.testing.assert_allclose(loss(jnp.asarray(scores)), np.mean(losses), rtol=1e-12)
        check_grads(loss, (jnp.asarray(scores),), 1, modes=['rev'])


def both(axis_name):
    """Clusters of the local points, then the loss of the local scores and its gradient."""

    def local(points, start, seen, scores, assigned):
        centroids, nearest = spherical_kmeans(points, start, iterations=4, mask=seen, axis_name=axis_name)
        loss, grad = jax.value_and_grad(lambda s: cluster_prediction(s, assigned, axis_name=axis_name))(scores)
        return centroids, nearest, collectives.pmean(loss, axis_name), grad / collectives.axis_size(axis_name)

    return local


@pytest.fixture(scope='module')
def given(points, scores):
    """What `both` takes. Devices differ in how many of their images have a cluster."""
    return points, points[:K], SEEN, scores, np.where(np.arange(N) < 5, -1, np.abs(ASSIGNED))


@pytest.fixture(scope='module')
def on_one_device(given):
    with jax.enable_x64(True):
        return jax.jit(both(None))(*given)


@pytest.mark.parametrize('n', [1, 2, 4, 8])
@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_same_on_more_devices(given, on_one_device, n, mode):
    with jax.enable_x64(True):
        devices = find_devices(mode, n)
        specs = (P('data'), P(), P('data'), P(None, 'data'), P('data'))
        results = (P(), P('data'), P(), P(None, 'data'))
        actual = devices.run(both('data'), specs, results)(*devices.place(tuple(map(jnp.asarray, given)), specs))
        actual = devices.collect(actual, results)
    np.testing.assert_array_equal(actual[1], on_one_device[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), tuple(actual), on_one_device)


@pytest.mark.parametrize('case', goldens.cases('deepcluster_v2', 'epoch'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_an_epoch_of_the_authors(case: goldens.Case, precision: str):
    """Clusters of the memory, then loss and gradients of every step."""
    f, tolerance = case.fields, case.tolerances[precision]
    crops, world = sum(f['num_crops']), f['world_size']
    assert f['loss_average'] == 'over heads'
    index, memory = case['memory_index'].reshape(-1), case['memory_embeddings']  # [rank, crop, rows, D]
    with jax.enable_x64(precision == 'float64'):
        clusters = jax.jit(functools.partial(spherical_kmeans, iterations=f['kmeans_iterations']))
        centroids, assignments = [], []
        for head in f['heads']:
            ranks = jnp.asarray(memory[:, head['memory']], precision)
            start = ranks[f['init_memory_rank']][case.key(head['init_rows'])]
            result, nearest = clusters(ranks.reshape(-1, f['dim']), start)
            goldens.assert_close(result, case.key(head['centroids']), tolerance, head['centroids'])
            of_image = np.full(f['dataset_size'], -1)
            of_image[index] = nearest
            assignments.append(of_image)
            centroids.append(result)
        np.testing.assert_array_equal(np.stack(assignments), np.maximum(case['assignments'], -1))

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1))
        def loss_of(emb, centroids, targets):
            losses = [
                cluster_prediction((emb @ c.T).reshape(crops, -1, len(c)), a, temperature=f['temperature'])
                for c, a in zip(centroids, targets, strict=True)
            ]
            return sum(losses) / len(losses)

        for rank, t in itertools.product(range(world), range(f['steps'])):
            batch = case['batch_index'][rank, t]
            emb = jnp.asarray(case['emb'][rank, t], precision)
            loss, (in_emb, in_centroids) = loss_of(emb, centroids, [jnp.asarray(a[batch]) for a in assignments])
            goldens.assert_close(loss, case['loss'][t, rank], tolerance, f'loss {t}')
            goldens.assert_close(in_emb, case['grad_emb'][rank, t], tolerance, f'grad emb {t}')
            for head, grad in zip(f['heads'], in_centroids, strict=True):
                expected = case.key(head['grad_prototypes'])[rank, t]
                goldens.assert_close(grad, expected, tolerance, f'grad prototypes {t}')


def test_no_image_has_a_cluster(scores):
    loss, grad = jax.value_and_grad(lambda s: cluster_prediction(s, jnp.full(N, -1)))(jnp.asarray(scores, jnp.float32))
    assert loss == 0 and not grad.any()


@pytest.mark.parametrize('size', [0.0, 1e-30, 1e30])
def test_extreme_values_stay_finite(points, scores, size):
    centroids, _ = jax.jit(spherical_kmeans)(jnp.asarray(points * size, jnp.float32), jnp.zeros((K, D)))
    loss, grad = jax.value_and_grad(lambda s: cluster_prediction(s, jnp.asarray(ASSIGNED)))(
        jnp.asarray(scores * size, jnp.float32)
    )
    assert jnp.isfinite(centroids).all() and jnp.isfinite(loss) and jnp.isfinite(grad).all()


def test_half_precision_inputs_give_float32(scores):
    assert jax.jit(cluster_prediction)(jnp.asarray(scores, jnp.bfloat16), ASSIGNED).dtype == jnp.float32


# ================================ DeepCluster (v1) ================================


@pytest.mark.parametrize('devices', [1, 3])
def test_kmeans_and_whitening_of_sklearn(rng, devices):
    """By squared distance, from the same centroids; components up to their sign, on any number of devices."""
    z, K = rng.normal(size=(60, 6)) * [4, 3, 2, 1.5, 1, 0.5] + rng.normal(size=6), 5
    mask = rng.uniform(size=60) < 0.8
    start = z[mask][:K]

    def on_a_device(z, mask):
        white = pca_whiten(z, 3, mask=mask, axis_name='data')
        return white, kmeans(z, start, key=jax.random.key(0), iterations=4, mask=mask, axis_name='data')

    with jax.enable_x64(True):
        parts = [x.reshape(devices, -1, *x.shape[1:]) for x in (z, mask)]
        white, (centroids, assigned) = jax.vmap(on_a_device, axis_name='data')(*parts)
    pca = PCA(3, whiten=True).fit(z[mask])
    expected = pca.transform(z) * np.sqrt(mask.sum() / (mask.sum() - 1))  # sklearn divides the covariance by n - 1
    np.testing.assert_allclose(np.abs(white.reshape(60, 3)), np.abs(expected), atol=1e-9)

    found = KMeans(K, init=start, n_init=1, max_iter=4, tol=0, algorithm='lloyd').fit(z[mask])
    assert found.n_iter_ == 4, 'it is still moving'
    np.testing.assert_allclose(centroids[0], found.cluster_centers_, atol=1e-9)
    np.testing.assert_array_equal(assigned.reshape(-1)[mask], found.labels_)
    assert (assigned.reshape(-1)[~mask] == -1).all()


def test_an_empty_cluster_divides_another_one(rng):
    """Two groups of rows and three clusters, one of them far away."""
    z = np.concatenate([rng.normal(size=(20, 2)) * 0.1 + [1, 1], rng.normal(size=(4, 2)) * 0.1 - [1, 1]])
    start = np.array([[1.0, 1.0], [-1.0, -1.0], [100.0, -100.0]])
    once, _ = kmeans(z, start, key=jax.random.key(0), iterations=1)
    closest = np.linalg.norm(once[2] - once[:2], axis=1).min()
    assert 0 < closest < 2 / 1024 * np.linalg.norm(once[2])
    _, assigned = kmeans(z, start, key=jax.random.key(0), iterations=10)
    assert len(np.unique(assigned)) == 3
