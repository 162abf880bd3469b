"""SwAV's codes and loss against the equations in slow loops and the authors' values; the same on more devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import sinkhorn, swapped_prediction
from tests import goldens

B, K, V = 8, 5, 4


def slow_sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Algorithm 1 of arXiv 2006.09882, appendix A: Q is [K, B]."""
    Q = np.exp(scores / epsilon).T
    Q /= Q.sum()
    for _ in range(iterations):
        for k in range(Q.shape[0]):
            Q[k] /= Q[k].sum() * Q.shape[0]
        for b in range(Q.shape[1]):
            Q[:, b] /= Q[:, b].sum() * Q.shape[1]
    return (Q * Q.shape[1]).T


def slow_loss(scores: np.ndarray, codes: np.ndarray, temperature: float) -> float:
    """Eq. 2 and the sum of multi-crop (eq. 5), one image and one pair of crops at a time."""
    losses = []
    for i in range(len(codes)):
        for v in range(len(scores)):
            if v != i:
                for b in range(scores.shape[1]):
                    p = np.exp(scores[v, b] / temperature)
                    losses.append(-(codes[i, b] * np.log(p / p.sum())).sum())
    return float(np.mean(losses))


@pytest.fixture(scope='module')
def scores() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, size=(V, B, K))


def test_equations(scores):
    with jax.enable_x64(True):
        codes = [jax.jit(partial(sinkhorn, epsilon=0.05, iterations=3))(s) for s in scores[:2]]
        for code, s in zip(codes, scores, strict=False):
            np.testing.assert_allclose(code, slow_sinkhorn(s, 0.05, 3), rtol=1e-11)
        loss = jax.jit(partial(swapped_prediction, temperature=0.1))(list(scores), codes)
        np.testing.assert_allclose(loss, slow_loss(scores, np.stack(codes), 0.1), rtol=1e-12)


def test_many_iterations_assign_the_batch_evenly(scores):
    codes = np.asarray(sinkhorn(jnp.asarray(scores[0], jnp.float32), epsilon=0.5, iterations=100))
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(codes.sum(axis=0), B / K, rtol=1e-5)


def test_gradients(scores):
    """Gradients of the predictions against finite differences; no gradient through the codes."""
    with jax.enable_x64(True):
        scores = jnp.asarray(scores)
        codes = jnp.stack([jax.jit(sinkhorn)(s) for s in scores[:2]])
        check_grads(jax.jit(lambda s: swapped_prediction(list(s), list(codes))), (scores,), 1, modes=['rev'])

        def through_codes(s):
            return swapped_prediction(list(scores), [sinkhorn(s[0]), sinkhorn(s[1])])

        assert not jax.jit(jax.grad(through_codes))(scores).any()
        assert not jax.jit(jax.grad(lambda q: swapped_prediction(list(scores), list(q))))(codes).any()


def test_collapse_is_ln_k():
    same = jnp.ones((B, K)) * 0.3
    code = jax.jit(sinkhorn)(same)
    np.testing.assert_allclose(code, 1 / K, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(swapped_prediction)([same, same], [code, code]), np.log(K), rtol=1e-6)


def both(axis_name):
    """Codes, loss and gradient of local scores [V, b, K]."""

    def loss(scores):
        codes = [sinkhorn(s, axis_name=axis_name) for s in scores[:2]]
        return swapped_prediction(list(scores), codes), jnp.stack(codes)

    def local(scores):
        (value, codes), grads = jax.value_and_grad(loss, has_aux=True)(scores)
        return collectives.pmean(value, axis_name), codes, grads / collectives.axis_size(axis_name)

    return local


@pytest.fixture(scope='module')
def on_one_device(scores):
    with jax.enable_x64(True):
        return jax.jit(both(None))(scores)


@pytest.mark.parametrize('n', [1, 2, 4, 8])
@pytest.mark.parametrize('how', ['shard_map', 'pmap', 'vmap'])
def test_same_on_more_devices(scores, on_one_device, n, how):
    with jax.enable_x64(True):
        scores = jnp.asarray(scores)
        if how == 'shard_map':
            rows = P(None, 'data')
            mesh = find_devices(count=n).mesh
            actual = jax.jit(
                jax.shard_map(both('data'), mesh=mesh, in_specs=rows, out_specs=(P(), rows, rows), check_vma=False)
            )(scores)
        else:
            split = jnp.moveaxis(scores.reshape(V, n, -1, K), 1, 0)
            mapped = {
                'pmap': partial(jax.pmap, devices=jax.devices()[:n]),
                'vmap': lambda f, **axes: jax.jit(jax.vmap(f, **axes)),
            }[how]
            loss, *others = mapped(both('data'), axis_name='data')(split)
            actual = (loss[0], *(jnp.moveaxis(x, 0, 1).reshape(-1, B, K) for x in others))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), actual, on_one_device)


@pytest.mark.parametrize('case', goldens.cases('swav', 'sinkhorn'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_sinkhorn_of_the_authors(case: goldens.Case, precision: str):
    f = case.fields
    with jax.enable_x64(precision == 'float64'):
        local = lambda s: sinkhorn(s, epsilon=f['epsilon'], iterations=f['iterations'], axis_name='data')  # noqa: E731
        codes = jax.jit(jax.vmap(local, axis_name='data'))(jnp.asarray(case['scores'], precision))
    goldens.assert_close(codes, case['Q'], case.tolerances[precision])


@pytest.mark.parametrize('size', [0.0, 1e-30, 1e4, 1e30])
def test_extreme_scores_stay_finite(rng, size):
    """Features that are not normalized, which overflow in the official code (facebookresearch/swav, issue 67)."""
    scores = jnp.asarray(rng.normal(size=(2, B, K)) * size, jnp.float32)
    codes = [sinkhorn(s) for s in scores]
    loss, grads = jax.value_and_grad(lambda s: swapped_prediction(list(s), codes))(scores)
    assert jnp.isfinite(jnp.stack(codes)).all() and jnp.isfinite(grads).all() and jnp.isfinite(loss)
    np.testing.assert_allclose(jnp.stack(codes).sum(-1), 1, rtol=1e-5)


def test_half_precision_inputs_give_float32(scores):
    scores = list(jnp.asarray(scores, jnp.bfloat16))
    codes = [jax.jit(sinkhorn)(scores[0])]
    assert codes[0].dtype == jax.jit(swapped_prediction)(scores, codes).dtype == jnp.float32
