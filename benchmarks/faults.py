"""The faults of `chaos.py`: what can happen to a run, its workdir, its disk and its clock."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from contrastive_jax.workdir import lock
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.folder import CONFIG_FILE
from contrastive_jax.workdir.metrics import FILE as METRICS

YEAR_S = 365 * 86400.0

Undo = Callable[[], object]


@dataclass
class Scene:
    """What faults are injected into.

    Attributes:
      workdir: the workdir of the run.
      disk: the small disk that holds the workdir; None where none can be mounted.
      other: the workdir of a finished run of the same config.
      rng: draws what is left to chance.
      start: starts the command once more; returns the process id.
      wait: waits for the end of a process; returns its exit code.
      pid: the process of the run; 0 while there is none.
      clock_s: seconds that the clock of the next process is ahead.
      touched: checkpoints that are damaged, by name and inode.
      deleted: whether the workdir was deleted since the last start.
      codes: exit codes that another start at the same time may end with.
      log_is_torn: whether lines of metrics may be lacking.
    """

    workdir: Path
    disk: Path | None
    other: Path
    rng: random.Random
    start: Callable[[], int]
    wait: Callable[[int], int]
    pid: int = 0
    clock_s: float = 0.0
    touched: set[tuple[str, int]] = field(default_factory=set)
    deleted: bool = False
    codes: set[int] = field(default_factory=set)
    log_is_torn: bool = False

    def checkpoints(self) -> list[Path]:
        """The folders of complete checkpoints, oldest first."""
        folder = self.workdir / FOLDER
        found = [x for x in folder.iterdir() if x.name.isdecimal()] if folder.is_dir() else []
        return sorted(found, key=lambda x: int(x.name))

    def newest(self) -> Path | None:
        """The newest checkpoint, to be damaged; None if it is the last good one."""
        found = self.checkpoints()
        good = [x for x in found[:-1] if (x.name, x.stat().st_ino) not in self.touched]
        if not good:
            return None
        self.touched.add((found[-1].name, found[-1].stat().st_ino))
        return found[-1]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
      name: what happens.
      group: faults of one group are one row of the table.
      during: whether it happens at a random time while the run works; otherwise before a start.
      codes: exit codes with which the run may end because of it, beside 0.
      inject: does it. Returns what undoes it after the run has ended; None if it is not possible now.
    """

    name: str
    group: str
    during: bool
    codes: tuple[int, ...]
    inject: Callable[[Scene], Undo | None]


def nothing() -> None:
    """Undoes what needs no undoing."""


# ================================ signals ================================


def send(number: signal.Signals) -> Callable[[Scene], Undo]:
    def inject(scene: Scene) -> Undo:
        os.kill(scene.pid, number)
        return nothing

    return inject


def kill_in_save(scene: Scene) -> Undo | None:
    """Kills once a checkpoint is being written."""
    end = time.monotonic() + 1.0
    while not any((scene.workdir / FOLDER).glob('*tmp*')):
        if time.monotonic() > end:
            return None
        time.sleep(0.001)
    time.sleep(scene.rng.uniform(0, 0.06))
    os.kill(scene.pid, signal.SIGKILL)
    return nothing


def interrupt_twice(scene: Scene) -> Undo:
    os.kill(scene.pid, signal.SIGINT)
    time.sleep(scene.rng.uniform(0.0, 0.2))
    os.kill(scene.pid, signal.SIGINT)
    return nothing


def stop_and_go_on(scene: Scene) -> Undo:
    os.kill(scene.pid, signal.SIGSTOP)
    time.sleep(scene.rng.uniform(0.1, 1.0))
    os.kill(scene.pid, signal.SIGCONT)
    return nothing


# ================================ damage of checkpoints ================================


def file_of(scene: Scene, at_least: int = 1) -> Path | None:
    """A random file of the newest checkpoint, of at least so many bytes."""
    if (folder := scene.newest()) is None:
        return None
    files = [x for x in sorted(folder.rglob('*')) if x.is_file() and x.stat().st_size >= at_least]
    return scene.rng.choice(files) if files else None


def flip_bit(scene: Scene) -> Undo | None:
    if (file := file_of(scene)) is None:
        return None
    content = bytearray(file.read_bytes())
    content[scene.rng.randrange(len(content))] ^= 1 << scene.rng.randrange(8)
    file.write_bytes(content)
    return nothing


def truncate(scene: Scene) -> Undo | None:
    if (file := file_of(scene)) is None:
        return None
    os.truncate(file, scene.rng.randrange(file.stat().st_size))
    return nothing


def delete_file(scene: Scene) -> Undo | None:
    if (file := file_of(scene, at_least=0)) is None:
        return None
    file.unlink()
    return nothing


def empty_folder(scene: Scene) -> Undo | None:
    if (folder := scene.newest()) is None:
        return None
    for inner in folder.iterdir():
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
    return nothing


def rename_to_later(scene: Scene) -> Undo | None:
    if (folder := scene.newest()) is None:
        return None
    folder.rename(folder.with_name(str(int(folder.name) + scene.rng.randint(1, 3))))
    scene.touched |= {(x.name, x.stat().st_ino) for x in scene.checkpoints()[-1:]}
    return nothing


def older_copied_over(scene: Scene) -> Undo | None:
    if (folder := scene.newest()) is None:
        return None
    shutil.rmtree(folder)
    shutil.copytree(scene.checkpoints()[-1], folder)
    scene.touched.add((folder.name, folder.stat().st_ino))
    return nothing


def checkpoint_of_another_run(scene: Scene) -> Undo | None:
    """The last one of a finished run: if it were accepted, the run would be complete."""
    last = max((x for x in (scene.other / FOLDER).iterdir() if x.name.isdecimal()), key=lambda x: int(x.name))
    place = scene.workdir / FOLDER / last.name
    if not scene.checkpoints() or place.exists():
        return None
    shutil.copytree(last, place)
    scene.touched.add((place.name, place.stat().st_ino))
    return nothing


# ================================ other files ================================


def unfinished_checkpoint(scene: Scene) -> Undo | None:
    """What a killed save leaves: a folder with a part of a checkpoint."""
    if not (found := scene.checkpoints()):
        return None
    name = f'{int(found[-1].name) + 3}.orbax-checkpoint-tmp'
    if scene.rng.random() < 0.5:
        name += f'-{scene.rng.randrange(10**9)}'
    with contextlib.suppress(FileExistsError):
        shutil.copytree(found[-1], found[-1].with_name(name))
    return nothing


def foreign_files(scene: Scene) -> Undo | None:
    if not (folder := scene.workdir / FOLDER).is_dir():
        return None
    (scene.workdir / 'notes.txt').write_text('mine')
    (folder / 'copy of 3').mkdir(exist_ok=True)
    (folder / 'notes.txt').write_text('mine')
    return nothing


def delete_config(scene: Scene) -> Undo | None:
    file = scene.workdir / CONFIG_FILE
    if not file.exists() or not scene.checkpoints():
        return None
    content = file.read_bytes()
    file.unlink()
    return lambda: scene.workdir.exists() and file.write_bytes(content)


def tear_log(scene: Scene) -> Undo | None:
    file = scene.workdir / METRICS
    if not file.exists() or not file.stat().st_size:
        return None
    os.truncate(file, max(file.stat().st_size - scene.rng.randint(1, 40), 0))
    scene.log_is_torn = True
    return nothing


def delete_workdir(scene: Scene) -> Undo | None:
    if not scene.workdir.exists():
        return None
    scene.deleted = True
    shutil.rmtree(scene.workdir, ignore_errors=True)  # the run may be making files in it
    return lambda: shutil.rmtree(scene.workdir, ignore_errors=True)


def delete_lock(scene: Scene) -> Undo | None:
    try:
        (scene.workdir / lock.FILE).unlink()
    except FileNotFoundError:
        return None
    return nothing


# ================================ the lock ================================


def lock_left(scene: Scene) -> Undo | None:
    """A lock of a process that has ended, of another one with its id, of another host long ago, or without content."""
    if not scene.workdir.exists():
        return None
    left = scene.other / lock.FILE  # of a killed process of this host
    content = json.loads(left.read_text(encoding='utf-8'))
    kind = scene.rng.randrange(4)
    if kind == 1:
        content['pid'] = os.getpid()  # alive, but started at another time
    elif kind == 2:
        content['host'] = 'elsewhere'
    file = scene.workdir / lock.FILE
    file.write_text(json.dumps(content) if kind < 3 else '', encoding='utf-8')
    if kind >= 2:
        os.utime(file, (time.time() - 90, time.time() - 90))
    return nothing


def lock_held(scene: Scene) -> Undo:
    """Another process holds the workdir until the run has ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            with lock.Lock(scene.workdir):
                os.write(write, b'held')
                signal.sigwait({signal.SIGTERM})
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    os.read(read, 4)
    os.close(read)

    def release() -> None:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)

    return release


def second_start(scene: Scene) -> Undo:
    """The first one may have ended, or not have begun; so it may train instead of it."""
    code = scene.wait(scene.start())
    assert code in scene.codes, f'the second of two starts ended with exit code {code}'
    return nothing


# ================================ the clock ================================


def file_times(scene: Scene) -> Undo | None:
    """All files of the workdir but the lock, whose time tells its age, seem to be of up to a year ago or ahead."""
    if not scene.checkpoints():
        return None
    for path in sorted(x for x in scene.workdir.rglob('*') if x.name != lock.FILE):
        at = time.time() + scene.rng.uniform(-YEAR_S, YEAR_S)
        os.utime(path, (at, at))
    return nothing


def clock_jumps(scene: Scene) -> Undo:
    """The clock of the process is a day to a year ahead or behind."""
    scene.clock_s = scene.rng.choice([-1, 1]) * scene.rng.uniform(86400.0, YEAR_S)

    def undo() -> None:
        scene.clock_s = 0.0

    return undo


# ================================ the disk ================================


def disk_full(scene: Scene) -> Undo | None:
    if scene.disk is None:
        return None
    filler, left = scene.disk / 'filler', scene.rng.randrange(100_000)
    with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        found = os.statvfs(scene.disk)
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - left, 1))
    return lambda: filler.unlink(missing_ok=True)


def inodes_used(scene: Scene) -> Undo | None:
    if scene.disk is None:
        return None
    (filler := scene.disk / 'files').mkdir(exist_ok=True)
    with contextlib.suppress(OSError):
        for i in range(os.statvfs(scene.disk).f_favail - scene.rng.randrange(30)):
            (filler / f'{scene.pid} {i}').touch()
    return lambda: shutil.rmtree(filler, ignore_errors=True)


def read_only(scene: Scene) -> Undo | None:
    """The kernel refuses it while a file is open for writing: then it is not possible."""
    command = ['mount', '-o', 'remount,ro', str(scene.disk)]
    if scene.disk is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    return lambda: subprocess.run(['mount', '-o', 'remount,rw', str(scene.disk)], check=True)


FAULTS = (
    Fault('SIGKILL at any time', 'kill', True, (-signal.SIGKILL,), send(signal.SIGKILL)),
    Fault('SIGKILL during a save', 'kill', True, (-signal.SIGKILL,), kill_in_save),
    # Before the handlers are there, a signal has its usual effect.
    *(
        Fault(name, 'signal', True, (42, -getattr(signal, name)), send(getattr(signal, name)))
        for name in ('SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2')
    ),
    Fault('SIGINT', 'signal', True, (42, 130), send(signal.SIGINT)),
    Fault('SIGINT twice', 'signal', True, (42, 130), interrupt_twice),
    Fault('SIGSTOP, then SIGCONT', 'signal', True, (), stop_and_go_on),
    Fault('bit flipped in a checkpoint', 'damage', False, (), flip_bit),
    Fault('file of a checkpoint truncated', 'damage', False, (), truncate),
    Fault('file of a checkpoint deleted', 'damage', False, (), delete_file),
    Fault('checkpoint emptied', 'damage', False, (), empty_folder),
    Fault('checkpoint renamed to a later step', 'damage', False, (), rename_to_later),
    Fault('older checkpoint copied over the newest', 'damage', False, (), older_copied_over),
    Fault('checkpoint of another run copied in', 'damage', False, (), checkpoint_of_another_run),
    Fault('unfinished checkpoint left', 'files', False, (), unfinished_checkpoint),
    Fault('foreign files', 'files', False, (), foreign_files),
    Fault('config.json deleted', 'files', False, (2,), delete_config),
    Fault('end of metrics.jsonl lost', 'files', False, (), tear_log),
    Fault('workdir deleted', 'files', True, (2,), delete_workdir),
    Fault('lock.json deleted', 'files', True, (2,), delete_lock),
    Fault('lock left by a crash', 'lock', False, (), lock_left),
    Fault('lock held by another process', 'lock', False, (6,), lock_held),
    Fault('second start at the same time', 'lock', True, (6,), second_start),
    Fault('times of files changed', 'clock', False, (), file_times),
    Fault('clock ahead or behind by up to a year', 'clock', False, (), clock_jumps),
    Fault('disk full at a start', 'disk', False, (5,), disk_full),
    Fault('disk full at any time', 'disk', True, (5,), disk_full),
    Fault('inodes used up at a start', 'disk', False, (5,), inodes_used),
    Fault('inodes used up at any time', 'disk', True, (5,), inodes_used),
    Fault('disk read-only at a start', 'disk', False, (2,), read_only),
    Fault('disk read-only at any time', 'disk', True, (2, 5), read_only),
)
