"""Compiler options for programs that run a few times only."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.distributed import devices


def test_quick_programs_compute_the_same(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)
    f = lambda x: jax.nn.softmax(jnp.tanh(x @ x) + x)  # noqa: E731
    quick = jax.jit(f, compiler_options=devices.quick_options())(x)
    np.testing.assert_allclose(quick, jax.jit(f)(x), rtol=1e-5)


def test_an_option_that_xla_does_not_know_is_left_out() -> None:
    assert devices._accepted(xla_llvm_disable_expensive_passes=True)
    assert not devices._accepted(xla_no_such_option=True)
