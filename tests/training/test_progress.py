"""Progress: plain lines in a log, a bar on a terminal, and honest images/s by a clock under the test's control."""

import io
import math
import types

import pytest

from contrastive_jax.training import progress
from contrastive_jax.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_plain_lines_with_rate_and_time_left(clock):
    log = io.StringIO()
    with Progress(2000, start_step=100, batch_size=64, stream=log) as bar:
        clock.now += 10
        rate = bar.update(120, 1.23412)
        bar.say('saved step 120')
        clock.now += 20
        bar.update(140, 1.1)
    assert rate == pytest.approx(128)
    assert log.getvalue().splitlines() == [
        'step 120/2000  loss 1.234  128 images/s  left 0:15:40',
        'saved step 120',
        'step 140/2000  loss 1.1  64 images/s  left 0:20:09',  # 1860 steps of 0.3 * 1.0 s + 0.7 * 0.5 s
    ]


def test_pauses_do_not_count_even_nested_or_after_an_error(clock):
    bar = Progress(100, batch_size=10, stream=io.StringIO())
    clock.now += 1
    with bar.paused():
        clock.now += 50
        with bar.paused():
            clock.now += 50
        clock.now += 50
    with pytest.raises(KeyError), bar.paused():
        clock.now += 1000
        raise KeyError
    clock.now += 1
    assert bar.update(4, 0.0) == pytest.approx(20)


def test_the_first_call_which_compiles_is_left_out(clock):
    bar = Progress(100, batch_size=10, stream=io.StringIO())
    clock.now += 60
    bar.untimed(1)
    assert math.isnan(bar.update(1, 0.0))
    clock.now += 2
    assert bar.update(5, 0.0) == pytest.approx(20)


def test_updates_without_a_new_step_keep_the_rate(clock):
    log = io.StringIO()
    bar = Progress(10, start_step=5, batch_size=8, stream=log)
    assert math.isnan(bar.update(5, float('nan')))
    clock.now += 2
    assert bar.update(6, 1.0) == bar.update(6, 1.0) == 4
    assert log.getvalue().splitlines()[0] == 'step 5/10  loss nan  ? images/s  left ?'


def test_a_terminal_gets_one_bar_that_messages_do_not_tear(clock):
    terminal = Terminal()
    with Progress(10, start_step=2, batch_size=8, stream=terminal) as bar:
        clock.now += 4
        bar.update(6, 0.5)
        bar.say('evaluating')
        clock.now += 1
        bar.update(10, 0.25)
    frames = terminal.getvalue().replace('\n', '\r').split('\r')
    assert any(
        frame.startswith(' 60%|') and '| step 6/10  loss 0.5  8 images/s  left 0:00:04' in frame for frame in frames
    )
    assert any(frame.startswith('100%|') and 'left 0:00:00' in frame for frame in frames)
    assert 'evaluating' in frames  # a line of its own


def test_other_processes_show_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        with Progress(10, batch_size=8, enabled=False, stream=stream) as bar:
            clock.now += 1
            assert bar.update(1, 0.5) == 8
            bar.say('hello')
        assert stream.getvalue() == ''


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '0:00:00'), (59.6, '0:01:00'), (5025, '1:23:45'), (360000, '100:00:00')]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_end_is_estimated_from_the_first_timed_steps(clock):
    """Compilation and named stages do not count, and the next line of the log counts the same steps again."""
    log = io.StringIO()
    bar = Progress(106, batch_size=32, stream=log)
    with bar.stage('compiling'):
        clock.now += 60
    bar.untimed(1)
    clock.now += 10
    bar.forecast(6, 1.25)
    assert bar.update(6, 1.0) == pytest.approx(16)
    compiling, done, forecast, line = log.getvalue().splitlines()
    assert (compiling, done) == ('compiling ...', 'compiling: done in 60.0 s')
    assert forecast.startswith('after 5 timed steps: loss 1.25, 16 images/s, 2 s a step; left 0:03:20 without')
    assert 'left 0:03:20' in line
