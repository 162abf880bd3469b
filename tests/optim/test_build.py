"""The optimizer that is built from a config: schedules, and parameters with an optimizer of their own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.base import base_config
from contrastive_jax.config.fields import OPTIMIZERS
from contrastive_jax.methods import ema
from contrastive_jax.optim import optimizers, schedules
from contrastive_jax.optim.build import base_rate, build_optimizer
from tests import goldens
from tests.optim.test_optimizers import adamw, sgd

STEPS, PER_EPOCH = 6, 2


def config_of(**fields: Any) -> ConfigDict:
    config = base_config('moco')
    config.update_from_flattened_dict(fields)
    return config


def trajectory(config: ConfigDict, params: dict[str, Any], grads: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters after all steps; `grads` has one for every step."""
    with jax.enable_x64(True):
        params, grads = jax.tree.map(jnp.asarray, (params, grads))
        optimizer, _ = build_optimizer(config, PER_EPOCH, STEPS)
        state = optimizer.init(params)
        step = jax.jit(optimizer.update)
        for t in range(STEPS):
            moves, state = step(jax.tree.map(lambda g: g[t], grads), state, params)  # noqa: B023
            params = optax.apply_updates(params, moves)
        return jax.device_get(params)


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    shapes = {'encoder': (4, 3), 'bias': (3,), 'head': (3, 2)}
    params = {name: {'w': rng.normal(size=shape)} for name, shape in shapes.items()}
    return params, {name: {'w': rng.normal(size=(STEPS, *shape))} for name, shape in shapes.items()}


def cosine(first: float, last: float) -> list[float]:
    return [last + 0.5 * (first - last) * (1 + np.cos(np.pi * t / STEPS)) for t in range(STEPS)]


@pytest.mark.parametrize('duration', [{'freeze_epochs': 1.5}, {'freeze_steps': 3, 'freeze_epochs': 9.0}])
def test_dino(problem: Any, duration: dict[str, float]) -> None:
    """AdamW with increasing weight decay, except of biases; the last layer is frozen at first."""
    params, grads = problem
    config = config_of(
        **{
            'batch_size': 512, 'optimizer.name': 'adamw', 'optimizer.learning_rate': 0.05,
            'optimizer.learning_rate_batch': 256, 'optimizer.weight_decay': 0.04, 'optimizer.final_weight_decay': 0.4,
            'optimizer.mask': 'matrices', 'optimizer.freeze_first': ('head',),
            'schedule.name': 'linspace_warmup_cosine', 'schedule.final': 0.01,
            **{f'optimizer.{name}': value for name, value in duration.items()},
        }
    )  # fmt: skip
    after = trajectory(config, params, grads)
    rates, decays = cosine(0.1, 0.01), cosine(0.04, 0.4)
    for name, decay, start in (('encoder', decays, 0), ('bias', [0.0] * STEPS, 0), ('head', decays, 3)):
        w, g = params[name]['w'], grads[name]['w'][start:]
        expected = adamw(w, g, rates[start:], decay[start:])
        np.testing.assert_allclose(after[name]['w'], expected, rtol=1e-5, err_msg=name)


def test_simsiam(problem: Any) -> None:
    """SGD, a cosine per epoch, and a predictor that keeps its learning rate."""
    params, grads = problem
    config = config_of(
        **{'optimizer.learning_rate': 0.05, 'optimizer.weight_decay': 0.01, 'optimizer.constant': ('head',)}
    )
    after = trajectory(config, params, grads)
    rates = [cosine(0.05, 0.0)[t // PER_EPOCH * PER_EPOCH] for t in range(STEPS)]
    for name, given in (('encoder', rates), ('bias', rates), ('head', [0.05] * STEPS)):
        expected = sgd(params[name]['w'], grads[name]['w'], given, 0.9, 0.01)
        np.testing.assert_allclose(after[name]['w'], expected, rtol=1e-5, err_msg=name)


def test_a_learning_rate_for_a_module(problem: Any) -> None:
    """The head's rate is five times the others', on the same schedule."""
    params, grads = problem
    fields = {'optimizer.learning_rate': 0.05, 'optimizer.weight_decay': 0.01}
    after = trajectory(config_of(**fields, **{'optimizer.rate_factors': (('head', 5.0),)}), params, grads)
    rates = [cosine(0.05, 0.0)[t // PER_EPOCH * PER_EPOCH] for t in range(STEPS)]
    for name, factor in (('encoder', 1.0), ('bias', 1.0), ('head', 5.0)):
        expected = sgd(params[name]['w'], grads[name]['w'], [factor * rate for rate in rates], 0.9, 0.01)
        np.testing.assert_allclose(after[name]['w'], expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('name', ['sgd', 'lars_simclr'])
def test_a_learning_rate_for_biases(problem: Any, name: str) -> None:
    """As for a training with that rate and no weight decay; weights do not change by it."""
    params, grads = problem
    fields = {'optimizer.name': name, 'optimizer.weight_decay': 0.0, 'optimizer.freeze': ('head',)}
    rates = [
        trajectory(config_of(**fields, **{'optimizer.learning_rate': rate}), params, grads) for rate in (0.05, 0.01)
    ]
    both = {**fields, 'optimizer.learning_rate': 0.05, 'optimizer.bias_rate_factor': 0.2}
    after = trajectory(config_of(**both), params, grads)
    np.testing.assert_allclose(after['encoder']['w'], rates[0]['encoder']['w'], rtol=1e-12)
    np.testing.assert_allclose(after['bias']['w'], rates[1]['bias']['w'], rtol=1e-12)
    np.testing.assert_array_equal(after['head']['w'], params['head']['w'])


def test_swav(problem: Any) -> None:
    """LARC; the prototypes are frozen at first, and so are their momentum and weight decay."""
    params, grads = problem
    fields = {'optimizer.name': 'larc', 'optimizer.learning_rate': 4.0, 'schedule.name': 'constant'}
    late = config_of(**fields, **{'optimizer.freeze_first': ('head',), 'optimizer.freeze_steps': 2})
    after = trajectory(late, params, grads)
    plain = trajectory(config_of(**fields), params, grads)
    np.testing.assert_array_equal(after['encoder']['w'], plain['encoder']['w'])
    frozen_first = {'head': {'w': np.concatenate([grads['head']['w'][2:], grads['head']['w'][:2]])}}
    optimizer = optimizers.larc(lambda _: 4.0, momentum=0.9, weight_decay=1e-4)
    with jax.enable_x64(True):
        w = {'head': {'w': jnp.asarray(params['head']['w'])}}
        state = optimizer.init(w)
        for t in range(STEPS - 2):
            moves, state = optimizer.update(jax.tree.map(lambda g: jnp.asarray(g[t]), frozen_first), state, w)  # noqa: B023
            w = optax.apply_updates(w, moves)
    np.testing.assert_allclose(after['head']['w'], w['head']['w'], rtol=1e-12)


def test_gradients_are_clipped_first(problem: Any) -> None:
    params, grads = problem
    fields = {'schedule.name': 'constant', 'optimizer.weight_decay': 0.0}
    long = jax.tree.map(
        lambda g: g / np.linalg.norm(g.reshape(STEPS, -1), axis=1).reshape(-1, *[1] * (g.ndim - 1)), grads
    )
    clipped = trajectory(config_of(**fields, **{'optimizer.clip_norm': 1e-3}), params, long)
    small = trajectory(config_of(**fields), params, jax.tree.map(lambda g: 1e-3 * g, long))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), clipped, small)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_moves_and_freezes(problem: Any, name: str) -> None:
    params, grads = problem
    config = config_of(**{'optimizer.name': name, 'optimizer.freeze': ('bias',), 'optimizer.weight_decay': 0.1})
    after = trajectory(config, params, grads)
    np.testing.assert_array_equal(after['bias']['w'], params['bias']['w'])
    assert np.any(after['encoder']['w'] != params['encoder']['w'])


# ================================ learning rates at a batch size ================================


@pytest.mark.parametrize('case', goldens.cases('schedule', 'byol', 'simclr'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_scaled_schedules_of_byol_and_simclr(case: goldens.Case, precision: str) -> None:
    f, tolerance = case.fields, case.tolerances[precision]
    config = config_of(
        **{
            'batch_size': f['batch_size'],
            'optimizer.learning_rate': f['learning_rate'],
            'optimizer.learning_rate_scaling': f['scaling'],
            'optimizer.learning_rate_batch': f['reference_batch_size'] or 0,
        }
    )
    with jax.enable_x64(precision == 'float64'):
        steps, rate = case.key(f['step_key']), base_rate(config)
        schedule = schedules.warmup_cosine(rate, f['warmup_steps'], f['total_steps'], f['final_value'])
        actual = jax.vmap(schedule)(jnp.asarray(steps))
        goldens.assert_close(actual, case.key(f['learning_rate_key']), tolerance, 'learning rate')
        if 'tau_key' in f:
            progress = jnp.minimum(jnp.asarray(steps) / f['total_steps'], 1.0)  # the reference goes on beyond the end
            momentum = ema.cosine_momentum(progress, f['momentum'])
            goldens.assert_close(momentum, case.key(f['tau_key']), tolerance, 'momentum')


@pytest.mark.parametrize('case', goldens.cases('schedule', 'ema_update'))
def test_moving_average(case: goldens.Case) -> None:
    f = case.fields
    with jax.enable_x64(True):
        moved = ema.update(case.key(f['target_key']), case.key(f['online_key']), f['momentum'])
    goldens.assert_close(moved, case.key(f['new_target_key']), case.tolerances['float64'])
