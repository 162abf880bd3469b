"""The sides of a comparison of `benchmarks.peers`, their CPU time, and the table of what was found."""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Spread


class Side(NamedTuple):
    """One side of a comparison.

    Attributes:
      call: does the work and returns when it is done.
      items: number of images, queries, ... of one call.
      remark: tells, after the measurement, what else was found.
    """

    call: Callable[[], Any]
    items: int
    remark: Callable[[], str] = lambda: ''


Makers = dict[str, Callable[[], Side]]  # name -> makes the side; ours comes first


@dataclasses.dataclass(frozen=True)
class Setting:
    """What rows are given.

    Attributes:
      folder: a folder for files, deleted at the end.
      photos: a folder of photos; None: rows that need one are left out.
      before: a checkout of an older version of this repository; None: it is not compared.
    """

    folder: Path
    photos: Path | None = None
    before: Path | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of work.

    Attributes:
      work: what is done.
      item: what its time is given for: an image, a query, ...
      goals: peer -> the smallest ratio that is wanted.
      make: makes the sides.
    """

    work: str
    item: str
    goals: Mapping[str, float]
    make: Callable[[Setting], Makers]


def measure(makers: Makers, windows: int) -> dict[str, Any]:
    """Times all sides in turn, window by window.

    A side whose package is not installed is left out, with a line that says so.

    Args:
      makers: see `Makers`.
      windows: how often each side is timed. Before the first window it runs once, which compiles.

    Returns:
      'ms': name -> CPU milliseconds per item, [windows]; 'remarks': name -> text.
    """
    sides: dict[str, Side] = {}
    for name, make in makers.items():
        try:
            side = make()
            side.call()
        except ModuleNotFoundError as error:
            print(f'{name} is left out: {error.name} is not installed', file=sys.stderr)
            continue
        sides[name] = side
    ms: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(windows):
        for name, side in sides.items():
            began = cpu_seconds()
            side.call()
            ms[name].append(1e3 * (cpu_seconds() - began) / side.items)
    remarks = {name: side.remark() for name, side in sides.items()}
    return {'ms': ms, 'remarks': {name: remark for name, remark in remarks.items() if remark}}


def cpu_seconds() -> float:
    """CPU seconds of all threads of this process, and of its child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The table, in Markdown.

    Args:
      found: the lines of the rows: 'work', 'item', 'goals' and what `measure` returned.
    """
    lines = [
        '| work | n | ours, CPU ms | peer | its CPU ms | peer / ours | goal | met |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in found:
        ours, *peers = row['ms']
        mine = np.array(row['ms'][ours])
        for peer in peers:
            its = np.array(row['ms'][peer])
            ratio, goal = Spread.of(its / mine), row['goals'].get(peer)
            met = '' if goal is None else 'yes' if ratio.median >= goal else 'no'
            cells = [
                f'{row["work"]}, {row["item"]}', str(len(mine)), bracket(Spread.of(mine), '.3g'), peer,
                bracket(Spread.of(its), '.3g'), bracket(ratio, '.2f'), '' if goal is None else f'{goal:g}', met,
            ]  # fmt: skip
            lines.append(f'| {" | ".join(cells)} |')
    for row in found:
        lines += [f'\n{row["work"]}, {name}: {remark}' for name, remark in row['remarks'].items()]
    return '\n'.join(lines)


def bracket(s: Spread, form: str) -> str:
    """The median, and the minimum and maximum in brackets."""
    return f'{s.median:{form}} [{s.low:{form}}, {s.high:{form}}]'
