"""CPC against the papers' equations in slow loops, and the same on more devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import AXIS, find_devices
from contrastive_jax.losses.cpc import CANDIDATES, DIRECTIONS, cpc_grid, cpc_sequence, cpc_terms, rotate_to_direction
from tests import goldens

B, R, C, D, K = 8, 4, 3, 5, 2


@pytest.fixture(scope='module')
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(B, R, C, 6)), rng.normal(size=(B, R, C, D)), rng.normal(size=(K, 6, D))


@pytest.mark.parametrize('case', goldens.cases('cpc', 'grid'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_grid_against_brute_force(case: goldens.Case, precision: str):
    f, skip = case.fields, case.fields['skip']
    if not f['direction'].startswith('rows: c[b,i,j] predicts z[b,i+k,j]'):
        pytest.skip('the loss predicts downwards; other directions rotate the grid first')
    inputs = [case.key(f['inputs'][name]) for name in ('c', 'z', 'W')]

    def loss(c, z, W):
        offsets = range(skip + 1, f['num_offsets'] + 1)
        each = cpc_grid(c, z, W[skip:], offsets=offsets, candidates=f['candidates'], scale=f['scale'])
        return jnp.sum(each), each

    with jax.enable_x64(precision == 'float64'):
        inputs = [jnp.asarray(x, precision) for x in inputs]
        (total, each), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*inputs)
    tolerance = case.tolerances[precision]
    goldens.assert_close(each, case['loss_per_offset'][skip:], tolerance, 'offsets')
    goldens.assert_close(total, case['loss_sum'], tolerance, 'sum')
    for gradient, name in zip(grads, ('c', 'z', 'W'), strict=True):
        goldens.assert_close(gradient, case[f'grad_{name}'], tolerance, name)


@pytest.mark.parametrize('case', goldens.cases('cpc', 'sequence'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_sequence_against_brute_force(case: goldens.Case, precision: str):
    def loss(c, z, W):
        each = cpc_sequence(c, z, W, jnp.asarray(case['neg_index']), scale=case.fields['scale'])
        return jnp.mean(each), each

    with jax.enable_x64(precision == 'float64'):
        inputs = [jnp.asarray(x, precision) for x in (case['c'], case['z'], case.key(case.fields['inputs']['W']))]
        (mean, each), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*inputs)
    tolerance = case.tolerances[precision]
    goldens.assert_close(each, case['loss_per_step'], tolerance, 'offsets')
    goldens.assert_close(mean, case['loss'], tolerance, 'mean')
    for gradient, name in zip(grads, ('c', 'z', 'W'), strict=True):
        goldens.assert_close(gradient, case[f'grad_{name}'], tolerance, name)


# ================================ more devices ================================


def local_losses(axis_name):
    """A function of local arrays: all losses, summed, and their gradients."""

    def loss(c, z, W, negatives):
        grids = [
            cpc_grid(c, z, W[:1], offsets=(2,), candidates=candidates, scale=0.5, axis_name=axis_name)
            for candidates in CANDIDATES
        ]
        rows = (x.reshape(x.shape[0], R * C, -1) for x in (c, z))
        return sum(map(jnp.sum, grids)) + jnp.sum(cpc_sequence(*rows, W, negatives, axis_name=axis_name))

    def local(c, z, W, negatives):
        value, (gc, gz, gW) = jax.value_and_grad(loss, argnums=(0, 1, 2))(c, z, W, negatives)
        # The gradient of the mean over devices with respect to local rows: that of the sum, over the device count.
        n = collectives.axis_size(axis_name)
        return *collectives.pmean((value, gW), axis_name), gc / n, gz / n

    return local


def jitted_vmap(f, **axes):
    return jax.jit(jax.vmap(f, **axes))


@pytest.fixture(scope='module')
def negatives() -> np.ndarray:
    return np.random.default_rng(1).integers(0, B * R * C, (K, B, R * C, 7))


@pytest.fixture(scope='module')
def on_one_device(arrays, negatives):
    with jax.enable_x64(True):
        return jax.jit(local_losses(None))(*arrays, negatives)


@pytest.mark.parametrize(
    ('how', 'n'), [('shard_map', 1), ('shard_map', 2), ('shard_map', 4), ('shard_map', 8), ('pmap', 4), ('vmap', 2)]
)
def test_same_on_more_devices(arrays, negatives, on_one_device, how: str, n: int):
    with jax.enable_x64(True):
        c, z, W, negatives = map(jnp.asarray, (*arrays, negatives))
        local = local_losses(AXIS)
        if how == 'shard_map':
            specs = (P('data'), P('data'), P(), P(None, 'data'))
            mapped = jax.shard_map(
                local,
                mesh=find_devices(count=n).mesh,
                in_specs=specs,
                out_specs=(P(), P(), P('data'), P('data')),
                check_vma=False,
            )
            results = jax.jit(mapped)(c, z, W, negatives)
        else:
            split = lambda x: x.reshape(n, B // n, *x.shape[1:])  # noqa: E731
            mapped = {'pmap': partial(jax.pmap, devices=jax.devices()[:n]), 'vmap': jitted_vmap}[how]
            shards = jnp.moveaxis(negatives.reshape(K, n, B // n, R * C, 7), 1, 0)
            value, gW, gc, gz = mapped(local, axis_name='data', in_axes=(0, 0, None, 0))(split(c), split(z), W, shards)
            results = value[0], gW[0], gc.reshape(c.shape), gz.reshape(z.shape)
        for result, one in zip(results, on_one_device, strict=True):
            np.testing.assert_allclose(result, one, rtol=1e-9, atol=1e-12)


# ================================ directions, metrics, limits ================================


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_directions(direction: str):
    """Numbers on a grid: one step down in the rotated grid is one step in that direction in the original grid."""
    grid = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    step = {'down': 3, 'up': -3, 'right': 1, 'left': -1}[direction]
    assert np.all(np.diff(rotate_to_direction(jnp.asarray(grid), direction), axis=1) == step)


def test_correct_is_whether_the_predicted_latent_has_the_largest_logit(arrays):
    c, z, W = map(jnp.asarray, arrays)
    (output,) = jax.jit(partial(cpc_terms, offsets=(1,)))(c, z, W[:1])
    p = np.einsum('bijc,cd->bijd', c[:, :-1], W[0])
    best = np.argmax(np.einsum('bijd,nd->bijn', p, z.reshape(-1, D)), axis=-1)
    label = np.arange(B * R * C).reshape(B, R, C)[:, 1:]
    np.testing.assert_array_equal(output.correct, best == label)


@pytest.mark.parametrize('candidates', CANDIDATES)
def test_extreme_inputs_are_finite(arrays, candidates: str):
    @jax.jit
    def run(c, z, W):
        loss = partial(cpc_grid, offsets=(1,), candidates=candidates)
        return jax.value_and_grad(lambda *x: jnp.sum(loss(*x)), (0, 1, 2))(c, z, W)

    for size in (0.0, 1e-30, 1e4):
        c, z, W = (jnp.asarray(size * x, jnp.float32) for x in arrays)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(run(c, z, W[:1])))


def test_half_precision_inputs_give_float32(arrays):
    c, z, W = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    assert jax.jit(partial(cpc_grid, offsets=(1, 2)))(c, z, W).dtype == jnp.float32


def test_errors(arrays):
    with pytest.raises(ValueError, match=r'offsets \(4, 5\) do not fit a grid of 4 rows -> use numbers from 1 to 3'):
        cpc_grid(*arrays, offsets=(4, 5))
    with pytest.raises(ValueError, match="candidates 'all' is unknown -> choose from global, batch, image"):
        cpc_grid(*arrays, offsets=(1, 2), candidates='all')
    with pytest.raises(ValueError, match="direction 'north' is unknown -> choose from down, up"):
        rotate_to_direction(arrays[0], 'north')
