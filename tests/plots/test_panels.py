"""The curves of a panel: the values of its metrics, and the baseline of the untrained encoder."""

import math

from contrastive_jax.plots.panels import LARGE, SMALL, Panel, curves_of

NAN = float('nan')
HISTORY = [
    {'step': 0, 'eval/knn_top1': 0.5, 'baseline/knn_top1': 0.5},
    {'step': 10, 'loss': 3.0},
    {'step': 20, 'loss': NAN},
    {'step': 20, 'eval/knn_top1': 0.8, 'eval/probe_top1': NAN, 'baseline/probe_top1': NAN},
]


def test_curves_have_the_logged_values_and_the_baseline() -> None:
    (loss,) = curves_of(LARGE[0], HISTORY)
    assert (loss.name, loss.x, loss.y[0], loss.last, loss.baseline) == ('training loss', [10, 20], 3.0, 3.0, None)
    knn, probe = curves_of(LARGE[1], HISTORY)
    assert (knn.name, knn.x, knn.y, knn.last, knn.baseline) == ('kNN', [0, 20], [0.5, 0.8], 0.8, 0.5)
    assert probe.x == [20] and math.isnan(probe.last) and probe.baseline is None


def test_metrics_that_were_not_measured_have_no_curve() -> None:
    assert [panel.title for panel in LARGE + SMALL if curves_of(panel, HISTORY)] == [panel.title for panel in LARGE]
    only = Panel('x', {'unknown': 'a', 'loss': 'b'})
    assert [curve.name for curve in curves_of(only, HISTORY)] == ['b'] and curves_of(only, []) == []


def test_a_metric_has_one_panel() -> None:
    metrics = [metric for panel in LARGE + SMALL for metric in panel.metrics]
    assert len(set(metrics)) == len(metrics)


def test_an_accuracy_is_drawn_on_the_images_of_its_baseline() -> None:
    history = [
        {'step': 0, 'eval/knn_top1': 0.5, 'baseline/knn_top1': 0.5},
        {'step': 10, 'eval/knn_top1': 0.9, 'eval/knn_few_top1': 0.7},
        {'step': 20, 'eval/knn_top1': 0.95, 'eval/knn_few_top1': 0.8},
    ]
    (curve,) = curves_of(Panel('accuracy', {'eval/knn_top1': 'kNN'}), history)
    assert (curve.x, curve.y, curve.baseline) == ([0, 10, 20], [0.5, 0.7, 0.8], 0.5)
    assert curve.name == 'kNN, on the images of the baseline'
