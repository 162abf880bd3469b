"""Eight virtual CPU devices for every test, set before jax is imported; exact float32 matrix products everywhere."""

import os
from collections.abc import Iterator
from typing import Any

# The programs here are small and run once, so most of their time is compilation: ask for no optimisation by LLVM.
os.environ['XLA_FLAGS'] = ' '.join(
    [os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0']
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np
import pytest

jax.config.update('jax_default_matmul_precision', 'highest')


@pytest.fixture(autouse=True, scope='module')
def _drop_programs() -> Iterator[None]:
    """Frees what a file has compiled: no other file needs it, and all together fill gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    """Fails if XLA compiles anything: a mistake must not cost that."""
    compiled = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if 'backend_compile' in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
