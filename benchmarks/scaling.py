"""How the input scales: images/s from photos to two crops on one and more cores, with threads, workers and processes.

    python -m benchmarks.scaling FOLDER [--windows 5] [--batches 16]

FOLDER holds photos, as `config.data.path` of the source `folder`. Each side is one process or several, which read with
the loader of a run and are bound to their cores. They stay, and read in turn, a window each: other work on the machine
affects all sides alike. A window is timed after the first batches, while the loader reads on ahead.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.measure import Spread
from contrastive_jax.data.loader import train_batches
from contrastive_jax.data.open import open_source
from contrastive_jax.data.sources import Subset

BATCH, SIZE, SCALE = 64, 224, (0.2, 1.0)
FIRST = 8  # batches before a window is timed: then the buffers of workers are as full as at its end


@dataclasses.dataclass(frozen=True)
class Reader:
    """What one process of a side does.

    Attributes:
      cores: the cores that it is bound to.
      workers: its processes for reading; 0: threads.
      index, count: which part of a batch it reads, as one of several hosts.
    """

    cores: tuple[int, ...]
    workers: int = 0
    index: int = 0
    count: int = 1


def sides_of(cores: Sequence[int]) -> dict[str, tuple[Reader, ...]]:
    """The sides for the cores that may be used: one core and all of them, in three forms.

    Args:
      cores: their numbers.
    """
    n, every = len(cores), tuple(cores)
    sides: dict[str, tuple[Reader, ...]] = {'one core, threads': (Reader(every[:1]),)}
    if n > 1:
        sides |= {
            f'{n} cores, threads': (Reader(every),),
            f'{n} cores, {n} workers': (Reader(every, workers=n),),
            f'{n} processes, each with one core': tuple(Reader((c,), index=i, count=n) for i, c in enumerate(every)),
        }
    return sides


def read(folder: str, batches: int, reader: Reader) -> None:
    """A process of a side: for each line of its input it reads a window, and prints its images/s."""
    os.sched_setaffinity(0, reader.cores)
    photos = open_source('folder', path=folder, split='all')
    source = Subset(photos, np.arange(max(len(photos), BATCH)) % len(photos))
    print('ready', flush=True)
    for _ in sys.stdin:
        found = train_batches(
            source, seed=0, batch_size=BATCH, image_size=SIZE, num_views=2, crop_scale=SCALE, stop_step=10**6,
            num_workers=reader.workers, process_index=reader.index, process_count=reader.count,
        )  # fmt: skip
        for _ in range(FIRST):
            next(found)
        began = time.perf_counter()
        for _ in range(batches):
            next(found)
        print(batches * BATCH / reader.count / (time.perf_counter() - began), flush=True)
        found.close()  # type: ignore[attr-defined]


def measure(folder: str, windows: int, batches: int, cores: Sequence[int]) -> dict[str, list[float]]:
    """Images/s of each side in each window.

    Args:
      folder: the photos.
      windows: the number of windows.
      batches: batches of a window.
      cores: the cores that may be used.
    """
    sides = sides_of(cores)
    started = {name: [_start(folder, batches, reader) for reader in side] for name, side in sides.items()}
    everyone = [process for side in started.values() for process in side]
    try:
        for process in everyone:
            _line(process)  # it is ready
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(windows):
            for name, side in started.items():
                for process in side:
                    process.stdin.write('\n')
                    process.stdin.flush()
                rates[name].append(sum(float(_line(process)) for process in side))
    finally:
        for process in everyone:
            process.communicate()  # its input ends, and with it the process and its workers
    return rates


def _start(folder: str, batches: int, reader: Reader) -> Any:
    command = [sys.executable, '-m', 'benchmarks.scaling', folder, '--batches', str(batches)]
    command += ['--reader', json.dumps(dataclasses.asdict(reader))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: Any) -> str:
    line = process.stdout.readline()
    if not line:
        raise SystemExit('a reader has failed, see above')
    return str(line)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument('folder')
    parser.add_argument('--windows', type=int, default=5)
    parser.add_argument('--batches', type=int, default=16, help=f'batches of {BATCH} images in a window')
    parser.add_argument('--reader', help=argparse.SUPPRESS)  # this process is one of a side
    given = parser.parse_args(argv)
    if given.reader:
        fields = json.loads(given.reader)
        return read(given.folder, given.batches, Reader(**{**fields, 'cores': tuple(fields['cores'])}))
    cores = sorted(os.sched_getaffinity(0))
    rates = measure(given.folder, given.windows, given.batches, cores)
    print(f'batch {BATCH}, two crops of {SIZE} pixels, n = {given.windows} windows; median [minimum, maximum]\n')
    print('| | images/s | / one core |\n|---|---|---|')
    (_, one), *_ = rates.items()
    for name, found in rates.items():
        of, ratio = Spread.of(found), Spread.of(np.array(found) / np.array(one))
        print(
            f'| {name} | {of.median:.0f} [{of.low:.0f}, {of.high:.0f}]'
            f' | {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] |'
        )
    return None


if __name__ == '__main__':
    main()
