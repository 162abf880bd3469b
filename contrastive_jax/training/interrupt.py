"""Signals: a run that is asked to stop finishes its step, saves, and ends with the restart code."""

import contextlib
import math
import os
import signal
import stat
from types import FrameType
from typing import Any

from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.watchdog import Watchdog

RESTART = 42  # saved; the same command continues the run
INTERRUPTED = 130  # a second Ctrl-C ended the process at once

# Ctrl-C, a scheduler, a terminal that is closed, and what Slurm's --signal sends before the time limit. Windows lacks
# the last three.
SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2') if hasattr(signal, name)
)


def heeded() -> list[int]:
    """The SIGNALS that this process heeds: `nohup` starts one that ignores SIGHUP, and it keeps ignoring it."""
    return [n for n in SIGNALS if signal.Signals(n).name != 'SIGHUP' or signal.getsignal(n) != signal.SIG_IGN]


class Interrupt:
    """A context in which the first of SIGNALS sets `requested`, and a second SIGINT ends the process at once.

    A watchdog ends the process if it does not get to heed the signal, since it waits for data or for another process.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._sigints = 0
        self._before: dict[int, Any] = {}
        self._watched = contextlib.ExitStack()

    @property
    def at_once(self) -> str | None:
        """What ends an evaluation, between two of its batches."""
        return self.requested

    def __enter__(self) -> 'Interrupt':
        self._before = {number: signal.signal(number, self._handle) for number in heeded()}
        if (dog := watchdog.of_all()) is None:
            dog = Watchdog(patience_s=math.inf)
            self._watched.callback(dog.stop)
        self._watched.enter_context(dog.hearing(self._before))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._watched.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._sigints += number == signal.SIGINT
        if number == signal.SIGINT and self._sigints > 1:
            os._exit(INTERRUPTED)  # committed checkpoints are complete
        self.requested = signal.Signals(number).name
        if self.requested == 'SIGHUP':
            _leave_closed_terminal()


def _leave_closed_terminal() -> None:
    """Sends the output of this process to nowhere if its terminal is gone: printing would raise, before the save."""
    for descriptor in (1, 2):
        try:
            gone = stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor)
        except OSError:  # it is closed
            continue
        if gone:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
