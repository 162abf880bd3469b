"""The panels of the learning curves: which metrics share a panel, and their values in the log of a run."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from contrastive_jax.evaluate.verdict import LEAST_RANK, LEAST_STD, few

History = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Metrics that are drawn on the same axes.

    Attributes:
      title: the title, with the meaning of the scale.
      metrics: metric -> its name in the legend.
      percent: whether values are fractions and are shown in percent.
      low, high: the y axis includes these values; None: it ends where the curves do.
      scale: what a good value is and what is a sign of collapse, in words; '': nothing to say.
    """

    title: str
    metrics: Mapping[str, str]
    percent: bool = False
    low: float | None = None
    high: float | None = None
    scale: str = ''


# Panels of the first row are larger.
LARGE = (
    Panel('loss', {'loss': 'training loss'}, scale='it should fall; its level is comparable within one recipe only'),
    Panel(
        'accuracy of the features',
        {'eval/knn_top1': 'kNN', 'eval/probe_top1': 'linear probe'},
        percent=True,
        scale='higher is better; it should rise above the dashed line of its color',
    ),
)
SMALL = (
    Panel(
        'feature std (0 = collapsed)',
        {'feature_std': 'training', 'feature_std_ab': 'training, color encoder', 'eval/feature_std': 'evaluation'},
        low=0.0,  # with a fixed scale, a collapse is visible
        high=1.0,
        scale=f'good: near 1; below {LEAST_STD:g}: collapsed',
    ),
    Panel(
        'effective rank',
        {'eval/effective_rank': 'effective rank'},
        scale=f'dimensions in use: more are better; below {LEAST_RANK:g}: collapsed',
    ),
    Panel(
        'alignment (0 = views agree)', {'alignment': 'alignment'}, scale='lower is better, unless the features collapse'
    ),
    Panel(
        'uniformity (lower = more uniform)', {'eval/uniformity': 'uniformity'}, scale='lower is better; 0: collapsed'
    ),
    Panel(
        'entropy (0 = collapsed)',
        {
            'code_entropy': 'code of one view',  # SwAV
            'prototype_usage': 'mean over prototypes',
            'cluster_entropy': 'cluster sizes',  # DeepCluster-v2
            'teacher_entropy': 'teacher output',  # DINO
        },
        scale='0: all images in one cluster',
    ),
    Panel(
        'contrastive accuracy',
        {'contrastive_top1': 'top-1', 'contrastive_top1_ab': 'top-1, color encoder'},
        percent=True,
        scale='how often the positive is first: it should rise',
    ),
    Panel(
        'pretext accuracy',
        {'pretext_top1': 'top-1'},
        percent=True,
        scale='how often the position, permutation, image or cluster is right',
    ),
    Panel(
        'reconstruction error',
        {'reconstruction_error': 'squared error'},
        scale='of the whole image (denoising) or its missing part (context encoder): it should fall',
    ),
    Panel(
        'similarity',
        {'positive_similarity': 'positives', 'negative_similarity': 'negatives'},
        scale='good: positives far above negatives; both at 1: collapsed',
    ),
    Panel('learning rate', {'learning_rate': 'learning rate'}),
    Panel('gradient norm', {'grad_norm': 'gradient norm'}, scale='jumps: the learning rate may be too high'),
    Panel('images/s', {'images_per_second': 'images/s'}),
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric over the steps.

    Attributes:
      name: its name in the legend.
      x: steps.
      y: values; those that are not finite leave a gap.
      baseline: the value of the encoder at step 0, a dashed line; None: not measured.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    baseline: float | None = None

    @property
    def last(self) -> float:
        """The last finite value; NaN if there is none."""
        found = last_finite(self.y)
        return math.nan if found is None else found


def curves_of(panel: Panel, history: History) -> list[Curve]:
    """The curves of a panel, without the metrics that were not measured.

    Args:
      panel: the panel.
      history: the lines of metrics.jsonl (`workdir.metrics.read`). A line has 'step' and any metrics. The last finite
        value of 'baseline/NAME', at any step, is the baseline of 'eval/NAME'.
    """
    found = []
    for metric, name in panel.metrics.items():
        x, y = series(history, metric)
        steps, same = series(history, few(metric))
        if steps:  # of more images than the baselines: on theirs, after step 0, which was measured on them
            before = [i for i, step in enumerate(x) if step < steps[0]]
            x, y = [*(x[i] for i in before), *steps], [*(y[i] for i in before), *same]
            name += ', on the images of the baseline'
        if x:
            baseline = f'baseline/{metric.removeprefix("eval/")}' if metric.startswith('eval/') else ''
            found.append(Curve(name, x, y, last_finite(series(history, baseline)[1])))
    return found


def series(history: History, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric."""
    lines = [line for line in history if metric in line]
    return [line['step'] for line in lines], [line[metric] for line in lines]


def last_finite(values: Sequence[float]) -> float | None:
    """The last finite value; None if there is none."""
    return next((x for x in reversed(values) if math.isfinite(x)), None)
