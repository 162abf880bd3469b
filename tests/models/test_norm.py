"""BatchNorm against the equations in slow loops, and the same numbers on 1, 2, 4 and 8 devices."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.models import BatchNorm
from contrastive_jax.models.norm import split_groups

B, H, C = 16, 2, 3
DEVICES = (1, 2, 4, 8)
MOMENTUM, EPSILON = 0.8, 1e-3


def inputs() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, B, H, H, C)) * [1.0, 2.0, 0.5] + [0.0, 1.0, -3.0]
    variables = {
        'params': {'scale': rng.normal(size=C), 'bias': rng.normal(size=C)},
        'batch_stats': {'mean': rng.normal(size=C), 'var': rng.uniform(0.5, 2, size=C)},
    }
    return x, cotangent, variables


def slow_batch_norm(x: np.ndarray, variables: dict[str, Any], group_size: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Two-pass statistics, a group and a channel at a time; torch's unbiased running variance."""
    y = np.zeros_like(x)
    means, variances = [], []
    for start in range(0, len(x), group_size):
        group = x[start : start + group_size]
        n = group[..., 0].size
        for c in range(C):
            values = group[..., c]
            mean = sum(values.flat) / n
            var = sum((v - mean) ** 2 for v in values.flat) / n
            normal = (values - mean) / np.sqrt(var + EPSILON)
            y[start : start + group_size, ..., c] = normal * variables['params']['scale'][c]
            y[start : start + group_size, ..., c] += variables['params']['bias'][c]
            means.append(mean)
            variances.append(var * n / (n - 1))
    old = variables['batch_stats']
    groups = len(x) // group_size
    return y, {
        'mean': MOMENTUM * old['mean'] + (1 - MOMENTUM) * np.reshape(means, (groups, C)).mean(0),
        'var': MOMENTUM * old['var'] + (1 - MOMENTUM) * np.reshape(variances, (groups, C)).mean(0),
    }


def slow_gradient(x: np.ndarray, cotangent: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    """d sum(y * cotangent) / dx by the textbook formula, a group and a channel at a time."""
    gradient = np.zeros_like(x)
    for start in range(0, len(x), group_size):
        rows = slice(start, start + group_size)
        for c in range(C):
            values, g = x[rows, ..., c], cotangent[rows, ..., c] * scale[c]
            std = np.sqrt(values.var() + EPSILON)
            normal = (values - values.mean()) / std
            gradient[rows, ..., c] = (g - g.mean() - normal * (g * normal).mean()) / std
    return gradient


@functools.cache
def train_step(group_size: int | None, devices: int, pmap: bool = False) -> tuple[Any, ...]:
    """y, running statistics, and gradients of a local mean, pmean'd, on that many devices."""
    x, cotangent, variables = inputs()
    axis_name = 'data' if devices > 1 else None
    model = BatchNorm(group_size=group_size, momentum=MOMENTUM, epsilon=EPSILON, dtype=jnp.float64)

    def step(variables: Any, x: jax.Array, cotangent: jax.Array) -> tuple[Any, ...]:
        def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            variables_ = {**variables, 'params': params}
            y, updated = model.apply(variables_, x, train=True, axis_name=axis_name, mutable=['batch_stats'])
            return (y * cotangent).sum((1, 2, 3)).mean(), (y, updated['batch_stats'])

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (grads, grad_x), (y, stats) = gradient(variables['params'], x)
        if axis_name:
            grads = jax.lax.pmean(grads, axis_name)
        return y, stats, grads, grad_x

    if pmap:
        local = [a.reshape(devices, -1, *a.shape[1:]) for a in (x, cotangent)]
        run = jax.pmap(step, axis_name, in_axes=(None, 0, 0), devices=jax.devices()[:devices])
        y, stats, grads, grad_x = jax.tree.map(np.asarray, run(variables, *local))
        for leaf in jax.tree.leaves((stats, grads)):
            np.testing.assert_array_equal(leaf, leaf[:1].repeat(devices, 0))
        first = functools.partial(jax.tree.map, lambda a: a[0])
        return y.reshape(x.shape), first(stats), first(grads), grad_x.reshape(x.shape) / devices
    if devices == 1:
        return jax.tree.map(np.asarray, jax.jit(step)(variables, x, cotangent))
    mesh = jax.make_mesh(
        (devices,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
    )
    sharded = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P('data'), P('data')),
        out_specs=(P('data'), P('data'), P(), P('data')),  # statistics as stored on each device
        check_vma=False,
    )
    y, stats, grads, grad_x = jax.tree.map(np.asarray, jax.jit(sharded)(variables, x, cotangent))
    for leaf in jax.tree.leaves(stats):
        np.testing.assert_array_equal(leaf.reshape(devices, C), np.tile(leaf[:C], (devices, 1)))
    stats = jax.tree.map(lambda a: a[:C], stats)
    return y, stats, grads, grad_x / devices  # the mean over devices divides by their number


@pytest.mark.parametrize('group_size', [None, 1, 2, 4, 8, 16, 64])
def test_equals_the_equations(group_size: int | None) -> None:
    with jax.enable_x64(True):
        x, cotangent, variables = inputs()
        y, stats, grads, grad_x = train_step(group_size, 1)
    group = min(group_size or B, B)
    expected, expected_stats = slow_batch_norm(x, variables, group)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(stats['mean'], expected_stats['mean'], rtol=1e-12)
    np.testing.assert_allclose(stats['var'], expected_stats['var'], rtol=1e-12)
    np.testing.assert_allclose(grads['bias'], cotangent.sum((0, 1, 2)) / B, rtol=1e-12)
    normal = (expected - variables['params']['bias']) / variables['params']['scale']
    np.testing.assert_allclose(grads['scale'], (normal * cotangent).sum((0, 1, 2)) / B, rtol=1e-10, atol=1e-12)
    expected_grad = slow_gradient(x, cotangent / B, variables['params']['scale'], group)
    np.testing.assert_allclose(grad_x, expected_grad, atol=1e-12)


# With 16 examples: smaller than, equal to and larger than the local batch, and everything.
@pytest.mark.parametrize('devices', DEVICES[1:])
@pytest.mark.parametrize('group_size', [None, 1, 2, 4, 8, 64])
def test_does_not_depend_on_the_devices(group_size: int | None, devices: int) -> None:
    with jax.enable_x64(True):
        one, many = train_step(group_size, 1), train_step(group_size, devices)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), many, one)


@pytest.mark.parametrize('group_size', [None, 2, 8])
def test_pmap_too(group_size: int | None) -> None:
    with jax.enable_x64(True):
        one, many = train_step(group_size, 1), train_step(group_size, 4, pmap=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), many, one)


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('group_size', [None, 2, 4])
def test_views_are_normalized_one_after_the_other(group_size: int | None, devices: int) -> None:
    """Rows of a device: its part of the first view, then of the second. Statistics move twice."""
    with jax.enable_x64(True):
        x, _, variables = inputs()
        views = x.reshape(2, B // 2, H, H, C)
        expected, stats = [], variables['batch_stats']
        for view in views:
            y, stats = slow_batch_norm(view, {**variables, 'batch_stats': stats}, group_size or B // 2)
            expected.append(y)
        options = {'momentum': MOMENTUM, 'epsilon': EPSILON, 'dtype': jnp.float64}
        model = BatchNorm(group_size=group_size, views=2, **options)

        def step(views: jax.Array) -> tuple[jax.Array, Any]:
            rows = views.reshape(-1, H, H, C)
            y, new = model.apply(variables, rows, train=True, axis_name='data', mutable=['batch_stats'])
            return y.reshape(views.shape), new['batch_stats']

        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((devices,), ('data',), axis_types=auto, devices=jax.devices()[:devices])
        sharded = jax.shard_map(
            step, mesh=mesh, in_specs=P(None, 'data'), out_specs=(P(None, 'data'), P()), check_vma=False
        )
        found, found_stats = jax.jit(sharded)(jnp.asarray(views))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for name, value in stats.items():
        np.testing.assert_allclose(found_stats[name], value, rtol=1e-12)


def test_eval_uses_running_statistics() -> None:
    x, _, variables = inputs()
    with jax.enable_x64(True):
        y = BatchNorm(group_size=5, epsilon=EPSILON, dtype=jnp.float64).apply(variables, x, train=False)
    params, stats = variables['params'], variables['batch_stats']
    expected = (x - stats['mean']) / np.sqrt(stats['var'] + EPSILON) * params['scale'] + params['bias']
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_bfloat16_keeps_statistics_and_parameters_in_float32() -> None:
    x, _, _ = inputs()
    model = BatchNorm(dtype=jnp.bfloat16)
    x = jnp.asarray(x, jnp.bfloat16)
    variables = model.init(jax.random.key(0), x, train=True)
    y, updated = model.apply(variables, x, train=True, mutable=['batch_stats'])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype('float32')}
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(updated['batch_stats']['mean'], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_init_is_one_group_and_leaves_statistics_alone() -> None:
    for examples in (1, 2, 3):
        variables = BatchNorm(group_size=2).init(jax.random.key(0), jnp.ones((examples, C)), train=True)
        np.testing.assert_array_equal(variables['batch_stats']['mean'], np.zeros(C))
        np.testing.assert_array_equal(variables['batch_stats']['var'], np.ones(C))


@pytest.mark.parametrize('group_size', [None, 4])
def test_a_biased_running_variance(group_size: int | None) -> None:
    """Keras and Haiku keep the variance of n, torch that of n - 1; what the batch is normalized with is the same."""
    x, _, variables = inputs()
    with jax.enable_x64(True):
        model = BatchNorm(group_size=group_size, momentum=0.0, epsilon=EPSILON, dtype=jnp.float64)
        runs = [model.clone(unbiased=u).apply(variables, x, train=True, mutable=['batch_stats']) for u in (True, False)]
    (y, unbiased), (same, biased) = jax.tree.map(np.asarray, runs)
    n = (group_size or B) * H * H
    np.testing.assert_array_equal(y, same)
    np.testing.assert_allclose(biased['batch_stats']['var'] * n / (n - 1), unbiased['batch_stats']['var'], rtol=1e-12)
    if group_size is None:
        np.testing.assert_allclose(biased['batch_stats']['var'], x.var((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_is_finite() -> None:
    x = jnp.full((4, C), 1000.1)
    model = BatchNorm(use_scale=False, use_bias=False)
    variables = model.init(jax.random.key(0), x, train=True)
    assert 'params' not in variables

    def total(x: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=True, mutable=['batch_stats'])[0].sum()

    assert np.isfinite(jax.grad(total)(x)).all()
    assert np.isfinite(total(x))


@pytest.mark.parametrize(
    ('group_size', 'local_batch', 'devices', 'expected'),
    [
        (None, 8, 4, (1, 4)),
        (32, 8, 4, (1, 4)),
        (33, 8, 4, (1, 4)),
        (16, 8, 4, (1, 2)),
        (8, 8, 4, (1, 1)),
        (4, 8, 4, (2, 1)),
        (1, 8, 1, (8, 1)),
    ],
)
def test_split_groups(group_size: int | None, local_batch: int, devices: int, expected: tuple[int, int]) -> None:
    assert split_groups(group_size, local_batch, devices) == expected


@pytest.mark.parametrize(
    ('group_size', 'local_batch', 'devices'), [(3, 8, 1), (12, 8, 4), (24, 8, 4), (0, 8, 1), (-4, 8, 1)]
)
def test_groups_that_do_not_fit(group_size: int, local_batch: int, devices: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f'group_size {group_size}')) as error:
        split_groups(group_size, local_batch, devices)
    assert '\n' not in str(error.value)
