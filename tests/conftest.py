"""Eight virtual CPU devices for every test, set before jax is imported; exact float32 matrix products everywhere."""

import collections
import gc
import importlib.metadata
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

# Programs in these tests are small and run a few times, so most of their time is compilation. LLVM does not optimize
# them, and XLA's older emitters make the kernels of fused operations, in a third of the compilation time of the newer
# ones. jaxlib 0.12 has only the newer emitters; XLA ends the process at a flag that it does not know. Compiled in one
# piece instead of many in parallel, and without the expensive passes, a program takes a quarter less CPU time.
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
    '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
    ' --xla_llvm_disable_expensive_passes=true' * importlib.metadata.version('jaxlib').startswith('0.10.'),
])  # fmt: skip
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'  # each operation would carry the lines that it comes from

# All workers, and the processes that tests start, share what they have compiled: many files need the same programs.
if 'PYTEST_XDIST_WORKER' not in os.environ:
    _folder = tempfile.TemporaryDirectory(prefix='compiled')  # until this process, which started the workers, ends
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _folder.name
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import jax
import numpy as np
import pytest

jax.config.update('jax_default_matmul_precision', 'highest')

# Tracing makes many objects that live long: Python looks through them for unreachable cycles seldom.
gc.freeze()
gc.set_threshold(50_000, 20, 100)


def pytest_xdist_auto_num_workers() -> int:
    """One more worker than cores: some tests wait for processes or clocks."""
    from contrastive_jax.distributed.cores import usable_cores

    return usable_cores() + 1


# Files of few tests that take minutes: they begin first, so that no worker is left with one of them at the end.
LONG = (
    'test_notebook.py', 'test_processes.py', 'test_resume.py', 'test_group.py', 'test_compare.py', 'test_reproduce.py',
    'test_finetune.py', 'test_chunks.py', 'test_benchmarks.py', 'test_benchmarks_of_faults.py', 'test_staleness.py',
    'test_lost_processes.py', 'test_watchdog.py', 'test_tpu_watch.py',
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first, then those with the most tests."""
    count = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG, -count[item.path], str(item.path)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case of bytes after its argument: compressed bytes hold the time, and all workers need the same names."""
    return argname if isinstance(val, bytes) else None


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


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run on one device, here and in child processes: its programs compile in two thirds of the time."""
    from contrastive_jax import features
    from contrastive_jax.distributed.devices import find_devices
    from contrastive_jax.protocols import run as protocols
    from contrastive_jax.report import page
    from contrastive_jax.training import fit

    for module in (features, protocols, page, fit):
        monkeypatch.setattr(module, 'find_devices', lambda mode='jit': find_devices(mode, 1))
    count = '--xla_force_host_platform_device_count='
    jax.devices()  # this process keeps its eight
    monkeypatch.setenv('XLA_FLAGS', os.environ['XLA_FLAGS'].replace(f'{count}8', f'{count}1'))


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes put in here do not outlive the test."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for child in running:
        child.kill()
        child.wait()
