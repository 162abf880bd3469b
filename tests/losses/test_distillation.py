"""Distillation against the official notebook's values, and its gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.losses import distillation
from tests import goldens


@pytest.mark.parametrize('case', goldens.cases('simclr_loss', 'distillation'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_authors(case: goldens.Case, precision: str) -> None:
    T, tolerance = case.fields['temperature'], case.tolerances[precision]
    with jax.enable_x64(precision == 'float64'):
        student, teacher = (jnp.asarray(case[name], precision) for name in ('student', 'teacher'))
        loss, grad = jax.jit(jax.value_and_grad(partial(distillation, temperature=T)))(student, teacher)
    goldens.assert_close(loss, case['loss'], tolerance, 'loss')
    goldens.assert_close(float(loss) / case.fields['loss_scale'], case['loss_without_T2'], tolerance, "the paper's")
    goldens.assert_close(grad, case['grad_student'], tolerance, 'gradient')


def test_the_minimum_is_at_the_logits_of_the_teacher(rng: np.random.Generator) -> None:
    teacher = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)
    loss, grad = jax.jit(jax.value_and_grad(partial(distillation, temperature=2.0)))(teacher, teacher)
    p = jax.nn.softmax(teacher / 2)
    np.testing.assert_allclose(loss, -4 * (p * jnp.log(p)).sum(-1).mean(), rtol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)
    assert not jax.jit(jax.grad(partial(distillation, temperature=2.0), argnums=1))(teacher, teacher).any()


@pytest.mark.parametrize('scale', [0.0, 1e4, 1e30])
def test_finite_at_extreme_inputs(rng: np.random.Generator, scale: float) -> None:
    student, teacher = (jnp.asarray(scale * rng.normal(size=(4, 7)), jnp.float32) for _ in range(2))
    loss, grad = jax.value_and_grad(lambda s: distillation(s, teacher, temperature=0.1))(student)
    assert jnp.isfinite(loss) and jnp.isfinite(grad).all()


def test_half_precision_inputs_give_float32() -> None:
    logits = jnp.ones((2, 3), jnp.bfloat16)
    assert jax.jit(partial(distillation, temperature=1.0))(logits, logits).dtype == jnp.float32
