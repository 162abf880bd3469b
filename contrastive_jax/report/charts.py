"""Line charts and scatter plots as inline SVG, whose colours are the page's CSS variables: right in the dark, too."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import EngFormatter, MaxNLocator

from contrastive_jax.plots.panels import Curve

COLOURS = 10  # --c0 to --c9 of the page
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24  # around the axes
SIDE = 460  # of a scatter plot
POINTS = 400  # of a line: more than a chart this wide can show


@dataclasses.dataclass(frozen=True)
class Chart:
    """A titled panel of curves over one x.

    Attributes:
      title: of the panel, with what its scale means.
      lines: in the order of their colours.
      percent: y is a fraction, shown in percent.
      low, high: the axis reaches at least so far; None: as far as the curves do.
    """

    title: str
    lines: Sequence[Curve]
    percent: bool = False
    low: float | None = None
    high: float | None = None

    def value(self, y: float) -> str:
        return 'none' if not math.isfinite(y) else f'{y:.1%}' if self.percent else f'{y:.4g}'

    @property
    def told(self) -> str:
        """The chart in words."""
        ends = []
        for line in self.lines:
            finite = [y for y in line.y if math.isfinite(y)]
            if finite:
                ends.append(f'{line.name} from {self.value(finite[0])} to {self.value(finite[-1])}')
        return f'{self.title}: {"; ".join(ends) or "nothing measured yet"}'

    @property
    def svg(self) -> Markup:
        """The chart. Texts are as large as the page's small ones where it is as wide as drawn."""
        heights = [y for line in self.lines for y in (*line.y, line.baseline) if y is not None and math.isfinite(y)]
        heights = [*heights, *(y for y in (self.low, self.high) if y is not None)] or [0.0, 1.0]
        places = [x for line in self.lines for x in line.x] or [0.0, 1.0]
        y_ticks = _ticks(heights, 4)
        frame = _Frame(min(places), max(places), min(y_ticks[0], *heights), max(y_ticks[-1], *heights))
        steps = EngFormatter(sep='')
        out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.told)}">']
        for y in y_ticks:
            label = f'{100 * y:.4g}%' if self.percent else _short(y)
            out.append(f'<path class="grid" d="{frame.across(y)}"/>')
            out.append(f'<text class="y" x="{LEFT - 6}" y="{frame.y(y) + 3.5:.1f}">{label}</text>')
        for x in _ticks(places, 5, integer=True):
            if frame.left <= x <= frame.right:
                out.append(f'<text class="x" x="{frame.x(x):.1f}" y="{HEIGHT - 7}">{steps(x)}</text>')
        for i, line in enumerate(self.lines):
            colour = f'style="stroke:var(--c{i % COLOURS})"'
            if line.baseline is not None and math.isfinite(line.baseline):
                out.append(f'<path class="base" {colour} d="{frame.across(line.baseline)}"/>')
            points = list(zip(*thinned(line.x, line.y), strict=True))
            out.append(f'<path class="line" {colour} d="{frame.along(points)}"/>')
            if len(points) <= 25:  # one point alone would be invisible
                dots = ''.join(f'M{frame.at(*point)}h0' for point in points if math.isfinite(point[1]))
                out.append(f'<path class="dots" {colour} d="{dots}"/>')
        return Markup(''.join([*out, '</svg>']))


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Where numbers lie in a chart whose axes go from left to right and from low to high."""

    left: float
    right: float
    low: float
    high: float

    def x(self, x: float) -> float:
        part = (x - self.left) / (self.right - self.left) if self.right > self.left else 0.5
        return LEFT + (WIDTH - LEFT - RIGHT) * part

    def y(self, y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - y) / (self.high - self.low)

    def at(self, x: float, y: float) -> str:
        return f'{self.x(x):.1f} {self.y(y):.1f}'

    def across(self, y: float) -> str:
        """A path at this height."""
        return f'M{LEFT} {self.y(y):.1f}H{WIDTH - RIGHT}'

    def along(self, points: Sequence[tuple[float, float]]) -> str:
        """A path through the points, lifted where one is not finite."""
        path, pen = [], 'M'
        for x, y in points:
            if math.isfinite(y):
                path.append(f'{pen}{self.at(x, y)}')
            pen = 'L' if math.isfinite(y) else 'M'
        return ''.join(path)


@dataclasses.dataclass(frozen=True)
class Group:
    """Points that belong together.

    Attributes:
      name: of the class; empty: no label is drawn.
      colour: number of the colour; None: the quiet one.
      points: [n, 2].
    """

    name: str
    colour: int | None
    points: np.ndarray


def scatter(groups: Sequence[Group], told: str) -> Markup:
    """A map of points; the name of a group stands where its points are, so that colour is not all that tells."""
    everything = np.concatenate([group.points for group in groups]) if groups else np.zeros((0, 2))
    everything = everything[np.isfinite(everything).all(1)]
    low, high = (everything.min(0), everything.max(0)) if len(everything) else (np.zeros(2), np.ones(2))
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-12)
    room = SIDE / 2 - 14

    def place(points: np.ndarray) -> np.ndarray:
        return SIDE / 2 + (points - middle) / half * room * np.array([1, -1])

    out = [f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(told)}">']
    names = []
    for group in groups:
        points = place(group.points[np.isfinite(group.points).all(1)])
        colour = 'var(--dim)' if group.colour is None else f'var(--c{group.colour % COLOURS})'
        dots = ''.join(f'M{x:.1f} {y:.1f}h0' for x, y in points.tolist())
        title = f'<title>{escape(group.name)}</title>' if group.name else ''
        out.append(f'<path class="points" style="stroke:{colour}" d="{dots}">{title}</path>')
        if group.name and group.colour is not None and len(points):
            centre = np.median(points, axis=0)
            x, y = points[np.argmin(((points - centre) ** 2).sum(1))]  # on a point of its own, not between two heaps
            short = group.name if len(group.name) <= 14 else group.name[:13] + '…'
            names.append(f'<text class="name" x="{x:.1f}" y="{y + 4:.1f}">{escape(short)}</text>')
    return Markup(''.join([*out, *names, '</svg>']))


def thinned(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> tuple[Sequence[float], Sequence[float]]:
    """At most about `most` points of a curve: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(x) <= most:
        return x, y
    kept: list[int] = []
    for part in np.array_split(np.arange(len(x)), most // 2):
        values = np.array([y[i] for i in part], np.float64)
        if np.isfinite(values).any():
            kept += sorted({int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])})
        else:
            kept.append(int(part[0]))
    kept = sorted({0, *kept, len(x) - 1})
    return [x[i] for i in kept], [y[i] for i in kept]


def _ticks(values: Sequence[float], count: int, integer: bool = False) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if integer or low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    return [float(x) for x in MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _short(y: float) -> str:
    """A number that fits beside an axis."""
    return EngFormatter(sep='')(y) if abs(y) >= 1000 else f'{y:.3g}'
