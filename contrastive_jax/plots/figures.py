"""Draws the pictures in a workdir: learning curves, augmented views, nearest neighbors, a comparison of methods.

Each function writes one PNG atomically. It uses matplotlib's object interface, not pyplot, so there is no global state
and no window. Small images are enlarged without interpolation.
"""

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from contrastive_jax.evaluate.verdict import UNTRAINED
from contrastive_jax.plots.panels import LARGE, SMALL, Curve, History, Panel, curves_of
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

Path = str | os.PathLike[str]

STYLE: Any = {
    'font.family': 'DejaVu Sans',  # part of matplotlib, so pictures look the same on every machine
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': '#888888',
    'axes.grid': True,
    'grid.color': '#e6e6e6',
    'grid.linewidth': 0.8,
    'xtick.color': '#444444',
    'ytick.color': '#444444',
    'legend.frameon': False,
    'legend.fontsize': 8,
    'lines.linewidth': 1.6,
    'text.parse_math': False,  # a class may be called '$1'
}
BLUE, ORANGE, GREEN, RED, GRAY = '#3465a4', '#e07b00', '#1a8a3a', '#c62828', '#777777'
DPI = 150
CELL = 1.15  # side of an image in a grid, in inches
GAP = 0.08  # between images, in inches
CAPTION = 16  # characters that fit below an image
CAPTION_HEIGHT, LINE_HEIGHT = 0.25, 0.15  # in inches

SMALL_COLUMNS = 3  # small panels in a row


def curves(history: History, path: Path, first: str = UNTRAINED) -> None:
    """Draws the learning curves: loss and accuracies in large panels, below them a small panel for each other signal.

    Panels without a measured metric are left out.

    Args:
      history: the lines of metrics.jsonl, as for `panels.curves_of`.
      path: the PNG to write.
      first: what the encoder had at step 0, see `evaluate.verdict.first_weights`.
    """
    large, small = (
        [(panel, found) for panel in given if (found := curves_of(panel, history))] for given in (LARGE, SMALL)
    )
    large = large or [(LARGE[0], [])]  # nothing was measured yet: an empty panel
    rows = math.ceil(len(small) / SMALL_COLUMNS)
    with mpl.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(10, 3.6 + 2 * rows), layout=layout)
        # Six columns: two or three panels a row.
        grid = figure.add_gridspec(1 + rows, 6, height_ratios=[3.6] + [2] * rows)
        width = 6 // len(large)
        for i, (panel, found) in enumerate(large):
            _panel(figure.add_subplot(grid[0, i * width : (i + 1) * width]), panel, found, first)
        width = 6 // SMALL_COLUMNS
        for i, (panel, found) in enumerate(small):
            row, column = divmod(i, SMALL_COLUMNS)
            _panel(figure.add_subplot(grid[1 + row, column * width : (column + 1) * width]), panel, found, first)
        save(figure, path)


def _panel(axes: Axes, panel: Panel, found: Sequence[Curve], first: str) -> None:
    for curve, color in zip(found, (BLUE, ORANGE, GREEN, RED), strict=False):
        axes.plot(
            curve.x,
            curve.y,
            color=color,
            label=f'{curve.name} {curve.last:.1%}' if panel.percent else curve.name,
            linewidth=1.6 if len(curve.x) <= 200 else 1.0,
            marker='o' if len(curve.x) <= 25 else None,  # a line through a single point would be invisible
            markersize=3.5,
        )
        if curve.baseline is not None:
            text = f'{first} {curve.baseline:.1%}' if panel.percent else first
            axes.axhline(curve.baseline, color=color, linestyle=(0, (4, 3)), linewidth=1.2, label=text)
    axes.set_title(panel.title)
    axes.set_xlabel('step')
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    if panel.percent:
        axes.yaxis.set_major_formatter(lambda y, _: f'{100 * y:.3g}%')
    if panel.low is not None and panel.high is not None:
        axes.set_ylim(panel.low, max(1.05 * panel.high, axes.get_ylim()[1]))
    if panel.percent:  # a fraction lies between 0 and 1, whatever the margins of the axes
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))
    steps = [x for curve in found for x in curve.x]
    if steps and min(steps) == max(steps):  # one point, as at step 0
        axes.set_xlim(min(steps) - 1, min(steps) + 1)
        axes.set_xticks([min(steps)])
    if len(axes.lines) > 1:
        axes.legend()
    if not axes.lines:
        axes.text(0.5, 0.5, 'nothing measured yet', transform=axes.transAxes, ha='center', color=GRAY)


def contact_sheet(originals: np.ndarray, views: Mapping[str, np.ndarray], path: Path, note: str = '') -> None:
    """Draws augmented views: one row for each image, with the original and then its views.

    Args:
      originals: [n, H, W, 3], float in [0, 1] (clipped) or uint8.
      views: title -> [n, h, w, 3], one column each, likewise. Sizes may differ.
      path: the PNG to write.
      note: a line about the first column, such as the channels that are shown.
    """
    columns = [('original', originals), *views.items()]
    with mpl.rc_context(STYLE):
        titles = [f'{title}\n{images.shape[2]} × {images.shape[1]}' for title, images in columns]
        titles[0] += f'\n{note}' if note else ''
        sheet = _Sheet(len(originals), len(columns), titles)
        for j, (_, images) in enumerate(columns):
            for i in range(len(originals)):
                sheet.show(i, j, images[i])
        save(sheet.figure, path)


def nearest_neighbors(
    queries: np.ndarray,
    neighbors: np.ndarray,
    path: Path,
    query_labels: np.ndarray,
    neighbor_labels: np.ndarray,
    names: Sequence[str] | None = None,
    note: str = '',
) -> None:
    """Draws queries and, to the right of each, its nearest neighbors, the nearest first.

    A neighbor of the same class as the query has a green frame and a check mark; one of another class has a red frame
    and a cross. There is no frame if one of the two labels is -1, which means unknown.

    Args:
      queries: [m, h, w, 3], float in [0, 1] (clipped) or uint8.
      neighbors: [m, k, h, w, 3], likewise.
      path: the PNG to write.
      query_labels: int[m].
      neighbor_labels: int[m, k].
      names: names of the classes; None: their numbers are used.
      note: a line about the first column, such as the channels that are shown.
    """
    m, k = neighbors.shape[:2]
    with mpl.rc_context(STYLE):
        titles = [f'query\n{note}' if note else 'query', 'nearest', *(str(j) for j in range(2, k + 1))]
        sheet = _Sheet(m, k + 1, titles, captions=True)
        for i in range(m):
            sheet.show(i, 0, queries[i])
            sheet.caption(i, 0, class_name(query_labels[i], names), fontweight='bold')
            for j in range(k):
                sheet.show(i, j + 1, neighbors[i, j])
                label = neighbor_labels[i, j]
                if query_labels[i] >= 0 and label >= 0:
                    sheet.mark(i, j + 1, class_name(label, names), correct=label == query_labels[i])
        save(sheet.figure, path)


def class_name(label: int, names: Sequence[str] | None) -> str:
    """The name of a class; its number if it has no name, and '' for the label -1, which means unknown."""
    return '' if label < 0 else str(label) if names is None or label >= len(names) else printable(names[label])


def printable(name: str) -> str:
    """A name with escapes for what cannot be drawn: line breaks, control characters, bytes that are not UTF-8."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in name)


def comparison(rows: Sequence[tuple[str, float, float]], path: Path, first: str = UNTRAINED) -> None:
    """Draws the kNN accuracy of several methods: for each, a line from the encoder at step 0 to the trained one.

    Args:
      rows: name, accuracy in [0, 1], accuracy of the encoder at step 0. Rows with a value that is not finite are left
        out.
      path: the PNG to write.
      first: what the encoders had at step 0, for the legend.
    """
    rows = sorted((row for row in rows if all(map(math.isfinite, row[1:]))), key=lambda row: row[1])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.3 + 0.32 * max(len(rows), 1)), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        y = np.arange(len(rows))
        after, before = (100 * np.array([row[i] for row in rows]) for i in (1, 2))
        axes.hlines(y, before, after, color=GRAY, linewidth=1.2, zorder=1)
        axes.scatter(before, y, color=GRAY, s=28, label=first, zorder=2)
        axes.scatter(after, y, color=BLUE, s=42, label='trained', zorder=3)
        for x, height in zip(after, y, strict=True):
            axes.annotate(f'{x:.1f}', (x, height), (7, 0), textcoords='offset points', va='center', fontsize=8)
        axes.set_yticks(y, [row[0] for row in rows])
        axes.set_ylim(-0.7, max(len(rows), 1) - 0.3)
        axes.margins(x=0.08)
        axes.set_xlabel('kNN accuracy on held-out images (%)')
        axes.grid(axis='y', visible=False)
        axes.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=2)
        save(figure, path)


class _Sheet:
    """A grid of images on one pair of axes, in inches. One pair for each image takes four times as long to draw."""

    def __init__(self, rows: int, columns: int, titles: Sequence[str], captions: bool = False):
        self._pitch = CELL + GAP, CELL + (CAPTION_HEIGHT if captions else GAP)  # from an image to the next one
        self._top = GAP + LINE_HEIGHT * max(1 + title.count('\n') for title in titles)
        width, height = GAP + columns * self._pitch[0], self._top + rows * self._pitch[1] + GAP
        self.figure = Figure(figsize=(width, height))
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._axes.set_axis_off()
        for column, title in enumerate(titles):
            x, y = self._place(0, column)
            self._axes.text(x + CELL / 2, y - GAP / 2, title, fontsize=8, ha='center', va='bottom')

    def _place(self, row: int, column: int) -> tuple[float, float]:
        """The left and the upper edge of a cell."""
        return GAP + column * self._pitch[0], self._top + row * self._pitch[1]

    def show(self, row: int, column: int, image: np.ndarray) -> None:
        """Draws an image in the middle of its square cell."""
        height, width = image.shape[:2]
        pixels = image if image.dtype == np.uint8 else np.clip(np.asarray(image, np.float32), 0, 1)
        x, y = (edge + CELL / 2 for edge in self._place(row, column))
        dx, dy = (CELL / 2 * side / max(height, width) for side in (width, height))
        interpolation = 'nearest' if max(height, width) <= 64 else 'auto'
        extent = (x - dx, x + dx, y + dy, y - dy)
        self._axes.imshow(pixels, extent=extent, interpolation=interpolation, aspect='auto')

    def mark(self, row: int, column: int, text: str, correct: bool) -> None:
        """A colored frame around an image, and a caption with a sign."""
        color, sign = (GREEN, '✓') if correct else (RED, '✗')
        frame = Rectangle(self._place(row, column), CELL, CELL, fill=False, edgecolor=color, linewidth=2.5)
        self._axes.add_patch(frame)
        self.caption(row, column, f'{sign} {text}', color=color)

    def caption(self, row: int, column: int, text: str, **style: Any) -> None:
        """A line below an image."""
        short = text if len(text) <= CAPTION else text[: CAPTION - 1] + '…'
        x, y = self._place(row, column)
        self._axes.text(x + CELL / 2, y + CELL + GAP / 2, short, fontsize=7.5, ha='center', va='top', **style)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    with warnings.catch_warnings():  # a name of a class in a script that the font lacks is drawn as boxes
        warnings.filterwarnings('ignore', message='Glyph .* missing from font')
        figure.savefig(png, format='png', dpi=DPI, facecolor='white')
    try:
        write_atomically(path, png.getvalue())
    except OSError as error:
        raise cannot_write(path, error) from error
