"""Two processes, one of which fails, stalls, is killed or stopped: both end soon, and the last lines say why."""

import re
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests import complete_runs, train_steps
from tests.complete_runs import ended, fit, lines, saved, tiny_config

pytestmark = pytest.mark.usefixtures('quick_runs')

FIELDS = {
    'data.source': 'tests.faulty_data:Digits',
    'data.name': '',
    'steps': 12,
    'log_every_steps': 1,
    'eval_every_steps': 0,
    'checkpoint_every_steps': 2,
}
SOON_S = 60  # promised


@pytest.fixture
def pair(children, compiled, tmp_path) -> Callable[..., list[subprocess.Popen[str]]]:
    """Starts a run in two processes; the given fields are those of the second."""

    def start(stall_timeout: int = 300, steps: int = 12, **second: object) -> list[subprocess.Popen[str]]:
        both = {**FIELDS, 'steps': steps}
        flags = [f'--stall_timeout={stall_timeout}']
        started = complete_runs.start_together(
            'mocov2', tmp_path / 'run', compiled, both, {**both, **second}, flags=flags
        )
        children.extend(started)
        return started

    return start


def last_lines(pair: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    return [(code, err.splitlines()[-1]) for code, _, err in map(ended, pair)]


def test_a_process_that_stalls_in_its_data(pair, tmp_path):
    """Both end, with the stacks of the one that stalls; started again, they end as one process does."""
    two = pair(20, **{'data.path': 'stall:70'})
    (code0, _, err0), (code1, _, err1) = map(ended, two)
    assert (code0, code1) == (142, 142), err0 + err1
    line = err1.splitlines()[-1]
    assert re.match(r'contrastive_jax: error: reading the batch of step \d+ has taken more than 20 s -> look at', line)
    assert err0.splitlines()[-1] == line.replace('error: ', 'error: process 1: ')
    assert 'most recent call first' in err1 and 'faulty_data.py' in err1 and 'most recent call first' not in err0
    assert [code for code, *_ in map(ended, pair())] == [0, 0]
    config = tiny_config('mocov2', **FIELDS)
    fit(config, tmp_path / 'whole', 4)
    assert saved(config, tmp_path / 'run')[0] == 12
    assert train_steps.relative_error(saved(config, tmp_path / 'run')[1], saved(config, tmp_path / 'whole')[1]) < 1e-5
    assert [line['step'] for line in lines(tmp_path / 'run')] == [line['step'] for line in lines(tmp_path / 'whole')]


def test_a_process_that_throws(pair):
    (code0, _, err0), (code1, _, err1) = map(ended, pair(**{'data.path': 'raise:70'}))
    assert (code0, code1) == (1, 1), err0 + err1
    assert 'Traceback' in err1 and err1.splitlines()[-1].endswith('RuntimeError: a mistake of ours')
    assert err0.splitlines()[-1] == 'contrastive_jax: error: process 1: RuntimeError: a mistake of ours'


def test_a_process_that_is_killed(pair, tmp_path):
    two = pair(steps=100_000)
    complete_runs.wait_for_step(tmp_path / 'run', 3, *two)
    two[1].kill()
    began = time.monotonic()
    code, _, err = ended(two[0])
    assert code == 142 and time.monotonic() - began < SOON_S
    assert err.splitlines()[-1].startswith('contrastive_jax: error: another process of this run has ended'), err


def test_the_first_process_is_stopped(pair, tmp_path):
    """jax alone would abort the other one, after a longer time."""
    two = pair(20, steps=100_000)
    complete_runs.wait_for_step(tmp_path / 'run', 3, *two)
    two[0].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    code, _, err = ended(two[1])
    assert code == 142 and time.monotonic() - began < SOON_S, err
    assert 'error: process 0, which all others talk to, has not answered for ' in err.splitlines()[-1], err
