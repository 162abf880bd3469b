"""The drawn pictures: any subset of the metrics, correct frames, pixels without interpolation, atomic files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from contrastive_jax.plots import figures

HISTORY = [
    {'step': 0, 'eval/knn_top1': 0.5, 'baseline/knn_top1': 0.5, 'eval/feature_std': 0.3, 'eval/effective_rank': 3.0},
    {'step': 10, 'loss': 3.0, 'feature_std': 0.2, 'grad_norm': float('nan'), 'learning_rate': 1e-3},
    {'step': 20, 'loss': float('nan'), 'feature_std': 0.4, 'grad_norm': 2.0, 'images_per_second': 51234.0},
    {'step': 20, 'eval/knn_top1': 0.8, 'eval/probe_top1': float('nan'), 'eval/uniformity': -2.0, 'foreign': 1.0},
]


def picture(path):
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return np.asarray(image.convert('RGB')).astype(int)


def count(pixels, color):
    """The number of pixels that have a color, within 2 of 255 levels."""
    return int((np.abs(pixels - np.round(255 * np.array(to_rgb(color)))) <= 2).all(-1).sum())


@pytest.mark.parametrize('history', [[], HISTORY[:1], HISTORY[1:2], HISTORY[3:], HISTORY])
def test_curves_take_any_subset_of_the_metrics(tmp_path, history):
    figures.curves(history, tmp_path / 'curves.png')
    pixels = picture(tmp_path / 'curves.png')
    assert pixels.shape[1] == 10 * figures.DPI
    assert (count(pixels, figures.BLUE) > 0) == bool(history)
    assert os.listdir(tmp_path) == ['curves.png']  # no temporary file is left


@pytest.mark.parametrize('names', [('code_entropy', 'prototype_usage'), ('cluster_entropy',), ('teacher_entropy',)])
def test_a_panel_shows_the_metrics_that_were_measured(tmp_path, names):
    figures.curves([{'step': s, **dict.fromkeys(names, s / 10)} for s in (1, 9)], tmp_path / 'curves.png')
    pixels = picture(tmp_path / 'curves.png')
    for i, color in enumerate((figures.BLUE, figures.ORANGE)):
        assert (count(pixels, color) > 0) == (i < len(names))


def test_the_baseline_is_drawn_beside_its_metric(tmp_path):
    with_line, without = HISTORY[0], {k: v for k, v in HISTORY[0].items() if not k.startswith('baseline')}
    blue = []
    for line in (with_line, without):
        figures.curves([line, HISTORY[3]], tmp_path / 'curves.png')
        blue.append(count(picture(tmp_path / 'curves.png'), figures.BLUE))
    assert blue[0] > blue[1] + 300


def test_contact_sheet_enlarges_pixels_without_interpolation(tmp_path):
    """The four colors of 2x2 images cover nearly all of each cell, and a 6x4 image keeps its proportions."""
    colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    originals = np.stack([colors] * 3)
    magenta = np.full((3, 4, 6, 3), [1.7, -1.0, 1.0])  # clipped to magenta
    views = {'view 1': originals / 255.0, 'view 2': originals[:, :, ::-1], 'local view 1': magenta}
    figures.contact_sheet(originals, views, tmp_path / 'sheet.png')
    pixels = picture(tmp_path / 'sheet.png')
    cell = (figures.CELL * figures.DPI) ** 2
    for color in colors.reshape(4, 3) / 255:
        assert count(pixels, color) > 0.75 * 9 * cell / 4
    assert count(pixels, (1, 0, 1)) > 0.75 * 3 * cell * 4 / 6


def test_frames_of_neighbors_show_whether_the_class_is_correct(tmp_path):
    images = np.full((2, 8, 8, 3), 128, np.uint8)
    neighbors = np.full((2, 3, 8, 8, 3), 128, np.uint8)
    green, red = [], []
    for labels in ([[0, 0, 0], [1, 1, 1]], [[0, 1, 1], [0, 1, 0]], [[-1, -1, 5], [-1, 1, -1]]):
        path = tmp_path / 'nn.png'
        figures.nearest_neighbors(
            images,
            neighbors,
            path,
            np.array([0, 1]),
            np.array(labels),
            names=['$1 cat', 'caf\udce9\n, a very long name', *'cdef'],
        )
        pixels = picture(path)
        green.append(count(pixels, figures.GREEN))
        red.append(count(pixels, figures.RED))
    assert green[0] > 2.5 * green[1] > 0 and red[0] == 0 < red[1]
    assert 0 < red[2] < red[1] and 0 < green[2] < green[1]
    figures.nearest_neighbors(images, neighbors, path, np.full(2, -1), np.full((2, 3), -1))  # no labels: no frame
    assert count(picture(path), figures.GREEN) == count(picture(path), figures.RED) == 0


def test_pyplot_is_not_imported():
    code = 'import sys, contrastive_jax.plots.figures; sys.exit("matplotlib.pyplot" in sys.modules)'
    root = Path(figures.__file__).parents[2]
    assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == 0


def test_a_script_that_the_font_lacks_is_no_warning(tmp_path, recwarn):
    """matplotlib would print one for each letter of a class's name at every evaluation."""
    sheet = figures.comparison([('犬の写真', 0.5, 0.4)], tmp_path / 'x.png')
    assert sheet is None and picture(tmp_path / 'x.png').any() and not recwarn.list
