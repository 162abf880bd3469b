"""The moving average against slow loops; gradients, dtypes and BN statistics."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.methods import ema, networks
from tests import train_steps


def trees(rng: np.random.Generator) -> tuple[Any, Any]:
    def tree() -> Any:
        draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
        return {'a': draw(3, 2), 'b': {'c': draw(5), 'd': draw()}}

    return tree(), tree()


@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.99, 0.999, 1.0])
def test_update_is_its_definition(rng: np.random.Generator, momentum: float) -> None:
    target, online = trees(rng)
    moved = ema.update(target, online, momentum)
    assert jax.tree.structure(moved) == jax.tree.structure(target)
    for k, q, new in zip(*map(jax.tree.leaves, (target, online, moved)), strict=True):
        expected = [momentum * float(a) + (1 - momentum) * float(b) for a, b in zip(k.ravel(), q.ravel(), strict=True)]
        np.testing.assert_allclose(np.ravel(new), expected, rtol=1e-5, atol=1e-7)
        assert new.dtype == k.dtype
    if momentum in (0.0, 1.0):
        jax.tree.map(np.testing.assert_array_equal, moved, online if momentum == 0.0 else target)


def test_many_updates_are_the_sum_over_the_past(rng: np.random.Generator) -> None:
    """theta_k after n steps = m^n theta_0 + (1 - m) sum_i m^(n-1-i) theta_i."""
    m, n = 0.9, 20
    online = rng.normal(size=(n, 4))
    target = start = rng.normal(size=4)
    with jax.enable_x64(True):
        for theta in online:
            target = ema.update({'w': jnp.asarray(target)}, {'w': jnp.asarray(theta)}, m)['w']
    expected = m**n * start + (1 - m) * sum(m ** (n - 1 - i) * online[i] for i in range(n))
    np.testing.assert_allclose(target, expected, rtol=1e-12)


def test_a_traced_momentum_and_other_dtypes() -> None:
    target, online = {'w': jnp.full(3, 2.0, jnp.bfloat16)}, {'w': jnp.full(3, 4.0, jnp.float32)}
    moved = jax.jit(ema.update)(target, online, jnp.float32(0.5))
    assert moved['w'].dtype == jnp.bfloat16, 'a state keeps its dtypes'
    np.testing.assert_array_equal(moved['w'].astype(np.float32), 3.0)
    assert ema.update({}, {}, 0.5) == {}


def test_no_gradient_flows_into_the_target() -> None:
    grads = jax.grad(lambda q, k: ema.update({'w': k}, {'w': q}, 0.5)['w'].sum(), argnums=(0, 1))(
        jnp.ones(3), jnp.ones(3)
    )
    for grad in grads:
        np.testing.assert_array_equal(grad, 0)


def test_trees_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError):
        ema.update({'a': jnp.ones(1)}, {'b': jnp.ones(1)}, 0.5)


@pytest.mark.parametrize('start', [0.9, 0.99, 0.996, 1.0, 0.0])
def test_cosine_momentum_is_moco_v3s(start: float) -> None:
    steps = 50
    for step in range(steps + 1):
        # moco-v3/main_moco.py, adjust_moco_momentum
        expected = 1.0 - 0.5 * (1.0 + math.cos(math.pi * step / steps)) * (1.0 - start)
        assert float(ema.cosine_momentum(step / steps, start)) == pytest.approx(expected, abs=1e-6)
    assert float(ema.cosine_momentum(0.0, start)) == pytest.approx(start, abs=1e-6)
    assert float(ema.cosine_momentum(1.0, start)) == 1.0


def test_the_target_keeps_its_own_buffers(rng: np.random.Generator) -> None:
    """In MoCo's loss: parameters are averaged, BN statistics are those of the target's own forward pass."""
    momentum = 0.25
    run, _ = train_steps.build(train_steps.load('mocov2:tiny', **{'encoder.width': 2, 'bn_group_size': 0}))
    method = dataclasses.replace(run.method, momentum=momentum, shuffle_bn=False)
    views = tuple(jnp.asarray(rng.normal(size=(16, 8, 8, 3)), jnp.float32) for _ in range(2))
    batch = {'views': views, 'index': jnp.arange(16), 'label': jnp.zeros(16, jnp.int32)}

    def step() -> Any:
        params, state = method.init(jax.random.key(0), batch)
        # Online and target networks, and their statistics, are told apart.
        state = state.replace(
            target=jax.tree.map(lambda x: 1.5 * x + 0.1, state.target),
            batch_stats={**state.batch_stats, 'target': jax.tree.map(lambda x: x + 1.0, state.batch_stats['target'])},
        )
        _, (new, _) = method.loss(params, state, batch, rng=jax.random.key(1), progress=0.0)
        averaged = jax.tree.map(lambda k, q: momentum * k + (1 - momentum) * q, state.target, params)
        _, own = networks.project(method.network, averaged, state.batch_stats['target'], views[1], None)
        return new, averaged, own

    new, averaged, own = jax.jit(step)()
    assert jax.tree.structure(new.batch_stats['target']) == jax.tree.structure(own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new.target, averaged)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new.batch_stats['target'], own)
    assert train_steps.relative_error(new.batch_stats['online'], jax.device_get(own)) > 0.01
