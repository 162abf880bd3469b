"""Ctrl-C and the scheduler's SIGTERM: finish the step, save, and leave with an exit code that asks for a restart."""

import os
import signal
from types import FrameType
from typing import Any

RESTART = 42  # saved, and wants to go on
INTERRUPTED = 130  # stopped at once, by a second Ctrl-C


class Interrupt:
    """Within it, the first SIGINT or SIGTERM only sets `requested`; a second SIGINT ends the process at once."""

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
            os._exit(INTERRUPTED)  # whatever hangs, committed checkpoints are whole
        self.requested = signal.Signals(number).name
