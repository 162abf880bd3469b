"""The pictures in a workdir: learning curves, what the augmentation makes of an image, which images are neighbours.

Each function draws one PNG with matplotlib's object interface (no pyplot: no global state, no window) and replaces the
file at once. Small images are enlarged pixel by pixel.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from contrastive_jax.workdir.atomic import write_atomically

Path = str | os.PathLike[str]

STYLE: Any = {
    'font.family': 'DejaVu Sans',  # comes with matplotlib, so pictures look the same everywhere
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
BLUE, ORANGE, GREEN, RED, GREY = '#3465a4', '#e07b00', '#1a8a3a', '#c62828', '#777777'
DPI = 150
CELL = 1.15  # inches: side of one image in a sheet
CAPTION = 16  # characters that fit below it

# Panels: title, and the metrics in it with their names in the legend. The first row is large.
LARGE = (
    ('loss', {'loss': 'training loss'}),
    ('accuracy of the features', {'eval/knn_top1': 'kNN', 'eval/probe_top1': 'linear probe'}),
)
SMALL = (
    (
        'feature std (0 = collapsed)',
        {'feature_std': 'training', 'feature_std_ab': 'training, colours', 'eval/feature_std': 'evaluation'},
    ),
    ('effective rank', {'eval/effective_rank': 'effective rank'}),
    ('alignment (0 = views agree)', {'alignment': 'alignment'}),
    ('uniformity (lower = more spread)', {'eval/uniformity': 'uniformity'}),
    (
        'entropy (0 = always the same)',
        {
            'code_entropy': 'of a code',  # SwAV
            'prototype_usage': 'of the prototypes in use',
            'cluster_entropy': 'of the clusters',  # DeepCluster-v2
            'teacher_entropy': 'of what the teacher says',  # DINO
        },
    ),
    ('contrastive accuracy', {'contrastive_top1': 'top-1', 'contrastive_top1_ab': 'top-1 of the colours'}),
    ('similarity', {'positive_similarity': 'positives', 'negative_similarity': 'negatives'}),
    ('learning rate', {'learning_rate': 'learning rate'}),
    ('gradient norm', {'grad_norm': 'gradient norm'}),
    ('images/s', {'images_per_second': 'images/s'}),
)
SMALL_COLUMNS = 3


def curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws loss and accuracies large, and below them a small panel for each signal that was measured.

    Args:
      history: the lines of metrics.jsonl (`metrics.read`): 'step' and any of the metrics above. A value under
        'baseline/NAME', whichever step it has, becomes a dashed line beside 'eval/NAME': the untrained encoder.
      path: the PNG to write.
    """
    series = {name: _series(history, name) for _, metrics in LARGE + SMALL for name in metrics}
    baselines = {name: _series(history, f'baseline/{name.removeprefix("eval/")}')[1] for name in series if '/' in name}
    large, small = ([p for p in panels if any(len(series[n][0]) for n in p[1])] for panels in (LARGE, SMALL))
    large = large or list(LARGE[:1])  # a run that has measured nothing yet: an empty panel
    rows = math.ceil(len(small) / SMALL_COLUMNS)
    with mpl.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(10, 3.6 + 2 * rows), layout=layout)
        # Six columns: two or three panels a row.
        grid = figure.add_gridspec(1 + rows, 6, height_ratios=[3.6] + [2] * rows)
        width = 6 // len(large)
        for i, panel in enumerate(large):
            _panel(figure.add_subplot(grid[0, i * width : (i + 1) * width]), *panel, series, baselines)
        width = 6 // SMALL_COLUMNS
        for i, panel in enumerate(small):
            row, column = divmod(i, SMALL_COLUMNS)
            _panel(figure.add_subplot(grid[1 + row, column * width : (column + 1) * width]), *panel, series, baselines)
        _save(figure, path)


def _series(history: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    lines = [line for line in history if name in line]
    return [line['step'] for line in lines], [line[name] for line in lines]


def _panel(
    axes: Axes,
    title: str,
    metrics: Mapping[str, str],
    series: Mapping[str, tuple[list[float], list[float]]],
    baselines: Mapping[str, list[float]],
) -> None:
    measured = [(name, label) for name, label in metrics.items() if series[name][0]]
    for (name, label), colour in zip(measured, (BLUE, ORANGE, GREEN, RED), strict=False):
        steps, values = series[name]
        accuracy = name.endswith('top1')
        axes.plot(
            steps,
            values,
            color=colour,
            label=f'{label} {_last(values):.1%}' if accuracy else label,
            linewidth=1.6 if len(steps) <= 200 else 1.0,
            marker='o' if len(steps) <= 25 else None,  # one point alone would be invisible
            markersize=3.5,
        )
        if baselines.get(name):
            value = _last(baselines[name])
            text = f'untrained encoder {value:.1%}' if accuracy else 'untrained encoder'
            axes.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, label=text)
    axes.set_title(title)
    axes.set_xlabel('step')
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    if 'accuracy' in title:
        axes.yaxis.set_major_formatter(lambda y, _: f'{100 * y:.3g}%')
    if title.startswith('feature std'):
        axes.set_ylim(0, max(1.05, axes.get_ylim()[1]))  # a collapse should look like one
    if len(axes.lines) > 1:
        axes.legend()
    if not axes.lines:
        axes.text(0.5, 0.5, 'nothing measured yet', transform=axes.transAxes, ha='center', color=GREY)


def _last(values: Sequence[float]) -> float:
    """The newest value that is a number."""
    return next((x for x in reversed(values) if math.isfinite(x)), math.nan)


def contact_sheet(originals: np.ndarray, views: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws what the augmentation makes of images: a row an image, the original and then its views.

    Args:
      originals: uint8[n, H, W, 3].
      views: by their titles arrays [n, h, w, 3], a column each, sizes may differ: float in [0, 1] (clipped) or uint8.
      path: the PNG to write.
    """
    columns = [('original', originals), *views.items()]
    with mpl.rc_context(STYLE):
        figure, grid = _sheet(len(originals), len(columns))
        for j, (title, images) in enumerate(columns):
            height, width = images.shape[1:3]
            grid[0, j].set_title(f'{title}\n{width} × {height}', fontsize=8, fontweight='normal', loc='center')
            for axes, image in zip(grid[:, j], images, strict=True):
                _show(axes, image)
        _save(figure, path)


def nearest_neighbours(
    queries: np.ndarray,
    neighbours: np.ndarray,
    path: Path,
    query_labels: Any = None,
    neighbour_labels: Any = None,
    names: Sequence[str] | None = None,
) -> None:
    """Draws queries and, to their right, their neighbours, nearest first.

    A neighbour of the query's class has a green frame and a tick, one of another class a red frame and a cross;
    without labels (None, or -1) there is no frame.

    Args:
      queries: uint8[m, h, w, 3].
      neighbours: uint8[m, k, h, w, 3].
      path: the PNG to write.
      query_labels: int[m].
      neighbour_labels: int[m, k].
      names: the names of the classes; their numbers by default.
    """
    m, k = neighbours.shape[:2]
    query_labels = np.full(m, -1) if query_labels is None else np.asarray(query_labels)
    neighbour_labels = np.full((m, k), -1) if neighbour_labels is None else np.asarray(neighbour_labels)

    def name(label: int) -> str:
        return '' if label < 0 else str(label) if names is None else names[label]

    with mpl.rc_context(STYLE):
        figure, grid = _sheet(m, k + 1)
        for i in range(m):
            _show(grid[i, 0], queries[i])
            _caption(grid[i, 0], name(query_labels[i]), fontweight='bold')
            for j in range(k):
                axes, label = grid[i, j + 1], neighbour_labels[i, j]
                _show(axes, neighbours[i, j])
                if query_labels[i] >= 0 and label >= 0:
                    _mark(axes, name(label), correct=label == query_labels[i])
        for j, title in enumerate(['query', 'nearest', *(str(j) for j in range(2, k + 1))]):
            grid[0, j].set_title(title, fontsize=8, fontweight='normal', loc='center')
        _save(figure, path)


def comparison(rows: Sequence[tuple[str, float, float]], path: Path) -> None:
    """Draws how far each method has brought its features: a line from the untrained encoder to the trained one.

    Args:
      rows: name, accuracy in [0, 1], accuracy of the untrained encoder; those that are not finite are left out.
      path: the PNG to write.
    """
    rows = sorted((row for row in rows if all(map(math.isfinite, row[1:]))), key=lambda row: row[1])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.3 + 0.32 * max(len(rows), 1)), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        y = np.arange(len(rows))
        after, before = (100 * np.array([row[i] for row in rows]) for i in (1, 2))
        axes.hlines(y, before, after, color=GREY, linewidth=1.2, zorder=1)
        axes.scatter(before, y, color=GREY, s=28, label='untrained encoder', zorder=2)
        axes.scatter(after, y, color=BLUE, s=42, label='trained', zorder=3)
        for x, height in zip(after, y, strict=True):
            axes.annotate(f'{x:.1f}', (x, height), (7, 0), textcoords='offset points', va='center', fontsize=8)
        axes.set_yticks(y, [row[0] for row in rows])
        axes.set_ylim(-0.7, max(len(rows), 1) - 0.3)
        axes.margins(x=0.08)
        axes.set_xlabel('kNN accuracy on held-out images (%)')
        axes.grid(axis='y', visible=False)
        axes.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=2)
        _save(figure, path)


def _sheet(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of image cells [rows, columns]."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(CELL * columns + 0.2, CELL * rows + 0.5), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axes: Axes, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    pixels = image if image.dtype == np.uint8 else np.clip(np.asarray(image, np.float32), 0, 1)
    axes.imshow(pixels, interpolation='nearest' if max(height, width) <= 64 else 'auto')
    x, y, half = width / 2 - 0.5, height / 2 - 0.5, max(height, width) / 2
    axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half))  # square cells keep rows and titles aligned
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _mark(axes: Axes, text: str, correct: bool) -> None:
    colour, sign = (GREEN, '✓') if correct else (RED, '✗')
    axes.spines[:].set(visible=True, color=colour, linewidth=2.5)
    _caption(axes, f'{sign} {text}', color=colour)


def _caption(axes: Axes, text: str, **style: Any) -> None:
    short = text if len(text) <= CAPTION else text[: CAPTION - 1] + '…'
    axes.set_xlabel(short, fontsize=7.5, labelpad=3, **style)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format='png', dpi=DPI, facecolor='white')
    write_atomically(path, png.getvalue())
