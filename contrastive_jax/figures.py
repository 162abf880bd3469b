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
from matplotlib.ticker import EngFormatter, MaxNLocator

from contrastive_jax.metrics import replace_file

Path = str | os.PathLike[str]

STYLE = {
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
}
BLUE, ORANGE, GREEN, RED, GREY = '#3465a4', '#e07b00', '#1a8a3a', '#c62828', '#777777'
DPI = 150
CELL = 1.15  # inches: side of one image in a sheet

# Panels: title, and the metrics in it with their names in the legend. The first row is large.
LARGE = (
    ('loss', {'loss': 'training loss'}),
    ('accuracy of the features', {'eval/knn_top1': 'kNN', 'eval/probe_top1': 'linear probe'}),
)
SMALL = (
    ('feature std (0 = collapsed)', {'feature_std': 'training', 'eval/feature_std': 'evaluation'}),
    ('effective rank', {'eval/effective_rank': 'effective rank'}),
    ('alignment (0 = views agree)', {'alignment': 'alignment'}),
    ('uniformity (lower = more spread)', {'eval/uniformity': 'uniformity'}),
    ('contrastive accuracy', {'contrastive_top1': 'top-1'}),
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
        figure = Figure(figsize=(10, 3.6 + 1.9 * rows), layout='constrained')
        top, *below = figure.subfigures(
            1 + bool(rows), 1, height_ratios=[3.6, 1.9 * rows][: 1 + bool(rows)], squeeze=False
        )[:, 0]
        for axes, panel in zip(top.subplots(1, len(large), squeeze=False)[0], large, strict=True):
            _panel(axes, *panel, series, baselines)
        if below:
            grid = below[0].subplots(rows, SMALL_COLUMNS, squeeze=False).ravel()
            for axes, panel in zip(grid, small, strict=False):
                _panel(axes, *panel, series, baselines)
            for axes in grid[len(small) :]:
                axes.set_axis_off()
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
    shown = [name for name in metrics if len(series[name][0])]
    for name, colour in zip(metrics, (BLUE, ORANGE), strict=False):
        if name not in shown:
            continue
        steps, values = series[name]
        marker = 'o' if len(steps) <= 25 else None  # one point alone would be invisible
        label = metrics[name]
        if name in ('eval/knn_top1', 'eval/probe_top1'):
            label += f' ({values[-1]:.1%})'
        axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, label=label)
        if baselines.get(name):
            value = baselines[name][-1]
            label = f'{metrics[name]}, untrained ({value:.1%})' if 'top1' in name else f'{metrics[name]}, untrained'
            axes.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, label=label)
    axes.set_title(title)
    axes.set_xlabel('step')
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    if 'accuracy' in title:
        axes.yaxis.set_major_formatter(lambda y, _: f'{y:.0%}')
    if len(axes.lines) > 1:
        axes.legend()
    if not shown:
        axes.text(0.5, 0.5, 'nothing measured yet', transform=axes.transAxes, ha='center', color=GREY)


def contact_sheet(originals: np.ndarray, views: Sequence[np.ndarray], path: Path) -> None:
    """Draws what the augmentation makes of images: a row an image, the original and then its views.

    Args:
      originals: uint8[n, H, W, 3].
      views: arrays [n, h, w, 3], a column each, sizes may differ: float in [0, 1] (clipped) or uint8.
      path: the PNG to write.
    """
    columns = [('original', originals)] + [(f'view {i}', view) for i, view in enumerate(views, 1)]
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

    A neighbour of the query's class has a green frame and a tick, one of another class a dashed red frame and a cross;
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
            grid[i, 0].set_xlabel(name(query_labels[i]), fontsize=8, fontweight='bold', labelpad=3)
            for j in range(k):
                axes, label = grid[i, j + 1], neighbour_labels[i, j]
                _show(axes, neighbours[i, j])
                if query_labels[i] >= 0 and label >= 0:
                    _mark(axes, name(label), correct=label == query_labels[i])
        for j, title in enumerate(['query', 'nearest', *(str(j) for j in range(2, k + 1))]):
            grid[0, j].set_title(title, fontsize=8, fontweight='normal', loc='center')
        _save(figure, path)


def _sheet(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of image cells [rows, columns]."""
    figure = Figure(figsize=(CELL * columns + 0.2, CELL * rows + 0.5), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axes: Axes, image: np.ndarray) -> None:
    small = max(image.shape[:2]) < CELL * DPI
    pixels = image if image.dtype == np.uint8 else np.clip(np.asarray(image, np.float32), 0, 1)
    axes.imshow(pixels, interpolation='nearest' if small else 'antialiased')
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _mark(axes: Axes, text: str, correct: bool) -> None:
    colour, sign = (GREEN, '✓') if correct else (RED, '✗')
    axes.spines[:].set(visible=True, color=colour, linewidth=2.5, linestyle='-' if correct else (0, (2, 1.2)))
    axes.set_xlabel(f'{sign} {text}', fontsize=8, color=colour, labelpad=3)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format='png', dpi=DPI, facecolor='white')
    replace_file(path, png.getvalue())
