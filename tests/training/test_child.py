"""Processes of a command: what it is told they are told, and none begins after it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from contrastive_jax.errors import Interrupted
from contrastive_jax.training.child import children

# Says that it is ready, by a file, and ends with 42 at the first signal of the given number.
PATIENT = """
import pathlib, signal, sys, time
signal.signal(int(sys.argv[2]), lambda *_: sys.exit(42))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def kill_when(ready: Path, number: int) -> threading.Thread:
    """A thread that sends a signal to this process when the file exists."""

    def wait() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_child(tmp_path: Path, number: int) -> None:
    """Which saves and ends with the restart code; the handlers are the old ones afterwards."""
    before = signal.getsignal(number)
    with children() as processes:
        thread = kill_when(tmp_path / 'ready', number)
        assert processes.run([sys.executable, '-S', '-c', PATIENT, str(tmp_path / 'ready'), str(number)]) == 42
        thread.join()
        assert processes.requested == signal.Signals(number).name
        with pytest.raises(Interrupted, match='run the same command to continue'):
            processes.run([sys.executable, '-c', 'raise SystemExit(3)'])
    assert signal.getsignal(number) == before


def test_a_child_that_does_not_handle_signals_yet(tmp_path: Path) -> None:
    """It ends by the signal: nothing is saved, and the same command starts it again."""
    with children() as processes:
        thread = kill_when(tmp_path / 'ready', signal.SIGTERM)
        with pytest.raises(Interrupted, match='SIGTERM'):
            processes.run([sys.executable, '-S', '-c', PATIENT, str(tmp_path / 'ready'), str(int(signal.SIGUSR2))])
        thread.join()


def test_exit_code_and_output(tmp_path: Path) -> None:
    with children() as processes, (tmp_path / 'log').open('wb') as file:
        program = "import sys; print('out'); print('error', file=sys.stderr); sys.exit(3)"
        assert processes.run([sys.executable, '-S', '-c', program], file) == 3
    assert sorted((tmp_path / 'log').read_text().split()) == ['error', 'out']
