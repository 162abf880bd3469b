"""The benchmark in its tiniest form: that it runs, counts right, and leaves out what it says. No time is tested."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import count, gpu, measure, peers, programs, scaling, sides, step
from contrastive_jax.methods import ema
from contrastive_jax.models import network
from contrastive_jax.plan import flops
from contrastive_jax.training.step import init_state

GPU = Path(__file__).parents[1] / 'benchmarks' / 'gpu.sh'


@pytest.mark.parametrize(
    ('name', 'fields', 'size', 'forward', 'both'),
    [('resnet18', {'stem': 'cifar'}, 32, 1.111, 3.329), ('resnet50', {}, 224, 8.174, 24.287)],
)
def test_flops_are_those_of_pytorchs_counter(
    name: str, fields: dict[str, Any], size: int, forward: float, both: float
) -> None:
    section: dict[str, Any] = {'name': name, **fields}
    encoder = network.build_encoder(section, dtype=jnp.dtype('float32'))
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables: Any = jax.eval_shape(partial(encoder.init, train=True), jax.random.key(0), x)

    def total(params: Any) -> jax.Array:
        h, _ = encoder.apply({**variables, 'params': params}, jnp.zeros(x.shape), train=True, mutable=['batch_stats'])
        return jnp.sum(h)

    variables = jax.tree.map(lambda v: jnp.zeros(v.shape), variables)
    gflop = [flops.count(jax.make_jaxpr(f)(variables['params'])) / 2e9 for f in (total, jax.grad(total))]
    assert gflop == pytest.approx([forward, both], rel=3e-4)


def test_flops_of_control_flow() -> None:
    x = jnp.ones((4, 4))  # x @ x: 128

    def scanned(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=3)[0]

    def branches(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops.count(jax.make_jaxpr(scanned)(x)) == 3 * 128
    assert flops.count(jax.make_jaxpr(branches)(x)) == 2 * 128
    assert flops.count(jax.make_jaxpr(branches)(x), of_branches=min) == 128
    loop = jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ c, x))(x)
    with pytest.raises(NotImplementedError, match='while loop'):
        flops.count(loop)


@pytest.mark.parametrize('title', ['MoCo v2', 'MoCo v3'])
def test_parts_are_left_out(title: str) -> None:
    preset = step.PRESETS['tiny']
    run = programs.without_augmentation(step.build(preset.methods[title], preset, 16, 'float32'))
    state = jax.eval_shape(partial(init_state, run))
    batch = programs.crops(run, 10, np.random.default_rng(0))

    def traced(replaced: programs.Replaced = ()) -> tuple[int, str, set[str]]:
        program = programs.Program(programs.step(run), state, batch, replaced)
        with program.tracing():
            jaxpr, shapes = jax.make_jaxpr(partial(program.step, axis_name=None), return_shape=True)(state, batch)
        return flops.count(jaxpr), str(jaxpr), set(shapes[1])

    original = ema.update
    parts = {name: traced(replaced) for name, replaced in programs.left_out(run.method).items()}
    assert ema.update is original
    flop, code, names = traced()

    # Logits and their gradient for the queries: 2 B K D each; MoCo v3 has K = B, and both directions.
    B, D = 16, run.method.network.projector.output_dim
    K = getattr(run.method, 'queue_size', 2 * B)
    assert flop - parts[programs.name_of_dictionary(run.method)][0] == 4 * B * K * D
    # m target + (1 - m) online
    assert code.count(' = mul ') - parts['EMA'][1].count(' = mul ') == 2 * len(jax.tree.leaves(state.method.target))
    assert flop == parts['EMA'][0]
    # The norm of the gradient is a sum for each parameter.
    assert code.count(' = reduce_sum') - parts['metrics'][1].count(' = reduce_sum') > len(jax.tree.leaves(state.params))
    assert names - parts['metrics'][2] >= {'contrastive_top1', 'alignment'}


@pytest.mark.parametrize(
    ('path', 'gflop'), [('simclr:cifar10', 6.66), ('byol:cifar10', 8.96), ('simsiam:cifar10', 6.66)]
)
def test_a_step_does_the_operations_of_its_passes_and_no_others(path: str, gflop: float) -> None:
    """Against PyTorch's counts of the same methods, whose heads differ in width."""
    assert count.count(path) == pytest.approx((gflop, 3.33), rel=0.02)


@pytest.fixture
def quickly_compiled() -> Iterator[None]:
    """Programs that run slower and compile twice as fast."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


@pytest.mark.usefixtures('quickly_compiled')
def test_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = step.PRESETS['tiny']
    fewer = dataclasses.replace(tiny, methods={'MoCo v2': tiny.methods['MoCo v2']})  # compiling is all that takes time
    monkeypatch.setitem(step.PRESETS, 'tiny', fewer)
    out = tmp_path / 'out.json'
    step.main(['--preset', 'tiny', '--windows', '2', '--json', str(out)])

    found = json.loads(out.read_text())['methods']['MoCo v2']
    assert set(found['shares']) == {'augmentation', 'augmentation alone', 'queue', 'EMA', 'metrics'}
    assert 1.3 < found['counted_ratio'] < 1.45  # 4/3, and the head and the queue of a very small network
    assert len(found['rows']) == 4
    for row in found['rows'].values():
        assert row['seconds']['low'] <= row['seconds']['median'] <= row['seconds']['high']
        assert row['images_per_second'] == pytest.approx(16 / row['seconds']['median'])
        assert row['peak_memory']['bytes'] > 0 and row['peak_memory']['source'] == 'compiler'
    assert found['ratio']['median'] > 0 and found['over_passes']['median'] > 0
    assert 'train / supervised step' in capsys.readouterr().out


def test_a_window_of_many_steps_is_one_loop_with_the_same_result() -> None:
    """What accelerators run, and a CPU only here."""

    def step(state: jax.Array, batch: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state * 0.5 + batch, {'sum': jnp.sum(state)}

    state, batch, sums = jnp.ones(3), jnp.arange(3.0), jnp.zeros(())
    for _ in range(4):
        state, scalars = step(state, batch)
        sums += scalars['sum']
    got, got_scalars = jax.jit(measure._repeat(step, 4))(jnp.ones(3), batch)
    np.testing.assert_allclose(got, state, rtol=1e-6)
    np.testing.assert_allclose(got_scalars['sum'], sums, rtol=1e-6)


def test_bad_sizes_are_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, least in (('--batch_size=0', 2), ('--windows=0', 1)):
        with pytest.raises(SystemExit) as stop:
            step.main(['--preset', 'tiny', argument])
        assert stop.value.code == 2
        assert f'it must be at least {least}' in capsys.readouterr().err


# ================================ gpu.sh ================================

FAKE_PYTHON = """#!/bin/bash
# python -m benchmarks.gpu PART ... --json FILE, or --table FILE
case $3 in
    --table) cat "$4" ;;
    peak) sleep 60 ;;
    epoch) exit 3 ;;
    *) echo "{\\"part\\": \\"$3\\", \\"given\\": \\"$4\\"}" >>"${@: -1}" ;;
esac
"""


def test_a_part_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    fake = tmp_path / 'python'
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    timeout = tmp_path / 'timeout'  # half a second instead of ten minutes
    timeout.write_text('#!/bin/bash\nshift 2\nexec /usr/bin/timeout 0.5 "$@"\n')
    timeout.chmod(0o755)
    environment = {**os.environ, 'PYTHON': str(fake), 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    command = [str(GPU), '--small', '--out', str(tmp_path / 'out')]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not done.stderr
    lines = [json.loads(line) for line in (tmp_path / 'out' / 'results.jsonl').read_text().splitlines()]
    assert [line['part'] for line in lines] == list(gpu.PARTS)
    by_part = {line['part']: line for line in lines}
    assert by_part['peak']['failed'] == 'stopped after 10 min'
    assert by_part['epoch']['failed'] == 'exit code 3, see epoch.log'
    assert by_part['vit'] == {'part': 'vit', 'given': '--small'}
    assert (tmp_path / 'out' / 'table.txt').read_text() == (tmp_path / 'out' / 'results.jsonl').read_text()
    for wrong in (['--minutes', '0'], ['--out'], ['--fast']):
        done = subprocess.run([str(GPU), *wrong], env=environment, capture_output=True, text=True)
        assert (
            done.returncode == 2 and done.stderr.count('\n') == 1 and ' -> benchmarks/gpu.sh [--small]' in done.stderr
        )


def test_shellcheck_is_clean() -> None:
    shellcheck = Path(sys.executable).with_name('shellcheck')
    if not shellcheck.exists():
        pytest.skip('shellcheck is not installed')
    done = subprocess.run([shellcheck, '-x', GPU], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_part_writes_a_line_and_the_table_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'results.jsonl'
    gpu.main(['peak', '--json', str(file)])
    with file.open('a') as lines:
        lines.write('{"part": "vit", "failed": "stopped after 10 min"}\n')
    found = json.loads(file.read_text().splitlines()[0])
    assert found['small'] and found['part'] == 'peak' and found['jax'] == jax.__version__ and found['device']
    assert all(0 < row['low'] <= row['median'] <= row['high'] for row in found['rows'])
    capsys.readouterr()
    gpu.main(['--table', str(file)])
    out = capsys.readouterr().out
    assert 'peak (small)' in out and 'vit' in out and 'failed: stopped after 10 min' in out


# ================================ peers.py ================================


def test_rows_are_measured_side_by_side_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def make(setting: sides.Setting) -> sides.Makers:
        assert setting.folder.is_dir() and setting.photos == tmp_path

        def missing() -> sides.Side:
            raise ModuleNotFoundError(name='faster')

        def side(name: str, items: int) -> sides.Side:
            return sides.Side(lambda: order.append(name), items, lambda: f'{name} was called')

        return {'ours': lambda: side('ours', 1), 'theirs': lambda: side('theirs', 2), 'faster': missing}

    clock = iter(range(100))  # a second between two readings
    monkeypatch.setattr(sides, 'cpu_seconds', lambda: float(next(clock)))
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0})
    monkeypatch.setattr(peers, 'ROWS', {'work': sides.Row('some work', 'an image', {'theirs': 0.6}, make)})
    file = tmp_path / 'found.jsonl'
    arguments = ['work', '--windows=3', f'--photos={tmp_path}', f'--json={file}']
    peers.main(arguments)
    shown = capsys.readouterr()
    assert order == ['ours', 'theirs'] * 4  # once each before the first window
    assert 'faster is left out: faster is not installed' in shown.err
    row = '| some work, an image | 3 | 1e+03 [1e+03, 1e+03] | theirs | 500 [500, 500] | 0.50 [0.50, 0.50] | 0.6 | no |'
    assert row in shown.out and 'some work, theirs: theirs was called' in shown.out
    found = json.loads(file.read_text())
    assert (
        found['ms'] == {'ours': [1000.0] * 3, 'theirs': [500.0] * 3} and f'jax {jax.__version__}' in found['versions']
    )
    peers.main([f'--table={file}'])
    assert row in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'cores', 'line'),
    [
        (['knnn'], 1, "no row 'knnn' -> choose from mocov2, "),
        (['--windows=0'], 1, '--windows 0 -> it must be at least 1'),
        (['knn'], 2, '2 cores, and threads that wait for one another use CPU time -> begin with `taskset -c 0`'),
        (['jpeg'], 1, 'jpeg: no photos are given -> --photos=FOLDER'),
    ],
)
def test_mistakes_in_the_arguments_of_peers(
    arguments: list[str], cores: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)))
    with pytest.raises(SystemExit) as stop:
        peers.main(arguments)
    assert stop.value.code == 2 and line in capsys.readouterr().err


def test_scaling_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        Image.new('RGB', (40, 30), (i, 0, 0)).save(tmp_path / f'{i}.jpg')
    first = min(os.sched_getaffinity(0))
    monkeypatch.setenv('PYTHONPATH', str(Path(scaling.__file__).parents[1]))
    (rates,) = scaling.measure(str(tmp_path), 2, 1, [first]).values()
    assert len(rates) == 2 and min(rates) > 0

    sides = scaling.sides_of([4, 7])
    assert {name: [(r.cores, r.workers, r.index, r.count) for r in side] for name, side in sides.items()} == {
        'one core, threads': [((4,), 0, 0, 1)],
        '2 cores, threads': [((4, 7), 0, 0, 1)],
        '2 cores, 2 workers': [((4, 7), 2, 0, 1)],
        '2 processes, each with one core': [((4,), 0, 0, 2), ((7,), 0, 1, 2)],
    }
