"""What the processes of a run tell each other while they work, through the store of jax's coordinator, process 0.

A thread tells every second what the main thread does, and notices which process does not tell anything any more. jax
notices it too, later, and ends a process by a signal: of its client's callback for this case, jaxlib 0.10 makes a
`std::bad_cast`.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from contrastive_jax.errors import LostError, UserError

POLL_S = 1.0  # seconds between two messages
TOLD_S = 3.0  # seconds for the last message of a process: process 0 may be stopped, and never answer
CAUSE_S = 5.0  # seconds to wait for the reason why another process has ended

PREFIX = 'contrastive_jax/'
ENDED = f'{PREFIX}ended'  # the first process that failed: its number, exit code and line
LOOK = 'look for the cause in its log; the same command on all hosts goes on from the last checkpoint'


class Messages:
    """The messages of this process and to it.

    Args:
      client: jax's client of the coordinator.
      process: the number of this process.
      doing: returns what the main thread does, and whether others wait for it however long it takes.
      lost_s: a process that has told nothing for so many seconds counts as lost.
    """

    def __init__(self, client: Any, process: int, doing: Callable[[], tuple[str, bool]], lost_s: float):
        self.process = process
        self._client, self._doing, self._lost_s = client, doing, lost_s
        self._found: dict[str, str] = {}
        self._beats = 0
        self._seen: dict[int, tuple[int, float]] = {}  # process -> its last beat, and when it was seen first
        self._heard = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._talk, name='messages', daemon=True).start()

    def others(self) -> dict[int, tuple[str, bool, int]]:
        """Other process -> what it does, whether others wait for it, and a number that grows; -1: it is done."""
        told = {name.removeprefix(PREFIX): x for name, x in self._found.items() if name != ENDED}
        return {int(i): tuple(json.loads(x)) for i, x in sorted(told.items()) if int(i) != self.process}

    def failure(self) -> UserError | None:
        """The error with which another process has ended, or that says which one is lost; None if all are well."""
        if error := self._of_another(self._found):
            return error
        now = time.monotonic()
        if now - self._heard > self._lost_s:
            return _lost('process 0, which all others talk to, has not answered', now - self._heard)
        for i, (_, _, beat) in self.others().items():
            if (seen := self._seen.get(i)) is None or seen[0] != beat:
                self._seen[i] = beat, now
            elif beat >= 0 and now - seen[1] > self._lost_s:
                return _lost(f'process {i} has given no sign of life', now - seen[1])
        return None

    def announce(self, error: BaseException) -> None:
        """Tells the others why this process ends. Only the first of all counts."""
        code = error.exit_code if isinstance(error, UserError) else 1
        line = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
        # Refused if another process has failed before.
        _try(lambda: self._client.key_value_set(ENDED, json.dumps([self.process, code, line])))

    def cause(self) -> UserError | None:
        """The error with which another process has ended, after a little time; None if it has left no word."""
        end = time.monotonic() + CAUSE_S
        while time.monotonic() < end:
            with contextlib.suppress(Exception):  # the coordinator is gone
                if error := self._of_another(dict(self._client.key_value_dir_get(PREFIX))):
                    return error
            time.sleep(0.1)
        return None

    def stop(self) -> None:
        """Tells that this process is done."""
        self._done.set()
        _try(lambda: self._tell(-1))

    def _talk(self) -> None:
        while not self._done.wait(POLL_S):
            with contextlib.suppress(Exception):  # the coordinator does not answer
                self._beats += 1
                self._tell(self._beats)
                self._found = dict(self._client.key_value_dir_get(PREFIX))
                self._heard = time.monotonic()

    def _tell(self, beat: int) -> None:
        self._client.key_value_set(f'{PREFIX}{self.process}', json.dumps([*self._doing(), beat]), allow_overwrite=True)

    def _of_another(self, found: dict[str, str]) -> UserError | None:
        process, code, line = json.loads(found.get(ENDED, '[-1, 0, ""]'))
        if process in (-1, self.process):
            return None
        error = UserError('\n'.join(f'process {process}: {part}' for part in line.splitlines()))
        error.exit_code = code
        return error


def _try(send: Callable[[], None]) -> None:
    """Sends a last message, if the coordinator answers within TOLD_S."""

    def quietly() -> None:
        with contextlib.suppress(Exception):  # the coordinator is gone
            send()

    sender = threading.Thread(target=quietly, daemon=True)
    sender.start()
    sender.join(TOLD_S)


def _lost(what: str, seconds: float) -> LostError:
    return LostError(f'{what} for {seconds:.0f} s: it was killed or stopped, or its network is gone', remedy=LOOK)
