"""What `benchmarks.curves` says about its runs: which are missing, the verdict of each method, a table, a picture.

A run is a line of JSON, an object with 'method', 'side' ('ours' or 'torch'), 'seed', 'size' and 'points', a list of
{'images': images seen, 'knn': accuracy, 'probe': accuracy}; the first point is the untrained encoder.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy import stats

from contrastive_jax.errors import UserError
from contrastive_jax.plots.figures import BLUE, ORANGE, STYLE, save

SIDES = ('ours', 'torch')
METRICS = ('knn', 'probe')
LEVEL = 0.95  # of the interval of a difference
Run = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The accuracies of two sides, in percent.

    Attributes:
      ours, theirs: mean and standard deviation of the seeds.
      difference: our mean minus theirs.
      margin: half of the interval of the difference (Welch); NaN with fewer than two seeds on a side.
    """

    ours: tuple[float, float]
    theirs: tuple[float, float]
    difference: float
    margin: float

    @property
    def verdict(self) -> str:
        """Whether ours is below or above beyond the spread of the seeds."""
        if math.isnan(self.margin):
            return 'too few seeds'
        if abs(self.difference) <= self.margin:
            return 'no difference'
        return 'ours is below' if self.difference < 0 else 'ours is above'


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Compares the accuracies of the seeds of two sides by Welch's t interval, which allows different variances.

    Args:
      ours, theirs: accuracies in [0, 1], at least one a side.
    """
    a, b = 100 * np.asarray(ours, np.float64), 100 * np.asarray(theirs, np.float64)
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Comparison((float(a.mean()), math.nan), (float(b.mean()), math.nan), difference, math.nan)
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)) if u + v else 1.0
    margin = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(u + v))
    return Comparison(
        (float(a.mean()), float(a.std(ddof=1))), (float(b.mean()), float(b.std(ddof=1))), difference, margin
    )


def read(file: Path) -> list[dict[str, Any]]:
    """The runs in a file; [] without it. An incomplete last line, of a run that was killed, is left out.

    Raises:
      UserError: another line is not JSON.
    """
    lines = file.read_text(encoding='utf-8').splitlines() if file.exists() else []
    runs = []
    for number, line in enumerate(lines, 1):
        try:
            runs.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f'line {number} of {file} is not JSON', remedy='delete the line') from error
    return runs


def append(run: Run, file: Path) -> None:
    """Adds a run to a file, on a line of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(encoding='utf-8') if file.exists() else ''
    if not text.endswith('\n'):
        file.write_text(text[: text.rfind('\n') + 1], encoding='utf-8')  # without the incomplete line
    with file.open('a', encoding='utf-8') as stream:
        stream.write(json.dumps(run) + '\n')


def missing(
    runs: Iterable[Run], methods: Sequence[str], sides: Sequence[str], seeds: Sequence[int], size: Mapping[str, int]
) -> list[tuple[str, str, int]]:
    """The (method, side, seed) without a run of this size, method by method, seed by seed."""
    done = {(run['method'], run['side'], run['seed']) for run in runs if run['size'] == size}
    wanted = [(method, side, seed) for method, seed, side in itertools.product(methods, seeds, sides)]
    return [each for each in wanted if each not in done]


def accuracies(runs: Iterable[Run], method: str, side: str, metric: str) -> dict[int, list[float]]:
    """Images seen -> the accuracy of each seed, in the order of the images."""
    found: dict[int, list[float]] = {}
    for run in runs:
        if (run['method'], run['side']) == (method, side):
            for point in run['points']:
                found.setdefault(point['images'], []).append(point[metric])
    return dict(sorted(found.items()))


def methods_of(runs: Iterable[Run]) -> list[str]:
    """The methods with runs on both sides, in the order of the runs."""
    sides: dict[str, set[str]] = {}
    for run in runs:
        sides.setdefault(run['method'], set()).add(run['side'])
    return [method for method, found in sides.items() if found == set(SIDES)]


def table(runs: Sequence[Run]) -> str:
    """A Markdown table: for each method and metric the accuracies at the end, their difference and the verdict."""
    rows = [
        '| method | | untrained (ours, torch) | ours | torch | difference | verdict |',
        '|---|---|---|---|---|---|---|',
    ]
    for method, metric in itertools.product(methods_of(runs), METRICS):
        ours, theirs = (accuracies(runs, method, side, metric) for side in SIDES)
        first, last = min(ours), max(set(ours) & set(theirs))
        start = ', '.join(f'{100 * np.mean(each[first]):.1f}' for each in (ours, theirs))
        found = compare(ours[last], theirs[last])
        cells = [f'{mean:.1f} ± {deviation:.1f}' for mean, deviation in (found.ours, found.theirs)]
        name = f'{method} (n = {len(ours[last])}, {len(theirs[last])})' if metric == METRICS[0] else ''
        difference = f'{found.difference:+.1f} ± {found.margin:.1f}'
        rows.append(f'| {name} | {metric} | {start} | {cells[0]} | {cells[1]} | {difference} | {found.verdict} |')
    return '\n'.join(rows)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws the curves: a row for each metric, a column for each method; lines are means, bands the range of seeds.

    Args:
      runs: the runs.
      path: the PNG to write.
    """
    methods = methods_of(runs)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * max(len(methods), 1), 4.6), layout=ConstrainedLayoutEngine())
        grid = figure.subplots(len(METRICS), max(len(methods), 1), squeeze=False, sharex=True)
        for (row, metric), (column, method) in itertools.product(enumerate(METRICS), enumerate(methods)):
            axes: Axes = grid[row, column]
            for side, color in zip(SIDES, (BLUE, ORANGE), strict=True):
                found = accuracies(runs, method, side, metric)
                images, values = list(found), [100 * np.asarray(each) for each in found.values()]
                axes.plot(images, [each.mean() for each in values], color=color, label=side)
                low, high = ([f(each) for each in values] for f in (np.min, np.max))
                axes.fill_between(images, low, high, color=color, alpha=0.2, linewidth=0)
            axes.set_title(method if row == 0 else '')
            axes.set_ylabel(f'{metric} (%)' if column == 0 else '')
            axes.set_xlabel('images seen' if row else '')
        if methods:
            grid[0, 0].legend()
        save(figure, path)
