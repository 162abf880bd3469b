"""Two and four processes that find each other over the loopback interface train what one process trains."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax.data.open import open_source
from contrastive_jax.workdir.described import FOLDER
from tests import complete_runs, train_steps, untrained_workdirs
from tests.complete_runs import ended, fit, lines, saved, tiny_config
from tests.protocols.test_linear import evaluate
from tests.protocols.test_run import load as protocol

DEVICES = 4  # of all processes together
CADENCES = {'log_every_steps': 1, 'eval_every_steps': 0, 'eval.evaluators': ('knn', 'probe', 'signals')}


@pytest.fixture
def pair(children) -> Callable[..., list[subprocess.Popen[str]]]:
    """Starts the command in two processes, or one for each of `differing`; they do not outlive the test."""

    def start(workdir: Path, differing: tuple[dict[str, object], ...] = ({}, {}), **changes):
        fields = ({**CADENCES, **changes, **other} for other in differing)
        children.extend(complete_runs.start_together('mocov2', workdir, *fields))
        return children[-len(differing) :]

    return start


def assert_same_training(config: ConfigDict, workdir: Path, whole: Path, step: int) -> None:
    reached, state = saved(config, workdir)
    assert reached == step
    assert train_steps.relative_error(state, saved(config, whole)[1]) < 1e-5
    for line, expected in zip(lines(workdir), lines(whole), strict=True):
        assert line.keys() == expected.keys() and line['step'] == expected['step']
        assert line.get('loss', 0.0) == pytest.approx(expected.get('loss', 0.0), rel=1e-5)


def test_two_processes(pair, tmp_path):
    """Under pmap, then under jit: both end well, one of them writes, and one process does the same.

    In between, the newest checkpoint is damaged where only one of them reads: both go back to the one before.
    """
    for mode, steps in (('pmap', 3), ('jit', 6)):
        # The queue is large enough for files of its own, one for each process.
        changes = {'parallel': mode, 'steps': steps, 'checkpoint_every_steps': 2, 'method.queue_size': 2048}
        if mode == 'pmap':  # with the pictures, once
            changes['eval.evaluators'] = (*CADENCES['eval.evaluators'], 'pictures')
        config = tiny_config('mocov2', **{**CADENCES, **changes})
        fit(config, tmp_path / 'whole', DEVICES)
        (code0, out0, err0), (code1, out1, err1) = (ended(child) for child in pair(tmp_path / 'two', **changes))
        assert (code0, code1) == (0, 0), err0 + err1
        assert f'on 4 x cpu ({mode})' in out0 and f'step {steps}/{steps}' in out0
        assert out1 == '' and 'contrastive_jax' not in err1, 'one process speaks for both'
        assert err1 == '' or 'Event loop is closed' in err1, 'see below'
        assert_same_training(config, tmp_path / 'two', tmp_path / 'whole', steps)
        if mode == 'pmap':
            assert err0 == err1 == ''
            for workdir, process in ((tmp_path / 'two', 1), (tmp_path / 'whole', 0)):
                values = (workdir / FOLDER / '3' / 'default' / f'ocdbt.process_{process}' / 'd').iterdir()
                os.truncate(max(values, key=lambda file: file.stat().st_size), 1000)
    # In both, threads of TensorStore may print tracebacks: their event loop is closed once a read has failed.
    assert sum('the checkpoint of step 3 cannot be used' in line for line in err0.splitlines()) == 1
    assert 'going on at step 2' in out0
    assert len(list((tmp_path / 'two').glob('events.*'))) == 2, 'one for each start'


def test_two_processes_judge_as_one(children, tmp_path):
    """A linear probe of two settings on photos in a folder, one of which cannot be read."""
    untrained_workdirs.save(tiny_config('mocov2'), tmp_path / 'run')
    digits = open_source('digits')
    for i in range(40):
        file = tmp_path / 'photos' / ('train' if i < 32 else 'test') / str(digits.labels[i] % 2) / f'{i:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.array[i]).save(file)
    file.write_bytes(b'no image')
    fields = {'init': str(tmp_path / 'run'), 'data.source': 'folder', 'data.path': str(tmp_path / 'photos')}
    fields |= {'batch_size': 8, 'epochs': 0.5, 'optimizer.learning_rates': (0.1,)}
    one = evaluate(protocol('linear:tiny', **fields), tmp_path / 'one', DEVICES)

    given = [f'--config.{field}={value}' for field, value in fields.items()]
    where = [f'--coordinator_address={complete_runs.free_address()}', '--num_processes=2']
    for i in range(2):
        args = (*given, *where, f'--process_id={i}')
        children.append(complete_runs.start('tiny', tmp_path / 'two', *args, file='configs/eval/linear.py'))
    (code0, out0, err0), (code1, out1, err1) = map(ended, children)
    assert (code0, code1, out1) == (0, 0, ''), err0 + err1
    assert 'on 4 x cpu (jit)' in out0 and 'cannot read image' in err0 + err1
    two = json.loads((tmp_path / 'two' / 'eval' / 'linear.json').read_text())
    assert {name: two[name] for name in one} == pytest.approx(one, abs=1.5 / 7)  # one image may be on the edge


def test_a_signal_to_one_of_four(pair, tmp_path):
    """All save the same step; one process alone goes on from there, with the same examples."""
    changes = {'data.on_device': False, 'steps': 20, 'checkpoint_every_steps': 20}
    config = tiny_config('mocov2', **{**CADENCES, **changes})
    fit(config, tmp_path / 'whole', DEVICES)

    workdir = tmp_path / 'four'
    # A checkpoint each step is slow: the signal comes long before the end.
    four = pair(workdir, differing=({},) * 4, **{**changes, 'checkpoint_every_steps': 1})
    complete_runs.wait_for_step(workdir, 2, *four)
    four[3].send_signal(signal.SIGTERM)
    codes, outs, errs = zip(*map(ended, four), strict=True)
    assert codes == (42,) * 4, errs
    assert errs == ('',) * 4
    step = outs[3].split('SIGTERM at step ')[1].split()[0]
    tail = f'at step {step} of 20, saved; the same command goes on from there'
    assert outs[3] == f'contrastive_jax: SIGTERM {tail}\n'
    assert [out.splitlines()[-1] for out in outs[:3]] == [f'contrastive_jax: a signal to another host {tail}'] * 3
    assert max(int(p.name) for p in (workdir / FOLDER).iterdir()) == int(step)

    assert isinstance(fit(config, workdir, DEVICES), dict)
    assert_same_training(config, workdir, tmp_path / 'whole', 20)


def test_hosts_with_other_data(pair, tmp_path):
    """Three images fewer on one: each would shuffle its own, and with lengths in epochs one would wait for ever."""
    paths = [complete_runs.write_npz(tmp_path / f'{n}.npz', n) for n in (64, 61)]
    two = pair(tmp_path / 'two', tuple({'data.path': str(path)} for path in paths), **{'data.source': 'npz'})
    for code, _, err in map(ended, two):
        assert code == 3
        assert 'the processes differ in the number of training images: 64 on process 0, 61 on process 1' in err
    assert not (tmp_path / 'two').exists()


def test_data_that_one_host_lacks(pair, tmp_path):
    """Both end with its exit code and its line, instead of one waiting for minutes."""
    path = complete_runs.write_npz(tmp_path / 'data.npz', 64)
    differing = ({'data.path': str(path)}, {'data.path': str(tmp_path / 'missing.npz')})
    (code0, _, err0), (code1, _, err1) = map(ended, pair(tmp_path / 'two', differing, **{'data.source': 'npz'}))
    assert (code0, code1) == (3, 3)
    assert 'error: process 1: ' in err0 and 'missing.npz' in err0 and 'missing.npz' in err1
