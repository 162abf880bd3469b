"""Signals to this process: the first asks, the second Ctrl-C ends, and afterwards all is as it was."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
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
