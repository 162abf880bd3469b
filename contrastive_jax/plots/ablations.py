"""The picture of an ablation: the accuracy of each training as bars, as a grid of pairs, or as curves."""

import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from contrastive_jax.plots.figures import BLUE, GRAY, GREEN, ORANGE, STYLE, Path, save

LABEL = 'kNN accuracy on held-out images (%)'
Values = Mapping[str, Sequence[float]]  # the name of an arm -> the accuracies of its runs, in percent
Places = Mapping[str, tuple[str, ...]]  # the name of an arm -> (row, column), or (curve, value on the x axis)


def draw(
    kind: str, accuracies: Values, places: Places, path: Path, untrained: float = math.nan, axis: str = ''
) -> None:
    """Draws the picture.

    Args:
      kind: 'bars', 'grid' or 'curves'.
      accuracies: the runs of each arm; an arm without runs is left out.
      places: where each arm is, in a grid or on a curve.
      path: the PNG to write.
      untrained: the mean accuracy of the untrained encoders, in percent, a dashed line in bars and curves; NaN: none.
      axis: the label of the x axis of curves.
    """
    measured = {name: [x for x in values if np.isfinite(x)] for name, values in accuracies.items()}
    measured = {name: values for name, values in measured.items() if values}
    with mpl.rc_context(STYLE):
        height = 1.3 + 0.4 * max(len(measured), 1) if kind == 'bars' else 4.2
        figure = Figure(figsize=(5.4 if kind == 'grid' else 8, height), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        {'bars': _bars, 'grid': _grid, 'curves': _curves}[kind](axes, measured, places)
        if kind == 'curves':
            axes.set_xlabel(axis)
        if kind != 'grid' and np.isfinite(untrained):
            line = axes.axvline if kind == 'bars' else axes.axhline
            line(untrained, color=GRAY, linestyle='--', linewidth=1, label=f'untrained encoder, {untrained:.1f}')
            axes.legend()
        save(figure, path)


def _bars(axes: Axes, measured: Values, places: Places) -> None:
    """A point for each run, a line at their mean."""
    del places
    names = list(measured)[::-1]
    for y, name in enumerate(names):
        mean = float(np.mean(measured[name]))
        axes.scatter(measured[name], [y] * len(measured[name]), color=GRAY, s=22, zorder=2)
        axes.scatter([mean], [y], color=BLUE, s=60, marker='|', linewidths=2.5, zorder=3)
        axes.annotate(f'{mean:.1f}', (mean, y), (0, 7), textcoords='offset points', ha='center', fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, max(len(names), 1) - 0.2)
    axes.margins(x=0.08)
    axes.set_xlabel(LABEL)
    axes.grid(axis='y', visible=False)


def _grid(axes: Axes, measured: Values, places: Places) -> None:
    """The mean of each pair; an operation alone is on the diagonal."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(places.values())))
    heat = np.full((len(names), len(names)), np.nan)
    for arm, values in measured.items():
        row, column = (names.index(name) for name in places[arm])
        heat[row, column] = heat[column, row] = np.mean(values)
    image = axes.imshow(heat, cmap='viridis')
    middle = (np.nanmin(heat) + np.nanmax(heat)) / 2 if measured else 0.0
    for (row, column), value in np.ndenumerate(heat):
        if np.isfinite(value):
            color = 'white' if value < middle else 'black'
            axes.text(column, row, f'{value:.1f}', ha='center', va='center', color=color, fontsize=8)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.figure.colorbar(image, label=LABEL)


def _curves(axes: Axes, measured: Values, places: Places) -> None:
    """A curve through the means, and a point for each run."""
    positions = sorted({x for _, x in places.values()}, key=float)
    curves = list(dict.fromkeys(curve for curve, _ in places.values()))
    for curve, color in zip(curves, itertools.cycle((BLUE, ORANGE, GREEN)), strict=False):
        arms = sorted((arm for arm in measured if places[arm][0] == curve), key=lambda arm: float(places[arm][1]))
        x = [positions.index(places[arm][1]) for arm in arms]
        axes.plot(x, [float(np.mean(measured[arm])) for arm in arms], color=color, marker='o', label=curve)
        for at, arm in zip(x, arms, strict=True):
            axes.scatter([at] * len(measured[arm]), measured[arm], color=color, s=14, alpha=0.6)
    axes.set_xticks(range(len(positions)), positions)
    axes.set_ylabel(LABEL)
    if len(curves) > 1:
        axes.legend()
