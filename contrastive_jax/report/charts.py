"""Line charts and scatter plots as inline SVG. Colors are CSS variables of the page, for its light and dark theme."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import EngFormatter, MaxNLocator

from contrastive_jax.plots.panels import Curve

COLORS = 10  # CSS variables --c0 to --c9 of the page
WIDTH, HEIGHT = 340, 190  # of a line chart
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24  # margins around the axes of a line chart
SIDE = 460  # width and height of a scatter plot
POINTS = 400  # the largest number of points of a curve; the width of a chart cannot show more


@dataclasses.dataclass(frozen=True)
class Chart:
    """A line chart with a title.

    Attributes:
      title: the title, with the meaning of the scale.
      lines: the curves, in the order of their colors.
      percent: whether values are fractions and are shown in percent.
      low, high: the y axis includes these values; None: it ends where the curves do.
      scale: what a good value is and what is a sign of collapse, in words.
    """

    title: str
    lines: Sequence[Curve]
    percent: bool = False
    low: float | None = None
    high: float | None = None
    scale: str = ''

    def value(self, y: float) -> str:
        """A value as text."""
        return 'none' if not math.isfinite(y) else f'{y:.1%}' if self.percent else f'{y:.4g}'

    @property
    def description(self) -> str:
        """The chart in words, for screen readers."""
        ends = []
        for line in self.lines:
            finite = [y for y in line.y if math.isfinite(y)]
            if finite:
                ends.append(f'{line.name} from {self.value(finite[0])} to {self.value(finite[-1])}')
        return f'{self.title}: {"; ".join(ends) or "nothing measured yet"}'

    @property
    def svg(self) -> Markup:
        """The chart as SVG."""
        ys = [y for line in self.lines for y in (*line.y, line.baseline) if y is not None and math.isfinite(y)]
        ys = [*ys, *(y for y in (self.low, self.high) if y is not None)] or [0.0, 1.0]
        xs = [x for line in self.lines for x in line.x] or [0.0, 1.0]
        y_ticks = _ticks(ys, 4)
        if self.percent:  # a fraction lies between 0 and 1, also where there is one value only
            inside = [y for y in y_ticks if -1e-9 <= y <= 1 + 1e-9]
            y_ticks = inside if len(inside) > 1 else [0.0, 1.0]
        axes = _Axes(min(xs), max(xs), min(y_ticks[0], *ys), max(y_ticks[-1], *ys))
        steps = EngFormatter(sep='')
        out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.description)}">']
        for y in y_ticks:
            label = f'{100 * y:.4g}%' if self.percent else _short(y)
            out.append(f'<path class="grid" d="{axes.horizontal(y)}"/>')
            out.append(f'<text class="y" x="{LEFT - 6}" y="{axes.y(y) + 3.5:.1f}">{label}</text>')
        for x in _ticks(xs, 5, integer=True):
            if axes.left <= x <= axes.right:
                out.append(f'<text class="x" x="{axes.x(x):.1f}" y="{HEIGHT - 7}">{steps(x)}</text>')
        for i, line in enumerate(self.lines):
            color = f'style="stroke:var(--c{i % COLORS})"'
            if line.baseline is not None and math.isfinite(line.baseline):
                out.append(f'<path class="base" {color} d="{axes.horizontal(line.baseline)}"/>')
            points = list(zip(*thinned(line.x, line.y), strict=True))
            out.append(f'<path class="line" {color} d="{axes.path(points)}"/>')
            if len(points) <= 25:  # a line through a single point would be invisible
                dots = ''.join(f'M{axes.at(*point)}h0' for point in points if math.isfinite(point[1]))
                out.append(f'<path class="dots" {color} d="{dots}"/>')
        return Markup(''.join([*out, '</svg>']))


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Maps numbers to pixels of a line chart: x from left to right, y from low to high."""

    left: float
    right: float
    low: float
    high: float

    def x(self, x: float) -> float:
        fraction = (x - self.left) / (self.right - self.left) if self.right > self.left else 0.5
        return LEFT + (WIDTH - LEFT - RIGHT) * fraction

    def y(self, y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - y) / (self.high - self.low)

    def at(self, x: float, y: float) -> str:
        return f'{self.x(x):.1f} {self.y(y):.1f}'

    def horizontal(self, y: float) -> str:
        """A horizontal line at y."""
        return f'M{LEFT} {self.y(y):.1f}H{WIDTH - RIGHT}'

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """A path through the points, with a gap where y is not finite."""
        path, command = [], 'M'
        for x, y in points:
            if math.isfinite(y):
                path.append(f'{command}{self.at(x, y)}')
            command = 'L' if math.isfinite(y) else 'M'
        return ''.join(path)


@dataclasses.dataclass(frozen=True)
class Group:
    """Points of one color in a scatter plot.

    Attributes:
      name: the name of the class; '': no label is drawn.
      color: index of the color; None: gray.
      points: [n, 2].
    """

    name: str
    color: int | None
    points: np.ndarray


def scatter(groups: Sequence[Group], description: str) -> Markup:
    """A scatter plot as SVG. The name of a group is drawn at its points, so that it is readable without colors.

    Args:
      groups: points by color; those that are not finite are left out.
      description: the plot in words, for screen readers.
    """
    points = np.concatenate([group.points for group in groups]) if groups else np.zeros((0, 2))
    points = points[np.isfinite(points).all(1)]
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.ones(2))
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-12)
    radius = SIDE / 2 - 14

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return SIDE / 2 + (points - middle) / half * radius * np.array([1, -1])

    out = [f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(description)}">']
    names = []
    for group in groups:
        points = to_pixels(group.points[np.isfinite(group.points).all(1)])
        color = 'var(--dim)' if group.color is None else f'var(--c{group.color % COLORS})'
        dots = ''.join(f'M{x:.1f} {y:.1f}h0' for x, y in points.tolist())
        title = f'<title>{escape(group.name)}</title>' if group.name else ''
        out.append(f'<path class="points" style="stroke:{color}" d="{dots}">{title}</path>')
        if group.name and group.color is not None and len(points):
            center = np.median(points, axis=0)
            x, y = points[np.argmin(((points - center) ** 2).sum(1))]  # the center may lie between two clusters
            short = group.name if len(group.name) <= 14 else group.name[:13] + '…'
            names.append(f'<text class="name" x="{x:.1f}" y="{y + 4:.1f}">{escape(short)}</text>')
    return Markup(''.join([*out, *names, '</svg>']))


def thinned(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> tuple[Sequence[float], Sequence[float]]:
    """Reduces a curve to about `most` points: the lowest and the highest of each interval, so that spikes remain."""
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
    """A number as short text for the y axis."""
    return EngFormatter(sep='')(y) if abs(y) >= 1000 else f'{y:.3g}'
