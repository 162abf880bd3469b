"""metrics.jsonl survives any kill; TensorBoard's own reader sees the same."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto import event_pb2

from contrastive_jax.errors import UserError
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.metrics import MetricWriter
from contrastive_jax.workdir.tensorboard import EVENTS


def write_steps(workdir, steps, resume_step=0):
    writer = MetricWriter(workdir, resume_step)
    for step in steps:
        writer.write(step, {'loss': 1 / step})
    writer.close()


def steps_of(workdir):
    return [line['step'] for line in metrics.read(workdir)]


def test_lines_are_strict_json_and_values_keep_their_shortest_form(tmp_path):
    writer = MetricWriter(tmp_path / 'a b' / 'ü')
    writer.write(3, {'loss': jnp.float32(0.1), 'n': np.int64(2**40), 'x': 0.25, 'bad': float('nan'), 'inf': -jnp.inf})
    line = (writer.workdir / metrics.FILE).read_text()  # before any close: written is written
    assert line == '{"step": 3, "loss": 0.1, "n": 1099511627776, "x": 0.25, "bad": null, "inf": null}\n'
    assert json.loads(line)['step'] == 3
    (read,) = metrics.read(writer.workdir)
    assert math.isnan(read.pop('bad')) and math.isnan(read.pop('inf'))
    assert read == {'step': 3, 'loss': 0.1, 'n': 2**40, 'x': 0.25}
    with pytest.raises(TypeError, match=r'scalar, got shape \(2,\)'):
        writer.write(4, {'loss': np.zeros(2)})
    writer.close()


def test_after_a_kill_at_any_byte_no_step_is_missing_or_double(tmp_path):
    """The checkpoint at step s is saved after the lines up to s: cut the file anywhere behind them and resume."""
    write_steps(tmp_path, range(1, 6))
    path = tmp_path / metrics.FILE
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord('\n')]
    for saved in (0, 2, 4):
        for cut in range(ends[saved - 1] if saved else 0, len(content) + 1):
            path.write_bytes(content[:cut])
            MetricWriter(tmp_path, resume_step=saved).close()
            assert path.read_bytes() == content[: ends[saved - 1] if saved else 0], (saved, cut)
    write_steps(tmp_path, range(5, 8), resume_step=4)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6, 7]


def test_a_whole_last_line_without_newline_is_kept(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / metrics.FILE
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    MetricWriter(tmp_path, resume_step=2)
    assert path.read_bytes() == content


def test_foreign_lines_stay_and_an_untouched_file_is_not_rewritten(tmp_path):
    path = tmp_path / metrics.FILE
    foreign = b'# my note\n{"epoch": 3}\n\xff\xfe\n[1]\n\n'
    path.write_bytes(foreign + b'{"step": 1}\n{"step": 9}\n')
    MetricWriter(tmp_path, resume_step=1)
    assert path.read_bytes() == foreign + b'{"step": 1}\n'
    assert steps_of(tmp_path) == [1]
    inode = path.stat().st_ino
    MetricWriter(tmp_path, resume_step=1).close()
    assert path.stat().st_ino == inode
    assert os.listdir(tmp_path) == [metrics.FILE]  # no event file, no temporary file


def test_tensorboard_sees_each_step_once_after_a_resume(tmp_path):
    write_steps(tmp_path, [1, 2, 3, 4, 5])
    future = next(tmp_path.glob(f'{EVENTS}*'))
    future.rename(tmp_path / f'{EVENTS}4000000000.host.1')  # the clock has gone back since
    write_steps(tmp_path, [4, 6], resume_step=3)
    write_steps(tmp_path, [7], resume_step=6)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars('loss')] == [1, 2, 3, 4, 6, 7]
    np.testing.assert_allclose(
        [e.value for e in events.Scalars('loss')], [1 / s for s in (1, 2, 3, 4, 6, 7)], rtol=1e-6
    )


@pytest.mark.parametrize('first', ['now', 'of an older version'])
def test_the_reader_of_load_fast_false_sees_each_step_once(tmp_path, first):
    """What `tensorboard --load_fast=false` shows: it takes the first session start of a folder for no restart."""
    write_steps(tmp_path, [1, 2, 3])
    if first != 'now':
        (file,) = tmp_path.glob(f'{EVENTS}*')
        records, kept = file.read_bytes(), []
        while records:  # length, checksum, event, checksum
            end = 12 + int.from_bytes(records[:8], 'little') + 4
            if not event_pb2.Event.FromString(records[12 : end - 4]).HasField('session_log'):
                kept.append(records[:end])
            records = records[end:]
        assert len(kept) == 4
        file.write_bytes(b''.join(kept))
    write_steps(tmp_path, [2, 3, 4], resume_step=1)
    write_steps(tmp_path, [4, 5], resume_step=3)
    shown = EventMultiplexer({'run': str(tmp_path)}, purge_orphaned_data=True).Reload().Tensors('run', 'loss')
    assert [event.step for event in shown] == [1, 2, 3, 4, 5]


def test_tensorboard_forgets_purged_steps_before_new_ones_come(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    writer = MetricWriter(tmp_path, resume_step=1)
    writer.write(2, {'other': 1.0})
    assert [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars('loss')] == [1]
    writer.close()


def test_pictures_reach_tensorboard(tmp_path):
    Image.new('RGB', (7, 5), 'red').save(tmp_path / 'p.png')
    writer = MetricWriter(tmp_path)
    writer.write_image(2, 'views', tmp_path / 'p.png')
    writer.close()
    (image,) = EventAccumulator(str(tmp_path)).Reload().Images('views')
    assert (image.step, image.width, image.height) == (2, 7, 5)
    assert image.encoded_image_string == (tmp_path / 'p.png').read_bytes()


def test_values_that_are_no_numbers_are_not_metrics(tmp_path):
    (tmp_path / metrics.FILE).write_text('{"step": 1, "note": "mine", "eval/a": [1], "loss": 2.5, "grad": null}\n')
    (line,) = metrics.read(tmp_path)
    assert line.keys() == {'step', 'loss', 'grad'} and line['loss'] == 2.5 and math.isnan(line['grad'])


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path / 'w', enabled=False)
    writer.write(1, {'loss': 1.0})
    writer.write_image(1, 'views', 'nowhere.png')
    writer.close()
    assert not (tmp_path / 'w').exists()
    assert metrics.read(tmp_path / 'w') == []


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'cannot write metrics to .*file.* ->'):
        MetricWriter(tmp_path / 'file' / 'run')


def test_summarize_is_the_mean_over_the_scanned_steps():
    means = metrics.summarize({'a': jnp.array([1.0, 2.0, 6.0]), 'b': np.array([1.0, np.nan])})
    assert means['a'] == 3 and math.isnan(means['b'])


def test_tensorflow_is_not_loaded_even_where_it_is_installed(tmp_path):
    (tmp_path / 'tensorflow').mkdir()
    (tmp_path / 'tensorflow' / '__init__.py').write_text('raise SystemExit("TensorFlow was imported")')
    code = 'import sys; from contrastive_jax.workdir.metrics import *; MetricWriter(sys.argv[1]).write(1, {"loss": 1})'
    path = os.pathsep.join([str(tmp_path), str(Path(metrics.__file__).parents[2])])
    run = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'run')],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert steps_of(tmp_path / 'run') == [1]
