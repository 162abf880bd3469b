"""Signals: after Ctrl-C or a scheduler's SIGTERM a run finishes its step, saves, and ends with the restart code."""

import os
import signal
from types import FrameType
from typing import Any

RESTART = 42  # saved; the same command continues the run
INTERRUPTED = 130  # a second Ctrl-C ended the process at once


class Interrupt:
    """A context in which the first SIGINT or SIGTERM sets `requested`, and a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._sigints = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interrupt':
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._sigints += number == signal.SIGINT
        if number == signal.SIGINT and self._sigints > 1:
            os._exit(INTERRUPTED)  # committed checkpoints are complete
        self.requested = signal.Signals(number).name
