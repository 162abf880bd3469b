"""Ends this process when it can go no further and does not notice it, and says why in its last line.

A thread looks at what the main thread does, in *stages*. It ends the process with a line, and with the stacks of all
threads if the process itself has stalled, when

- another process of the run has failed: all end with its exit code and line; or it gives no sign of life;
- this process has waited for its data for longer than the patience, or no process has finished a step for so long;
- this process has read its data for the first time, before it trains, for several times the patience, or no process has
  finished its first step, which compiles, for so long;
- a signal asked the run to stop, and the main thread does not come to heed it, since it waits for data or devices.

What may take long without being wrong, such as evaluating and saving, is never limited. A batch or a step may always
take a few times as long as the longest one before it.
"""

import contextlib
import dataclasses
import faulthandler
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from contrastive_jax.distributed.messages import Messages
from contrastive_jax.errors import LostError, UserError, print_error

PATIENCE_S = 300.0  # seconds for a batch of data or for a step, on several processes
LOST_S = 25.0  # seconds without a sign of life after which a process counts as lost
STOP_S = 20.0  # seconds after a signal for a batch or a step; a scheduler often gives 30 to end
LATER_S = 20.0  # seconds, see `Watchdog`
OPENING = 6  # reading the data for the first time, and the first step, may take so many times the patience
TIMES = 5  # a batch or a step may always take so many times as long as the longest one before it
POLL_S = 1.0  # seconds between two looks
STAYS_S = 3.0  # without process 0, jax ends the others before they have said why they end

# 'free' is not limited; 'data': this process alone waits; 'opening': it reads all of the data for the first time;
# 'step': it waits for devices, and so for all processes.
Kind = Literal['free', 'data', 'opening', 'step']

T = TypeVar('T')

last_words: list[Callable[[UserError], None]] = []  # called before a process ends that nothing else would notice

_of_all: 'Watchdog | None' = None  # of this process, if it is one of several


@dataclasses.dataclass
class Stage:
    """What the main thread does since a time of the monotonic clock, and how often it was marked."""

    what: str
    kind: Kind
    since: float
    marks: int = 0

    @property
    def compiles(self) -> bool:
        """Whether it is the first step of a training, which is marked when it begins, or comes before it."""
        return self.kind == 'step' and self.marks < 2


_stages = [Stage('starting', 'free', time.monotonic())]
_longest: dict[Kind, float] = {}  # seconds


@contextlib.contextmanager
def stage(what: str, kind: Kind = 'free') -> Iterator[None]:
    """Names what the main thread does inside this context. Contexts may be nested: the innermost one counts.

    Args:
      what: for messages, such as 'reading the batch of step 3'.
      kind: how its time is limited, see `Kind`.
    """
    _stages.append(Stage(what, kind, time.monotonic()))
    try:
        yield
    finally:
        mark('')
        _stages.pop()
        _stages[-1].since = time.monotonic()


def mark(what: str) -> None:
    """Something has been done in the innermost stage, and the next thing begins; a step is marked when it begins."""
    now, top = time.monotonic(), _stages[-1]
    if not top.compiles:
        _longest[top.kind] = max(_longest.get(top.kind, 0.0), now - top.since)
    top.what, top.since, top.marks = what, now, top.marks + 1


def opening(action: Callable[[], T]) -> Callable[[], T]:
    """An action that reads all of the data for the first time, within a stage of that kind."""

    def limited() -> T:
        with stage('reading the data for the first time', 'opening'):
            return action()

    return limited


def reading(batches: Iterable[T], what: str, first: int = 1) -> Iterator[T]:
    """The same batches, with a stage around the time in which each is waited for.

    Args:
      batches: what is read.
      what: for messages, before the number of the batch.
      first: the number of the first batch.
    """
    iterator, number = iter(batches), first
    while True:
        with stage(f'reading {what} {number}', 'data'):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch
        number += 1


def begin(client: Any, process: int, patience_s: float) -> None:
    """Lets a watchdog look from now on until the process ends.

    Args:
      client: jax's client of the coordinator.
      process: the number of this process.
      patience_s: seconds for a batch or a step, see `Watchdog`; below LOST_S, also the time after which a silent
        process counts as lost.
    """
    global _of_all
    _of_all = Watchdog(patience_s)
    _of_all.messages = Messages(client, process, _of_all.doing, min(LOST_S, patience_s))


def of_all() -> 'Watchdog | None':
    """The watchdog of this process, if it is one of several."""
    return _of_all


class Watchdog:
    """The thread that looks.

    Args:
      patience_s: seconds for a batch or a step.
      stop_s: seconds for a batch or a step after a signal.
      later_s: so much longer those wait that wait for others: who is the cause speaks first.

    Attributes:
      messages: what this process and the others tell each other; None if there are none.
    """

    def __init__(self, patience_s: float, stop_s: float = STOP_S, later_s: float = LATER_S):
        self.messages: Messages | None = None
        self._patience_s, self._stop_s, self._later_s = patience_s, stop_s, later_s
        self._asked: tuple[str, float] | None = None  # the first signal, and when it came
        self._interrupts = 0
        self._heeded: frozenset[int] = frozenset()
        self._done = threading.Event()
        self._signals, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._thread = threading.Thread(target=self._look, name='watchdog', daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def hearing(self, signals: Iterable[int]) -> Iterator[None]:
        """Inside this context it gets these signals, also while the main thread computes. For the main thread."""
        self._heeded = frozenset(signals)
        before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def stop(self) -> None:
        """Looks no longer."""
        if not self._done.is_set():
            self._done.set()
            os.write(self._wake, b'\0')
            self._thread.join()
            os.close(self._wake)
            os.close(self._signals)

    def doing(self) -> tuple[str, bool]:
        """What the main thread does, and whether others wait for it however long it takes: it may still compile."""
        now = _stages[-1]
        return now.what, now.compiles or self._limit(now) is None

    def leave(self, code: int) -> None:
        """Ends the process without waiting for others. Process 0 stays until they have read why."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self.messages is not None and self.messages.process == 0:
            time.sleep(STAYS_S)
        os._exit(code)

    def _look(self) -> None:
        while not self._done.is_set():
            if select.select([self._signals], [], [], POLL_S)[0]:
                self._note(os.read(self._signals, 100))
            if self._done.is_set():
                return
            if self.messages is not None and (error := self.messages.failure()):
                self._end(error, stacks=False)
            elif error := self._stalled():
                self._end(error, stacks=True)

    def _note(self, numbers: bytes) -> None:
        for number in self._heeded.intersection(numbers):
            self._asked = self._asked or (signal.Signals(number).name, time.monotonic())
        self._interrupts += numbers.count(signal.SIGINT) if signal.SIGINT in self._heeded else 0
        if self._interrupts > 1 and not self._done.wait(POLL_S):  # the main thread computes, and does not hear it
            os._exit(128 + signal.SIGINT)

    def _limit(self, now: Stage) -> float | None:
        """How long a stage may take, in seconds; None: any time."""
        if now.kind == 'free':
            return None
        if now.compiles:
            return self._patience_s * OPENING
        patience = self._patience_s * (OPENING if now.kind == 'opening' else 1)
        least = min(self._stop_s if self._asked else math.inf, patience)
        return max(least, TIMES * _longest.get(now.kind, 0.0))

    def _stalled(self) -> LostError | None:
        now = _stages[-1]
        if (limit := self._limit(now)) is None:
            return None
        asked, came = self._asked or ('', 0.0)
        took = time.monotonic() - max(now.since, came)
        why = f'{asked} came, but this process does not get to save: ' if asked else ''
        remedy = 'look at the stacks above; the same command on all hosts goes on from the last checkpoint'
        if now.kind in ('data', 'opening') and took > limit:
            return LostError(f'{why}{now.what} has taken more than {limit:.0f} s', remedy=remedy)
        others = self.messages.others() if self.messages else {}
        # All processes compile at the same time: then a limit that is over is over for each of them.
        busy = not now.compiles and any(any_time for _, any_time, beat in others.values() if beat >= 0)
        if now.kind == 'step' and took > limit + (self._later_s if self.messages else 0) and not busy:
            doing = ', '.join(f'process {i}: {what}' for i, (what, *_) in others.items())
            return LostError(
                f'{why}{now.what} has not ended for {took:.0f} s' + (f' ({doing})' if doing else ''), remedy=remedy
            )
        return None

    def _end(self, error: UserError, stacks: bool) -> None:
        if self.messages is not None:
            self.messages.announce(error)
        if stacks:
            sys.stderr.flush()
            faulthandler.dump_traceback(2)
        for say in last_words:
            with contextlib.suppress(Exception):
                say(error)
        print_error(str(error))
        self.leave(error.exit_code)
