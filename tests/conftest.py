"""Eight virtual CPU devices for every test, set before jax is imported; exact float32 matrix products everywhere."""

import importlib.metadata
import os
from collections.abc import Iterator
from typing import Any

# Programs in these tests are small and run a few times, so most of their time is compilation. LLVM does not optimize
# them, and XLA's older emitters make the kernels of fused operations, in a third of the compilation time of the newer
# ones. jaxlib 0.12 has only the newer emitters; XLA ends the process at a flag that it does not know.
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
    '--xla_cpu_use_fusion_emitters=false' * importlib.metadata.version('jaxlib').startswith('0.10.'),
])  # fmt: skip
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
