"""Charts: paths are at the positions of the numbers, and names are escaped."""

import re
from xml.etree import ElementTree

import numpy as np

from contrastive_jax.plots.panels import Curve
from contrastive_jax.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Group, scatter, thinned

NAN = float('nan')


def drawn(svg: str, kind: str) -> list[list[tuple[str, float, float]]]:
    """The commands 'M' and 'L' of each path of a CSS class, with their positions. The SVG must be valid XML."""
    paths = [p.get('d', '') for p in ElementTree.fromstring(svg).iter('path') if p.get('class') == kind]
    return [[(s, float(x), float(y)) for s, x, y in re.findall(r'([ML])(\S+?) (\S+?)(?=[MLHh]|$)', d)] for d in paths]


def test_lines_are_affine_maps_of_the_numbers(rng: np.random.Generator) -> None:
    x, y = np.sort(rng.uniform(0, 1000, 30)), rng.normal(size=30)
    svg = Chart('loss', [Curve('a', x.tolist(), y.tolist(), baseline=0.25)]).svg
    (line,), (base,) = drawn(svg, 'line'), drawn(svg, 'base')
    across, down = (np.array([point[i] for point in line]) for i in (1, 2))
    np.testing.assert_allclose(across, LEFT + (WIDTH - LEFT - RIGHT) * (x - x[0]) / (x[-1] - x[0]), atol=0.06)
    slope, height = np.polyfit(y, down, 1)
    assert slope < 0, 'larger values are drawn higher'
    np.testing.assert_allclose(down, slope * y + height, atol=0.06)
    assert abs(base[0][2] - (slope * 0.25 + height)) < 0.06
    assert down.min() >= TOP and down.max() <= HEIGHT - BOTTOM
    assert [s for s, *_ in line] == ['M'] + 29 * ['L']


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    svg = Chart('x', [Curve('a', [0, 1, 2, 3, 4], [1.0, 2.0, NAN, float('inf'), 3.0])]).svg
    (line,) = drawn(svg, 'line')
    assert [s for s, *_ in line] == ['M', 'L', 'M'] and 'nan' not in svg and 'inf' not in svg
    assert len(drawn(svg, 'dots')[0]) == 3


def test_unusual_data_make_a_valid_chart() -> None:
    for x, y in (
        ([], []),
        ([5], [2.0]),
        ([5, 6], [0.0, 0.0]),
        ([1], [NAN]),
        ([0, 1], [1e-9, 1e9]),
        ([3, 3], [7.0, 8.0]),
    ):
        chart = Chart('t', [Curve('a', x, y, baseline=NAN)], percent=True)
        ElementTree.fromstring(chart.svg)
        assert 'nan' not in chart.svg and chart.description.startswith('t: ')


def test_thinning_keeps_spikes_and_ends(rng: np.random.Generator) -> None:
    y = rng.normal(size=10_000)
    y[1234], y[7777], y[500] = 99, -99, NAN
    x, kept = thinned(list(range(10_000)), y.tolist(), 100)
    assert len(x) <= 102 and x[0] == 0 and x[-1] == 9999 and list(x) == sorted(set(x))
    assert 1234 in x and 7777 in x
    np.testing.assert_array_equal(kept, y[list(x)])
    assert len(thinned(range(1000), [NAN] * 1000, 100)[0]) <= 102


def test_a_scatter_plot_keeps_proportions_and_escapes_names() -> None:
    groups = [Group('<b>&', 0, np.array([[0.0, 0.0], [4.0, 2.0]])), Group('', None, np.array([[2.0, NAN], [4.0, 0.0]]))]
    svg = scatter(groups, 'a "map"')
    (first, second) = drawn(svg, 'points')
    (_, x0, y0), (_, x1, y1) = first
    assert len(second) == 1 and abs((x1 - x0) + 2 * (y1 - y0)) < 0.3, 'y points up, and both axes have the same scale'
    root = ElementTree.fromstring(svg)
    assert root.get('aria-label') == 'a "map"'
    assert [t.text for t in root.iter('text')] == ['<b>&'] == [t.text for t in root.iter('title')]
    ElementTree.fromstring(scatter([], 'nothing'))


def test_one_fraction_as_at_step_0_has_an_axis_between_0_and_100_percent() -> None:
    for y in (0.0, 0.02, 0.786, 1.0):
        root = ElementTree.fromstring(Chart('accuracy', [Curve('kNN', [0], [y])], percent=True).svg)
        labels = [t.text or '' for t in root.iter('text') if t.get('class') == 'y']
        assert len(labels) > 1 and all(0 <= float(label.rstrip('%')) <= 100 for label in labels)
        assert [t.text for t in root.iter('text') if t.get('class') == 'x'] == ['0']
