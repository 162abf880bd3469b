"""BYOL's regression and SimSiam's negative cosine: the equations, the authors' values, the same on more devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import negative_cosine, normalized_regression
from tests import goldens

LOSSES = (normalized_regression, negative_cosine)


@pytest.fixture
def arrays(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(8, 5)), rng.normal(size=(8, 5))


def test_equations(arrays):
    p, z = arrays
    cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(p, z, strict=True)]
    with jax.enable_x64(True):
        expected = np.mean([2 - 2 * cos for cos in cosines])
        np.testing.assert_allclose(jax.jit(normalized_regression)(p, z), expected, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(negative_cosine)(p, z), -np.mean(cosines), rtol=1e-12)


@pytest.mark.parametrize('loss', LOSSES)
def test_gradients(loss, arrays):
    p, z = arrays
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda p: loss(p, z)), (p,), 1, modes=['rev'])
        assert not jax.jit(jax.grad(loss, argnums=1))(p, z).any(), 'the target is stopped'


@functools.cache
def gradient_of(loss):
    """The loss and its gradient with respect to p, compiled once for inputs of one shape."""
    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize('n', [1, 2, 4, 8])
@pytest.mark.parametrize('loss', LOSSES)
def test_same_on_more_devices(loss, arrays, n: int):
    def local(p, z):
        value, gradient = jax.value_and_grad(loss)(p, z)
        return collectives.pmean(value, 'data'), gradient / n

    with jax.enable_x64(True):
        mesh = find_devices(count=n).mesh
        run = jax.shard_map(local, mesh=mesh, in_specs=P('data'), out_specs=(P(), P('data')), check_vma=False)
        value, gradient = jax.jit(run)(*map(jnp.asarray, arrays))
        expected, expected_gradient = gradient_of(loss)(*map(jnp.asarray, arrays))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize('case', goldens.cases('byol_loss', 'loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_byol_of_the_authors(case: goldens.Case, precision: str):
    scale, tolerance = case.fields['loss_scale'], case.tolerances[precision]
    if not case.fields['symmetric']:
        pytest.skip('the loss of BYOL is that of both orders')
    with jax.enable_x64(precision == 'float64'):
        p1, p2, z1, z2 = (jnp.asarray(case[name], precision) for name in ('pred1', 'pred2', 'proj1', 'proj2'))
        both = lambda p1, p2: scale * (normalized_regression(p1, z2) + normalized_regression(p2, z1))  # noqa: E731
        loss, grads = jax.jit(jax.value_and_grad(both, argnums=(0, 1)))(p1, p2)
        one_example = jax.jit(jax.vmap(lambda p, z: normalized_regression(p[None], z[None])))
        goldens.assert_close(one_example(p1, z2), case['per_example_12'], tolerance, 'each example, p1 and z2')
        goldens.assert_close(one_example(p2, z1), case['per_example_21'], tolerance, 'each example, p2 and z1')
    goldens.assert_close(loss, case['loss'], tolerance, 'loss')
    goldens.assert_close(grads[0], case['grad_pred1'], tolerance, 'gradient of p1')
    goldens.assert_close(grads[1], case['grad_pred2'], tolerance, 'gradient of p2')


@pytest.mark.parametrize('case', goldens.cases('simsiam', 'loss'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_simsiam_of_the_authors(case: goldens.Case, precision: str):
    scale, tolerance = case.fields['loss_scale'], case.tolerances[precision]
    with jax.enable_x64(precision == 'float64'):
        p1, p2, z1, z2 = (jnp.asarray(case[name], precision) for name in ('p1', 'p2', 'z1', 'z2'))
        both = lambda p1, p2: scale * (negative_cosine(p1, z2) + negative_cosine(p2, z1))  # noqa: E731
        loss, grads = jax.jit(jax.value_and_grad(both, argnums=(0, 1)))(p1, p2)
    goldens.assert_close(loss, case.key(case.fields['loss_key']), tolerance, 'loss')
    goldens.assert_close(grads[0], case['grad_p1'], tolerance, 'gradient of p1')
    goldens.assert_close(grads[1], case['grad_p2'], tolerance, 'gradient of p2')


def test_the_floors_are_the_authors():
    """1e-6 on the norm in TF (1e-12 on its square), 1e-8 in torch's CosineSimilarity; shorter vectors stay shorter."""
    tiny = lambda norm: jnp.array([[norm, 0.0]])  # noqa: E731
    unit = tiny(1.0)
    for norm in (1e-3, 1e-6):
        np.testing.assert_allclose(normalized_regression(tiny(norm), unit), 0.0, atol=1e-6)
    np.testing.assert_allclose(normalized_regression(tiny(5e-7), unit), 0.25, rtol=1e-5)
    np.testing.assert_allclose(negative_cosine(tiny(1e-8), unit), -1.0, rtol=1e-5)
    np.testing.assert_allclose(negative_cosine(tiny(5e-9), unit), -0.5, rtol=1e-5)


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('scale', [0.0, 1e-15, 1e15])
def test_finite_at_extremes(loss, scale: float, arrays):
    value, gradient = gradient_of(loss)(*(jnp.asarray(x, jnp.float32) * scale for x in arrays))
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize('loss', LOSSES)
def test_half_precision_inputs_give_float32(loss, arrays):
    assert jax.jit(loss)(*(jnp.asarray(x, jnp.bfloat16) for x in arrays)).dtype == jnp.float32
