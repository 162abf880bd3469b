"""One workdir, one run: `lock.json` names the process that writes to a workdir.

The file holds host, process id and the start of the process, and is touched every few seconds. Whoever finds it takes
the workdir over if the process is gone: at once on the same host, where the process table tells it, and otherwise after
a minute without a sign of life. A process that was stopped meanwhile looks at the file before each write and ends.
"""

import contextlib
import datetime
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_jax.distributed import watchdog
from contrastive_jax.errors import BusyError, UserError
from contrastive_jax.workdir import ended
from contrastive_jax.workdir.disk import cannot_write
from contrastive_jax.workdir.folder import CONFIG_FILE

FILE = 'lock.json'
BEAT_S = 10.0  # seconds between two signs of life
STALE_S = 60.0  # seconds without a sign of life after which a process of another host counts as gone
GUARD_S = 10.0  # the longest time to wait for another start that looks at the lock at this moment

_held: dict[Path, 'Lock'] = {}


class Lock:
    """A context in which this process alone writes to a workdir.

    Args:
      workdir: the folder. It is made with its parents, and removed with them at the end if nothing was written to it.
      beat_s, stale_s: the times that BEAT_S and STALE_S describe, in seconds.

    Raises:
      BusyError: when it is entered, and another process writes to the workdir.
      UserError: when it is entered, and the workdir cannot be written.
    """

    def __init__(self, workdir: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S):
        self.workdir, self.file = workdir.absolute(), workdir.absolute() / FILE
        self._beat_s, self._stale_s = beat_s, stale_s
        self._mine = {**_this_process(), 'token': secrets.token_hex(8), **ended.this_command()}
        self._done = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._made: list[Path] = []  # folders that did not exist, the deepest first
        self.took_over = ''  # the line about the process that left the lock, if there is one

    def __enter__(self) -> 'Lock':
        # The lock appears with all of its content: a link to a file that is complete.
        candidate = self.workdir / f'.{FILE}.{self._mine["token"]}.tmp'
        try:
            self._made = [x for x in (self.workdir, *self.workdir.parents) if not x.exists()]
            self.workdir.mkdir(parents=True, exist_ok=True)
            candidate.write_text(json.dumps(self._mine, indent=2) + '\n', encoding='utf-8')
            try:
                with _alone(self.workdir) as sure:
                    self._take(candidate)
                if not sure:  # a file system without flock: another start may have taken it over at the same time
                    time.sleep(min(1.0, self._stale_s))
                    self._check_token()
            finally:
                candidate.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.file, error, f'to workdir {self.workdir}') from error
        _held[self.workdir] = self
        watchdog.last_words.append(self._end)
        self._beats.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._done.set()
        self._beats.join()
        _held.pop(self.workdir, None)
        watchdog.last_words.remove(self._end)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with contextlib.suppress(OSError, ValueError):
            if _read(self.file).get('token') == self._mine['token']:
                if (self.workdir / CONFIG_FILE).exists():
                    ended.write(self.workdir, error)
                self.file.unlink()
            for folder in self._made:
                folder.rmdir()  # an error if it holds anything

    def _check_token(self) -> None:
        try:
            holder = _read(self.file)
        except FileNotFoundError:
            what = 'was deleted' if not self.workdir.exists() else f'has lost its {FILE}, as if it were being deleted'
            raise UserError(
                f'workdir {self.workdir} {what} while this run was using it', remedy='nothing more is written to it'
            ) from None
        if holder.get('token') != self._mine['token']:
            raise BusyError(
                f'workdir {self.workdir} was taken over by {_named(holder)} while this process gave no sign of life',
                remedy='this process ends and writes nothing more; the other one goes on',
            )

    def _take(self, candidate: Path) -> None:
        """Makes the candidate the lock.

        Raises:
          BusyError: a process that is alive holds it.
        """
        try:
            _link(candidate, self.file)
            return
        except FileExistsError:
            pass
        try:
            holder = _read(self.file)
            # By the clock of the file system, which may differ from that of this host.
            seen = self.file.stat().st_mtime
            age = candidate.stat().st_mtime - seen
            if age < -self._beat_s:  # a clock was set back since: the process is alive if it touches the file again
                time.sleep(1.5 * self._beat_s)
                age = math.inf if self.file.stat().st_mtime == seen else 0.0
        except FileNotFoundError:  # its run has ended at this moment
            _link(candidate, self.file)
            return
        if not (reason := _gone(holder, age, self._stale_s)):
            raise BusyError(
                f'workdir {self.workdir} is in use by {_named(holder)}, seen {max(age, 0):.0f} s ago',
                remedy=f'choose another workdir, or stop that run first: kill {holder.get("pid", "PID")} on that host',
            )
        os.replace(candidate, self.file)
        self.took_over = f'workdir taken over from {_named(holder)}, {reason}'

    def _beat(self) -> None:
        while not self._done.wait(self._beat_s):
            with contextlib.suppress(OSError, ValueError):
                if _read(self.file).get('token') != self._mine['token']:
                    return
                os.utime(self.file)


class Holder(NamedTuple):
    """The process that a lock names.

    Attributes:
      name: the process, for messages.
      gone: why it counts as gone; '' if it does not.
      age: seconds since its last sign of life.
      stopped: whether it is stopped, as by SIGSTOP; known on its own host only.
      content: of the lock.
    """

    name: str
    gone: str
    age: float
    stopped: bool
    content: dict[str, Any]


def holder(workdir: Path) -> Holder | None:
    """Who holds the lock of a workdir; None if nobody does. Nothing is changed."""
    file = workdir / FILE
    try:
        content, age = _read(file), max(time.time() - file.stat().st_mtime, 0.0)
    except OSError:
        return None
    here = _is_here(content)
    stopped = here and _start_and_state(int(content['pid'])) == (content.get('start'), 'T')
    return Holder(_named(content), _gone(content, age, STALE_S), age, stopped, content)


def check(workdir: Path) -> None:
    """Makes sure that this process still holds the lock of a workdir, if it has taken it. To be called before writing.

    Raises:
      BusyError: another process has taken the workdir over.
      UserError: the workdir was deleted.
    """
    if (lock := _held.get(workdir.absolute())) is not None:
        lock._check_token()


def say_takeover(lock: Lock) -> None:
    """Says whose workdir this run goes on in, if a process has left its lock."""
    if lock.took_over:
        print(lock.took_over, flush=True)


def _gone(holder: dict[str, Any], age: float, stale_s: float) -> str:
    """Why the process that holds a lock counts as gone; '' if it does not.

    Args:
      holder: the content of the lock; {} if it cannot be read.
      age: seconds since its last sign of life; infinite: before the clock was set back.
      stale_s: the time that STALE_S describes, in seconds.
    """
    since = 'since the clock was set back' if age == math.inf else f'for {age:.0f} s'
    stale = f'which has given no sign of life {since}' if age > stale_s else ''
    if not _is_here(holder):
        return stale
    start, state = _start_and_state(int(holder['pid']))
    if start is None and state != '?':
        return 'which has ended'
    if start is not None and start != holder.get('start'):
        return 'whose process id belongs to another process now'
    return f'{stale}: it is stopped' if stale and state == 'T' else ''


def _is_here(holder: dict[str, Any]) -> bool:
    """Whether a process id in a lock is one of this host."""
    here = _this_process()
    return all(holder.get(name) == here[name] for name in ('host', 'boot', 'namespace'))


def _this_process() -> dict[str, Any]:
    return {
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'start': _start_and_state(os.getpid())[0],
        'since': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        # Hosts may share a name, and containers a host: process ids are only comparable if these are the same.
        'boot': _text('/proc/sys/kernel/random/boot_id'),
        'namespace': _target('/proc/self/ns/pid'),
    }


def _start_and_state(pid: int) -> tuple[int | None, str]:
    """When a process of this host was started, in ticks, and its state, as 'T' for stopped; None if it is gone.

    Where there is no /proc, the state is '?', and the start 0 for a process that is alive.
    """
    if os.path.exists('/proc/self/stat'):
        if not (line := _text(f'/proc/{pid}/stat')):
            return None, ''
        state, *fields = line.rpartition(')')[2].split()  # the name of the program before it may hold anything
        return (None, '') if state in 'ZX' else (int(fields[18]), state)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None, ''
    except OSError:
        pass  # it belongs to someone else
    return 0, '?'


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding='utf-8', errors='replace').strip()
    except OSError:
        return ''


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ''


def _read(file: Path) -> dict[str, Any]:
    """The content of a lock; {} if it has another form."""
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get('pid'), int) else {}


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return 'a process that its lock does not name'
    return f'process {holder["pid"]} on {holder.get("host")}, started {holder.get("since")}'


def _link(candidate: Path, file: Path) -> None:
    """Makes `file` with the content of `candidate`, unless it exists."""
    try:
        os.link(candidate, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as that of a bucket
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with open(descriptor, 'wb') as stream:
            stream.write(candidate.read_bytes())


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[bool]:
    """A short time in which no other start looks at the lock: True; False where the file system has no such means."""
    try:
        import fcntl

        folder = os.open(workdir, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        end, sure = time.monotonic() + GUARD_S, False
        while not sure:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sure = True
            except BlockingIOError:
                if time.monotonic() > end:
                    raise BusyError(
                        f'another start has held workdir {workdir} for {GUARD_S:.0f} s', remedy='look at that process'
                    ) from None
                time.sleep(0.01)
            except OSError:
                break
        yield sure
    finally:
        os.close(folder)
