"""The command: a plan on virtual devices, what it counts, and mistakes in one line."""

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.plan import __main__ as command
from contrastive_jax.plan import flops, planning, programs, traffic
from contrastive_jax.plan.chips import CHIPS, GIB, GPUS, Chip, gpu_target
from contrastive_jax.plan.estimate import Bounds
from contrastive_jax.plan.page import page
from tests import train_steps


@pytest.fixture
def usual_effort() -> Iterator[None]:
    """XLA's effort is that of the other tests again afterwards."""
    names = ('jax_exec_time_optimization_effort', 'jax_memory_fitting_effort')
    before = [getattr(jax.config, name) for name in names]
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


@pytest.mark.usefixtures('usual_effort')
def test_the_command_on_virtual_devices(capsys: pytest.CaptureFixture[str]) -> None:
    given = ['--config=tests/tiny_configs.py:simclr', '--topology=cpu:8', '--config.batch_size=64', '--quick']
    given += ['--effort=least']
    assert command.main(given) == 0
    assert jax.config.jax_exec_time_optimization_effort == jax.config.jax_memory_fitting_effort == -1
    out = capsys.readouterr().out
    for name in ('devices', 'run', 'parameters', 'work', 'memory a device', 'memory traffic', 'collectives', 'time'):
        assert f'\n{name}' in out
    assert '8 x virtual CPU device' in out and '1,437 images stay on the devices' in out
    assert 'batch 64 (8 a device)' in out
    assert out.endswith('memory and its traffic are estimates, often too low (docs/devices.md)\n')


@pytest.mark.parametrize(
    'message',
    [
        'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 40.03G of 31.25G hbm.',
        'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (40.03G) exceeds '
        'available HBM (31.25G).',
    ],
)
def test_what_the_compiler_needs(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(programs, '_compile', fail)
    run, _ = train_steps.build(train_steps.load_small('simsiam:tiny'))
    with pytest.raises(programs.TooLarge, match=r'no place for the step: it needs 40.03G of 31.25G$'):
        programs.compile_step(run, find_devices('jit', 1))


@pytest.mark.parametrize(
    'message', ["INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot", 'INTERNAL: other']
)
def test_a_product_without_tiles_is_compiled_without_triton(message: str) -> None:
    """What XLA for NVIDIA says of a ViT; the tests have no such compiler."""

    class Lowered:
        def compile(self, options: dict[str, Any] | None) -> dict[str, Any]:
            if (options or {}).get('xla_gpu_enable_triton_gemm', True):
                raise jax.errors.JaxRuntimeError(message)
            return options or {}

    if 'tile sizes' in message:
        assert programs._compile(Lowered(), {'x': 1}) == {'x': 1, 'xla_gpu_enable_triton_gemm': False}
    else:
        with pytest.raises(jax.errors.JaxRuntimeError, match='other'):
            programs._compile(Lowered(), None)


# A chip of 1,000 bytes, and a compiler whose programs need 200 and 10 for each image of a chunk on a device.
SMALL = Chip('small', 'small chip', 'cpu', memory=1000, bandwidth=1e3, bfloat16=2e3, float32=1e3, interconnect=100)
SUM = traffic.Collective('all-reduce', 50, 2, 2, 'f32[25]', '')


def compiler(setting: planning.Setting) -> programs.Compiled:
    c = setting.config
    images = c.batch_size / setting.devices.count / c.chunks
    peak = int(200 + 10 * images * (0.8 if c.dtype == 'bfloat16' else 1) * (0.9 if c.encoder.remat else 1))
    if peak > 10_000:
        raise programs.TooLarge('the compiler finds no place for the step: it needs 11K of 10K')
    memory = programs.Memory(100, peak - 100, peak)
    return programs.Compiled(7, 4000.0 * c.batch_size, memory, traffic.Memory(600, 500, 300), (SUM,), -1.0, 0.1)


def plan_of(**fields: Any) -> planning.Plan:
    config = train_steps.load_small('simclr:tiny', bn_group_size=16, **fields)
    return planning.make(planning.prepare(config, SMALL, find_devices(count=2), 4000), compiler=compiler)


def test_what_fits(nothing_compiled: None) -> None:
    plan = plan_of(batch_size=64)
    assert plan.fits and plan.alternatives == ()
    images = 2 * (planning.RESERVED * 1000 - 200) / 10  # the line through two batches is exact here
    assert plan.largest == int(images) // 32 * 32, 'each device has whole BN groups'
    assert plan.bounds == Bounds(4000 * 64 / 2 / 1e3, 600 / 1e3, 2 * (2 * 50 / 2) / 100)
    assert plan.bounds.together == 128 and plan.bounds.in_turn == 128 + 0.6 + 1
    text = page(plan)
    assert 'fits' in text and f'about {plan.largest:,}' in text and '16.7 % padding' in text and '50 % of' in text
    assert 'which means nothing' in text and '2 all-reduce' in text


def test_the_largest_batch_is_not_above_the_number_of_images(nothing_compiled: None, monkeypatch: Any) -> None:
    tried = []
    changed = planning.Setting.changed
    monkeypatch.setattr(planning.Setting, 'changed', lambda self, **fields: tried.append(0) or changed(self, **fields))
    config = train_steps.load_small('simclr:tiny', bn_group_size=16, batch_size=64)
    chip = dataclasses.replace(SMALL, memory=10**6)
    assert planning.make(planning.prepare(config, chip, find_devices(count=2), 500), compiler=compiler).largest == 480
    assert len(tried) == 2  # half of the batch for the line, and the answer: none of the 3,000 that are too large


def test_what_does_not_fit_is_told_with_what_does(nothing_compiled: None) -> None:
    plan = plan_of(batch_size=256)
    assert not plan.fits and plan.largest == plan_of(batch_size=64).largest
    flags = ['--config.dtype=bfloat16', '--config.encoder.remat=True', '--config.chunks=2']
    assert [x.flags for x in plan.alternatives] == [' '.join(flags[:n]) for n in (1, 2, 3)]
    assert [x.fits for x in plan.alternatives] == [False, False, True]
    assert page(plan).count('does not fit') == 3


def test_what_the_compiler_refuses(nothing_compiled: None) -> None:
    """Memory is looked at with smaller batches then."""
    plan = plan_of(batch_size=2048)
    assert plan.compiled is None and not plan.fits and plan.bounds is None
    assert plan.largest == plan_of(batch_size=64).largest
    assert 'it needs 11K of 10K' in page(plan)


def test_the_work_of_all_devices_is_counted() -> None:
    """It does not depend on their number."""
    run, _ = train_steps.build(train_steps.load_small('mocov3_vit:tiny'))
    work = set()
    for count in (1, 4):
        call, arguments = programs.program(run, find_devices(count=count))
        traced = call.trace(*arguments)
        work.add(flops.count(traced.jaxpr, of_branches=min, loops_once=True) * count)
    assert len(work) == 1


@pytest.mark.parametrize(
    ('topology', 'line'),
    [
        ('v7:2x2', 'unknown chip -> choose from v4, v5e'),
        ('v5e', 'does not say the chips along each axis -> e.g. v5e:4x4'),
        ('h100:2x2', 'does not say the number of devices'),
        ('cpu:0', 'does not say the number of devices'),
        ('h100:00', 'does not say the number of devices'),
        ('cpu:9', 'jax has 8 CPU devices in this process, not 9 -> use cpu:8'),
    ],
)
def test_mistakes(topology: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_devices().count == 8  # now jax has found its devices, and their number can no longer change
    assert command.main(['--config=mocov2:tiny', f'--topology={topology}']) == 2
    assert line in capsys.readouterr().err


def test_other_mistakes(capsys: pytest.CaptureFixture[str], nothing_compiled: None) -> None:
    for arguments, code, line in (
        (['--config=mocov2:tiny', '--batch_size=3'], 2, 'unexpected --batch_size=3'),
        (['--config=eval/knn'], 2, 'is an evaluation'),
        (['--config=mocov2:tiny', '--config.seeds=0,1'], 2, 'seeds give several runs -> plan one of them'),
        (['--config=mocov2:tiny', '--images=-1'], 2, 'out of range'),
        (['--config=mocov2:folder', '--config.data.path=/none/such'], 3, '--images=N'),
        (['--config=mocov2', '--images=1000', '--topology=cpu:8', '--config.batch_size=12'], 2, 'batch_size 12'),
    ):
        assert command.main(arguments) == code
        err = capsys.readouterr().err
        assert line in err and 'Traceback' not in err


def test_the_extras_are_named_where_they_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for topology, module in (('v5e:2x2', 'libtpu'), ('h100:8', 'jax_cuda13_plugin')):
        if importlib.util.find_spec(module) is None:
            assert command.main(['--config=mocov2:tiny', f'--topology={topology}']) == 2
            assert "pip install 'contrastive_jax[plan]'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='it is in the extra [plan]')
def test_a_chip_of_each_tpu_is_a_device() -> None:
    """In another process: libtpu stays loaded."""
    sizes = {'v4:2x2x1': 4, 'v5e:2x4': 8, 'v5p:2x2x1': 4, 'v6e:2x2': 4}
    code = 'import sys; from contrastive_jax.plan.topologies import described; '
    code += 'print(*(described(x)[1].count for x in sys.argv[1:]))'
    child = subprocess.run([sys.executable, '-c', code, *sizes], capture_output=True, text=True, check=True)
    assert child.stdout.split() == [str(count) for count in sizes.values()]


def test_facts_about_chips() -> None:
    for chip in CHIPS.values():
        if chip.platform != 'cpu':
            assert chip.memory > 10 * GIB and chip.bandwidth < chip.bfloat16 and chip.source
            assert chip.peak('bfloat16') >= chip.peak('float32')
    assert set(GPUS) == {name for name, chip in CHIPS.items() if chip.platform == 'cuda'}
    assert 'major: 9' in gpu_target(CHIPS['h100']) and f'device_memory_size: {80 * 10**9}\n' in gpu_target(
        CHIPS['h100']
    )
