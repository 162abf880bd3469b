"""The comparison: the command trains the given configs, and its table has the values that the runs logged."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from contrastive_jax import compare
from contrastive_jax.plots import figures
from contrastive_jax.workdir import metrics

CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.mark.usefixtures('one_device')
def test_two_methods(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The table has the values of `metrics.jsonl`; a config that fails is named and does not stop the others."""
    tests = Path(__file__).parent
    configs = [f'{tests}/tiny_configs.py:mocov2', f'{CONFIGS}/mocov2.py:digit', f'{tests}/tiny_configs.py:mocov1']
    given = [f'--config={config}' for config in configs]
    assert compare.main([*given, f'--workdir={tmp_path}/a b', '--config.steps=1']) == 1
    out, err = capfd.readouterr()
    last = [line for line in err.splitlines() if line.startswith('contrastive_jax: error: ')]
    assert "unknown variant 'digit'" in last[0] and last[-1].startswith(f'contrastive_jax: error: {configs[1]} failed')

    table = (tmp_path / 'a b' / compare.TABLE).read_text()
    assert table in out
    for name in ('tiny_configs:mocov2', 'tiny_configs:mocov1'):
        run = tmp_path / 'a b' / name.replace(':', '_')
        assert json.loads((run / 'config.json').read_text())['steps'] == 1
        last_line = {k: v for line in metrics.read(run) for k, v in line.items()}
        (row,) = [line for line in table.splitlines() if f'`{name}`' in line]
        cells = [cell.strip() for cell in row.strip('|').split('|')]
        measured = ('eval/knn_top1', 'baseline/knn_top1', 'eval/probe_top1', 'baseline/probe_top1')
        assert cells[4:8] == [f'{100 * last_line[metric]:.1f}' for metric in measured]
        shown = EventAccumulator(str(run)).Reload()
        for picture, steps in (('augmentation', [0]), ('neighbours', [0, 1])):  # the same pictures in TensorBoard
            images = shown.Images(picture)
            assert [image.step for image in images] == steps
            assert images[-1].encoded_image_string == (run / f'{picture}.png').read_bytes()
    with Image.open(tmp_path / 'a b' / compare.PICTURE) as image:
        assert image.format == 'PNG'


def test_rows_are_sorted_by_accuracy_and_unmeasured_ones_are_last() -> None:
    nan = math.nan
    rows = [
        compare.Row(name, 'moco', 'resnet_tiny', 100.0, knn, 0.5, knn, 0.6, rate)
        for name, knn, rate in (('a', 0.7, 1234.5), ('b', nan, nan), ('c', 0.9, 10.0))
    ]
    lines = compare.table(rows).splitlines()
    assert [line.split('`')[1] for line in lines[2:]] == ['c', 'a', 'b']
    assert lines[3] == '| `a` | moco | resnet_tiny | 100 | 70.0 | 50.0 | 70.0 | 60.0 | 1,234 |'
    assert lines[4] == '| `b` | moco | resnet_tiny | 100 | - | 50.0 | - | 60.0 | - |'


def test_accuracies_are_compared_on_the_same_images_and_named_by_the_start(tmp_path: Path) -> None:
    """The value on the images of the baselines counts; a run with `init` started from given weights."""
    rows = []
    for name, init in (('a', ''), ('b', 'runs/x')):
        run = tmp_path / name
        run.mkdir()
        fields = {'method': {'name': 'moco'}, 'encoder': {'name': 'resnet50'}, 'epochs': 2.0, 'steps': 0, 'init': init}
        (run / 'config.json').write_text(json.dumps(fields))
        writer = metrics.MetricWriter(run)
        writer.write(0, {'eval/knn_top1': 0.5, 'baseline/knn_top1': 0.5, 'baseline/probe_top1': 0.6})
        writer.write(9, {'eval/knn_top1': 0.9, 'eval/knn_few_top1': 0.8, 'eval/probe_top1': 0.95})
        writer.close()
        rows.append(compare.read_row(name, run))
    assert [(row.knn, row.knn_before, row.probe, row.probe_before) for row in rows] == 2 * [(0.8, 0.5, 0.95, 0.6)]
    assert '| kNN | untrained | linear probe | untrained |' in compare.table(rows[:1])
    assert '| kNN | given weights | linear probe | given weights |' in compare.table(rows[1:])
    both = compare.table(rows)
    assert '| untrained or given weights |' in both and '| `b` (given weights) |' in both and '| `a` |' in both


def test_without_config_every_method_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # from anywhere
    files = {file.stem for file in CONFIGS.glob('[!_]*.py')} - {'variants', 'dictionary'}
    assert {Path(config.split(':')[0]).stem for config in compare.every_method()} == files
    assert all(config.endswith(':digits') for config in compare.every_method())


@pytest.mark.parametrize('arguments', [(), ('--workdir=x', 'epochs=3'), ('--workdir=x', '--epochs=3')])
def test_a_wrong_argument_is_an_error(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        compare.main(arguments)
    assert stop.value.code == 2 and 'error: ' in capsys.readouterr().err


def test_picture(tmp_path: Path) -> None:
    """A point moves to the right with a higher accuracy; without rows the picture is empty."""
    blue = []
    for knn in (0.6, 0.9):
        figures.comparison([('a', knn, 0.3), ('b', 0.95, 0.5), ('c', math.nan, 0.5)], tmp_path / 'x.png')
        with Image.open(tmp_path / 'x.png') as image:
            pixels = np.asarray(image.convert('RGB')).astype(int)
        near = np.abs(pixels - [0x34, 0x65, 0xA4]).max(-1) < 10
        blue.append(sorted(np.nonzero(near)[1])[0])  # the leftmost
    assert blue[1] > blue[0]
    figures.comparison([], tmp_path / 'empty.png')


def test_an_evaluation_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(['--config=mocov2:tiny', '--config=eval/knn:digits', f'--workdir={tmp_path}/runs']) == 2
    assert '--config=eval/knn:digits is an evaluation -> give configs of pretrainings' in capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()


def test_a_field_that_is_wrong_everywhere_starts_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One that a single method lacks stops that one alone."""
    given = [f'--config={name}:digits' for name in ('byol', 'mocov2')] + [f'--workdir={tmp_path}/runs']
    assert compare.main([*given, '--config.batch_sise=8']) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert 'batch_sise' in line and 'batch_size' in line and out == '' and not (tmp_path / 'runs').exists()
    assert compare.main([*given, '--config.batch_size=-8', '--config.method.temperature=0.1']) == 2
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert [
        line.split(': ')[2].startswith(f'--config={name}') for line, name in zip(lines, ('byol', 'mocov2'), strict=True)
    ]
    assert 'temperature' in lines[0] and 'batch_size -8 is out of range' in lines[1] and out == ''
    assert not (tmp_path / 'runs').exists()
    compare.refuse_fields_of_none(['byol:digits', 'mocov2:digits'], ['--config.method.temperature=0.1'])


def test_files_of_the_same_name_are_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its own workdir and its own row."""
    assert compare.names(['a/x.py:digits', 'b/x.py:digits', 'a/y.py']) == {
        'a/x.py:digits': 'a/x:digits', 'b/x.py:digits': 'b/x:digits', 'a/y.py': 'a/y',
    }  # fmt: skip
    assert compare.names(['a/x.py:digits', 'b/y.py:digits']) == {
        'a/x.py:digits': 'x:digits',
        'b/y.py:digits': 'y:digits',
    }
    assert list(compare.names(['a/x.py:one,two', 'b/x.py:one_two']).values()) == ['a/x:one,two', 'b/x:one_two']
    for given, line in (
        (['byol:tiny', 'mocov2:tiny', 'mocov2:tiny'], '--config=mocov2:tiny is given twice -> give each config once'),
        (
            ['byol:tiny', 'mocov2:tiny', 'mocov2.py:tiny'],
            '--config=mocov2:tiny and --config=mocov2.py:tiny would share a workdir -> leave one of them out',
        ),
        (['byol:tiny', ''], '--config= names no file -> give a recipe, or the path of a file'),
        (['byol:tiny', ':tiny'], '--config=:tiny names no file'),
    ):
        assert compare.main([*(f'--config={config}' for config in given), f'--workdir={tmp_path}/runs']) == 2
        assert line in capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()
