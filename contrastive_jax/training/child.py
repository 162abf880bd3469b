"""Trainings in processes of their own: signals to the command that started them reach them too."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Any

from contrastive_jax.errors import Interrupted
from contrastive_jax.training.interrupt import heeded


class Children:
    """The child processes of a command, each in a process group of its own.

    A terminal sends Ctrl-C to the group of the command alone; so each signal reaches a child once, from here, whoever
    sent it and how often. Use `children` to make one.

    Attributes:
      requested: the name of the last signal; None before the first one.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.RLock()  # the handler may interrupt the thread that holds it

    def run(self, command: Sequence[str], output: IO[bytes] | None = None) -> int:
        """Starts a process, waits for it, and returns its exit code. Several threads may call it.

        Args:
          command: program and arguments.
          output: a file for stdout and stderr; None: those of this process.

        Raises:
          Interrupted: a signal came before the start, or ended the process before it could handle signals.
        """
        with self._lock:
            if self.requested:
                raise Interrupted(f'{self.requested}; run the same command to continue')
            child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT if output else None, process_group=0
            )
            self._running.add(child)
            if self.requested:  # it came during the start
                child.terminate()
        try:
            code = child.wait()
        finally:
            with self._lock:
                self._running.discard(child)
        if code < 0 and self.requested:
            raise Interrupted(f'{self.requested}; run the same command to continue')
        return code

    def forward(self, number: int, frame: FrameType | None = None) -> None:
        """Sends a signal to every running child; a handler of `signal.signal`."""
        del frame
        self.requested = signal.Signals(number).name
        with self._lock:
            for child in self._running:
                child.send_signal(number)


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """A context that forwards `interrupt.heeded` to the processes that are started in it. For the main thread."""
    found = Children()
    before: dict[int, Any] = {number: signal.signal(number, found.forward) for number in heeded()}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
