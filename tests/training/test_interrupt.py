"""Signals to this process: the first asks, the second Ctrl-C ends, and afterwards all is as it was."""

import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrastive_jax.errors import Interrupted
from contrastive_jax.training import interrupt
from contrastive_jax.training.interrupt import Interrupt


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes that os._exit would have ended the tests with."""
    codes: list[int] = []
    monkeypatch.setattr(interrupt.os, '_exit', codes.append)
    return codes


@pytest.fixture(autouse=True)
def python_s_own_handler() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, the tests too; here is what Python sets otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in interrupt.SIGNALS]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_the_first_signal_only_asks(ended: list[int], number: signal.Signals) -> None:
    with Interrupt() as asked:
        assert asked.requested is None
        send(number)
        assert asked.requested == number.name
    assert ended == []


def test_a_second_ctrl_c_ends_at_once(ended: list[int]) -> None:
    with Interrupt():
        send(signal.SIGINT, signal.SIGINT)
    assert ended == [130]


@pytest.mark.parametrize(
    ('numbers', 'codes'),
    [
        ([signal.SIGTERM] * 3, []),  # schedulers repeat themselves: not a reason to lose the step
        ([signal.SIGTERM, signal.SIGINT], []),  # the first Ctrl-C
        ([signal.SIGTERM, signal.SIGINT, signal.SIGINT], [130]),
        ([signal.SIGINT, signal.SIGTERM], []),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGINT], [130]),
    ],
)
def test_mixtures(ended: list[int], numbers: list[signal.Signals], codes: list[int]) -> None:
    with Interrupt() as asked:
        send(*numbers)
        assert asked.requested == numbers[-1].name
    assert ended == codes


def test_handlers_are_restored(ended: list[int]) -> None:
    before = handlers()
    with Interrupt():
        assert all(handler not in before for handler in handlers())
    assert handlers() == before
    with pytest.raises(KeyError), Interrupt():
        raise KeyError
    assert handlers() == before
    with Interrupt():
        send(signal.SIGINT)
        with Interrupt() as inner:
            send(signal.SIGINT)
            assert inner.requested == 'SIGINT'
    assert handlers() == before and ended == [], 'each counts its own'
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_ones_own_handler_comes_back() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with Interrupt():
            send(signal.SIGTERM)
        assert seen == []
        send(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_exit_codes() -> None:
    """Of a whole process: nothing but the interrupt itself is imported, so this is quick."""
    code = textwrap.dedent("""
        import os, signal
        from contrastive_jax.training.interrupt import Interrupt
        with Interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            print('still here')
    """)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', '')
    assert interrupt.RESTART == Interrupted.exit_code == 42


def test_nohup_keeps_ignoring_the_end_of_the_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupt() as asked:
        send(signal.SIGHUP)
        assert asked.requested is None
        send(signal.SIGTERM)
        assert asked.requested == 'SIGTERM'
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_terminal_that_is_gone(tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and what is printed afterwards raises an error in a process that does not expect it."""
    code = textwrap.dedent("""
        import sys, time
        from contrastive_jax.training.interrupt import Interrupt
        with Interrupt() as asked:
            print('ready', flush=True)
            while not asked.requested:
                time.sleep(0.01)
            print('to the log', flush=True)
            print('and an error', file=sys.stderr, flush=True)
            open(sys.argv[1], 'w').write(asked.requested)
    """)
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, '-c', code, str(tmp_path / 'saved')])
    assert b'ready' in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert (tmp_path / 'saved').read_text() == 'SIGHUP'
