"""Injects faults of all kinds into a run, and compares the weights that it ends with.

python -m benchmarks.chaos [--faults 1000] [--minutes 60] [--seed 0]

A run of a tiny MoCo is started again and again until it is complete. Before a start, and while it works, faults of
`faults.py` are drawn and injected. After each end the exit code must be one that the faults explain, and no traceback
may be shown. At the end of a run, the hash of all values of the last checkpoint (weights, target, queue, optimizer)
must be that of a run without faults, and its log must have the same lines. Then the next run begins, until so many
faults have been injected.

Every start is a process of its own, which is forked from one that has imported everything, but has no threads and has
not used jax: a start takes 2 CPU seconds instead of 8. It runs the whole command `train`. Faults of the disk need a
small disk, which only root can mount; otherwise they are left out.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

os.environ['OPENBLAS_NUM_THREADS'] = '1'  # at import it would start threads, and a process with threads is not forked
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax
import numpy as np
import sklearn.datasets  # noqa: F401 (imported here, once, instead of in each start)

from benchmarks.faults import FAULTS, Fault, Scene
from contrastive_jax import main as train
from contrastive_jax.training import fit  # noqa: F401 (as above)
from contrastive_jax.workdir import lock, reading
from contrastive_jax.workdir.described import FOLDER, ITEM
from contrastive_jax.workdir.metrics import FILE as METRICS

STEPS = 60
LIMIT_S = 240.0  # a start that takes longer hangs
DISK_BYTES, DISK_FILES = 48_000_000, 20_000
FIELDS = {
    'steps': STEPS, 'log_every_steps': 4, 'checkpoint_every_steps': 3, 'eval_every_steps': 0, 'eval.evaluators': '()',
    'encoder.stage_sizes': '(1,)', 'augment.jitter_probability': 0.0, 'augment.grayscale': 0.0,
    'augment.blur': '(0.0,0.0)',
}  # fmt: skip


class Lives:
    """Starts the command, each time in a process of its own.

    Args:
      said: the file that gets what the processes print.
    """

    def __init__(self, said: Path):
        self.said = said

    def start(self, workdir: Path, clock_s: float = 0.0) -> int:
        """Starts the command on a workdir; returns the process id."""
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        code = 1
        try:
            self.listen()
            now = time.time
            with mock.patch('time.time', lambda: now() + clock_s) if clock_s else contextlib.nullcontext():
                given = [f'--config.{name}={value}' for name, value in FIELDS.items()]
                code = train.main(['--config=mocov2:tiny', f'--workdir={workdir}', *given])
        except KeyboardInterrupt:  # before the run heeds signals
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def listen(self) -> None:
        """Lets this process print to the file."""
        out = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)

    def wait(self, pid: int) -> int:
        """Waits for the end of a process; returns its exit code, or minus the number of the signal that ended it."""
        end = time.monotonic() + LIMIT_S
        while (code := ended(pid)) is None:
            if time.monotonic() > end:
                raise AssertionError(f'process {pid} still runs after {LIMIT_S:.0f} s:\n{self.last_lines()}')
            time.sleep(0.005)
        return code

    def last_lines(self) -> str:
        """The end of what the processes have printed."""
        return '\n'.join(self.said.read_text(encoding='utf-8', errors='replace').splitlines()[-30:])


def ended(pid: int) -> int | None:
    """The exit code of a process that has ended; None while it works."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def digest(workdir: Path, into: int) -> None:
    """Writes the hash of all values of the last checkpoint to a descriptor. Every checkpoint there must be good."""
    import orbax.checkpoint as ocp

    bad = {step: reason for step, reason in reading.verify(workdir).items() if reason}
    assert not bad, bad
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore((workdir / FOLDER / str(STEPS) / ITEM).absolute())
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        x = np.asarray(leaf)
        sha.update(f'{jax.tree_util.keystr(path)} {x.dtype}{x.shape}'.encode() + x.tobytes())
    os.write(into, sha.hexdigest().encode())


def digest_of(workdir: Path, lives: Lives) -> str:
    """The hash of all values of the last checkpoint, computed in a process of its own."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            lives.listen()
            digest(workdir, write)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with open(read, encoding='ascii') as file:
        found = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, lives.last_lines()
    return found


def log_of(workdir: Path) -> list[dict[str, float]]:
    """The lines of the log, without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / METRICS).read_text(encoding='utf-8').splitlines()]
    return [{name: x for name, x in line.items() if name != 'images_per_second'} for line in lines]


class Chaos:
    """Runs with faults, compared with one without.

    Args:
      folder: an empty folder for everything.
      disk: the small disk; None where none can be mounted.
      seed: the seed of what is left to chance.
      end: when no more faults are injected, by the monotonic clock.
    """

    def __init__(self, folder: Path, disk: Path | None, seed: int, end: float):
        self.end = end
        self.disk, self.rng, self.lives = disk, random.Random(seed), Lives(folder / 'said.txt')
        self.place = disk or folder
        self.other = folder / 'undisturbed'
        assert self.lives.wait(self.lives.start(self.other)) == 0, self.lives.last_lines()
        began = time.monotonic()  # again, with the programs compiled
        shutil.rmtree(self.other)
        assert self.lives.wait(self.lives.start(self.other)) == 0, self.lives.last_lines()
        self.span_s = time.monotonic() - began
        self.expected, self.log = digest_of(self.other, self.lives), log_of(self.other)
        (self.other / lock.FILE).write_text(json.dumps(self.lock_of_a_killed_process(folder / 'killed')))
        self.outcomes: dict[str, collections.Counter[int]] = {fault.name: collections.Counter() for fault in FAULTS}
        self.starts = self.runs = 0

    def lock_of_a_killed_process(self, workdir: Path) -> dict[str, object]:
        pid = self.lives.start(workdir)
        while not (workdir / lock.FILE).exists():
            time.sleep(0.001)
        os.kill(pid, 9)
        self.lives.wait(pid)
        return dict(json.loads((workdir / lock.FILE).read_text(encoding='utf-8')))

    def run(self, faults: int) -> int:
        """Trains once to the end, with faults until so many have been injected; returns their number."""
        workdir, injected = self.place / f'run{self.runs}', 0
        start = lambda: self.lives.start(workdir)  # noqa: E731
        scene = Scene(workdir, self.disk, self.other, self.rng, start, self.lives.wait)
        while True:
            more = injected < faults and time.monotonic() < self.end
            count, code = self.life(scene, self.draw() if more else [])
            injected += count
            if code == 0 and not scene.deleted:
                break
            scene.deleted = False  # if it was, the next start begins anew
        assert digest_of(workdir, self.lives) == self.expected, f'{workdir} ends with other values'
        log = log_of(workdir)
        steps = [line['step'] for line in log]
        assert all(line in self.log for line in log) and len(set(steps)) == len(steps), f'{workdir} has another log'
        assert scene.log_is_torn or log == self.log, f'{workdir} has another log'
        shutil.rmtree(workdir)
        self.runs += 1
        return injected

    def draw(self) -> list[tuple[str, bool]]:
        """Groups of faults for the next start, some before it and perhaps one while it works (True)."""
        groups = [sorted({fault.group for fault in FAULTS if fault.during == during}) for during in (False, True)]
        chosen = [(group, False) for group in self.rng.sample(groups[0], self.rng.choice([0, 1, 1, 2]))]
        chosen.sort(key=lambda x: x[0] == 'disk')  # last: on a full disk no other fault is possible
        return chosen + (
            [(self.rng.choice([*groups[1], 'kill', 'kill', 'signal']), True)] if self.rng.random() < 0.95 else []
        )

    def inject(self, scene: Scene, group: str, during: bool, undone: contextlib.ExitStack) -> list[Fault]:
        """Injects a fault of a group, one that is possible now; returns it, if there is one."""
        kinds = [fault for fault in FAULTS if (fault.group, fault.during) == (group, during)]
        for fault in self.rng.sample(kinds, len(kinds)):
            with contextlib.suppress(OSError):  # the disk is full or read-only
                if undo := fault.inject(scene):
                    undone.callback(undo)
                    return [fault]
        return []

    def life(self, scene: Scene, drawn: Sequence[tuple[str, bool]]) -> tuple[int, int]:
        """One start with faults of these groups: how many could be injected, and the exit code."""
        before, injected = self.lives.said.stat().st_size, list[Fault]()
        with contextlib.ExitStack() as undone:
            for group, during in drawn:
                if not during:
                    injected += self.inject(scene, group, during, undone)
            self.starts += 1
            scene.codes = {0, 6}.union(*(fault.codes for fault in injected))
            scene.pid = self.lives.start(scene.workdir, scene.clock_s)
            code = None
            for group, during in drawn:
                if during:
                    end = time.monotonic() + self.rng.uniform(0, self.span_s)
                    while time.monotonic() < end and (code := ended(scene.pid)) is None:
                        time.sleep(0.002)
                    if code is None:
                        injected += self.inject(scene, group, during, undone)
            return self.judged(injected, self.lives.wait(scene.pid) if code is None else code, before)

    def judged(self, injected: Sequence[Fault], code: int, before: int) -> tuple[int, int]:
        """Checks the exit code and what was said, and counts."""
        with self.lives.said.open('rb') as file:
            file.seek(before)
            said = file.read().decode(errors='replace')
        names = [fault.name for fault in injected]
        explained = {0}.union(*(fault.codes for fault in injected))
        assert code in explained, f'exit code {code} after {names or "no fault"}:\n{said}'
        # When a write fails, Orbax closes its event loop, and TensorStore's threads print that it is closed.
        ours = [line for line in said.splitlines() if line.startswith('  File ') and '/contrastive_jax/' in line]
        assert not ours or code == 130, f'a traceback after {names}:\n{said}'
        for name in names:
            self.outcomes[name][code] += 1
        return len(names), code

    def table(self) -> str:
        """How often each fault was injected, and with which exit codes the starts ended into which it was."""
        rows = ['| fault | n | exit codes |', '|---|---|---|']
        for name, counted in self.outcomes.items():
            codes = ', '.join(f'{code}: {n}' for code, n in counted.most_common())
            rows += [f'| {name} | {counted.total()} | {codes} |'] if counted else []
        return '\n'.join(rows)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path | None]:
    """A small disk in memory at a new folder; None where it cannot be mounted."""
    folder.mkdir()
    options = f'size={DISK_BYTES},nr_inodes={DISK_FILES}'
    command = ['mount', '-t', 'tmpfs', '-o', options, 'small', str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    try:
        yield folder if done else None
    finally:
        if done:
            subprocess.run(['umount', '-l', str(folder)], check=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Injects, and prints a table: how often each fault was injected, and with which exit codes the run ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--faults', type=int, default=1000, help='number of faults')
    parser.add_argument('--minutes', type=float, default=600.0, help='no more faults after this time')
    parser.add_argument('--seed', type=int, default=0, help='of the faults and their times')
    args = parser.parse_args(argv)
    if args.faults < 1:
        parser.error(f'--faults {args.faults} -> give at least 1')
    assert len(os.listdir('/proc/self/task')) == 1, 'a process with threads cannot be forked safely'
    began, injected = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name, mounted(Path(name) / 'disk') as disk:
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{name}/compiled')
        jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
        chaos = Chaos(Path(name), disk, args.seed, began + 60 * args.minutes)
        print(f'undisturbed: {chaos.expected[:16]}, {chaos.span_s:.1f} s', flush=True)
        try:
            while injected < args.faults and time.monotonic() < chaos.end:
                injected += chaos.run(args.faults - injected)
                print(f'run {chaos.runs}: same values and log; {injected} faults, {chaos.starts} starts', flush=True)
        finally:
            print(chaos.table(), flush=True)
        said = chaos.lives.said.read_text(encoding='utf-8', errors='replace')
    kills = sum(counter[-9] for counter in chaos.outcomes.values())
    aside, taken = said.count('set aside as'), said.count('workdir taken over')
    print(
        f'\n{injected} faults in {chaos.starts} starts, {kills} of them by SIGKILL; {aside} checkpoints set aside, '
        f'{taken} locks taken over; {chaos.runs} runs of {STEPS} steps, all with the values and the log of the '
        f'undisturbed one; {(time.monotonic() - began) / 60:.0f} minutes'
    )


if __name__ == '__main__':
    main()
