"""The sections of the page: each function returns what the template needs for one section."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.build import build_policy
from contrastive_jax.config.check import check_examples
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.online import evenly_spaced, labels_of, unit_rows
from contrastive_jax.evaluate.verdict import few, verdict
from contrastive_jax.plots import figures, pictures
from contrastive_jax.plots.panels import Curve, Panel, curves_of
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.report import analysis, charts, images
from contrastive_jax.report.record import RunRecord
from contrastive_jax.report.staleness import measure
from contrastive_jax.training.build import build_run

TABLE_CLASSES = 20  # the largest number of classes whose confusion matrix is a table
LISTED = 12  # rows in the lists of confused pairs and of classes
MAP_SIDE = 96  # pixels of an attention map and of a feature map


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
      src: the image as a data URI.
      alt: what it shows, in words.
    """

    src: str
    alt: str


def conclusions(record: RunRecord) -> list[str]:
    """Whether the run went well and what to do next, then what happened to it: rollbacks and dropped steps."""
    evaluated = any(line['step'] > 0 and any(name.startswith('eval/') for name in line) for line in record.history)
    found = verdict(record.latest, record.first) if evaluated else []  # at step 0 there is nothing to compare
    if record.dropped:
        steps = f'{record.dropped:,} step' + ('s' if record.dropped > 1 else '')
        found.append(
            f'{steps} changed nothing, since a value was not finite -> if there are many, lower optimizer.learning_rate'
        )
    for entry in record.rollbacks:
        changes = ', '.join(map(str, entry.get('changes') or ())) or 'with the same config'
        found.append(f'rolled back to step {entry.get("to_step")} at {entry.get("at")}: {changes}')
    return found


def accuracies(record: RunRecord) -> list[dict[str, Any]]:
    """The last accuracies that the run measured, and what they are compared with, on the same images."""
    found: list[dict[str, Any]] = []
    last = record.latest
    for name, title in (('knn_top1', 'kNN'), ('probe_top1', 'linear probe')):
        value, same = last.get(f'eval/{name}'), last.get(few(f'eval/{name}'))
        others = [('on the images of the values below', same), (record.first, last.get(f'baseline/{name}'))]
        if name == 'knn_top1':
            others.append(('raw pixels', last.get('baseline/pixels_knn_top1')))
        if value is not None:
            texts = [f'{text}: {x:.1%}' for text, x in others if x is not None]
            found.append({'title': title, 'value': f'{value:.1%}', 'others': texts})
    return found


def curve_charts(record: RunRecord, panels: Sequence[Panel]) -> list[charts.Chart]:
    """A chart for each panel that has a measured metric."""
    found = [(panel, curves_of(panel, record.history)) for panel in panels]
    return [charts.Chart(p.title, curves, p.percent, p.low, p.high, p.scale) for p, curves in found if curves]


def staleness(record: RunRecord, source: Source, devices: Devices) -> dict[str, Any] | None:
    """The staleness of the queue or bank; None if the method has neither.

    Raises:
      UserError: the devices do not divide the batch size, or there is no checkpoint.
    """
    c = record.config
    if c.batch_size % devices.count:
        raise UserError(
            f'batch_size {c.batch_size} is not divisible by {devices.count} devices -> use a number of devices that '
            'divides it'
        )
    if problems := check_examples(c, len(source)):  # the data may have changed since the training
        raise UserError.of(problems)
    devices = dataclasses.replace(devices, quick=True)  # a few steps are replayed
    found = measure(record.workdir, build_run(c, len(source)), source, devices, c.data.on_device, c.data.workers)
    if found is None:
        return None
    lines = [Curve('same view', found.ages, found.same), Curve('views of other images', found.ages, found.other)]
    title = 'cosine of stored entries and current features, by age in steps'
    return {'found': found, 'chart': charts.Chart(title, lines, low=0.0, high=1.0)}


def augmented_views(config: ConfigDict, source: Source) -> dict[str, Any]:
    """A few images and augmented views of them.

    Raises:
      DataError: no image can be read.
    """
    policy, size = build_policy(config), config.data.image_size
    originals, views = pictures.augmented(source, policy, size, config.seed)
    columns = {'original': originals, **views}
    titles = [f'{title}\n{x.shape[2]} × {x.shape[1]}' for title, x in columns.items()]
    rows = [
        [Picture(images.data_uri(x[i]), f'image {i + 1}, {title}') for title, x in columns.items()]
        for i in range(len(originals))
    ]
    return {'titles': titles, 'rows': rows}


def neighbors(found: analysis.Features, policy: Policy, size: int) -> list[dict[str, Any]]:
    """A few images and their nearest training images, with the names of their classes.

    Args:
      found: the features.
      policy: prepares the images of the encoder; gives the scale of channels that are not RGB.
      size: height and width in pixels to which images from files are cropped.
    """
    near, name_of = found.neighbors, class_names(found)

    def cell(source: Source, i: int, label: int, query_label: int = -1) -> dict[str, Any]:
        (image,) = pictures.shown(pictures.read_images(source, np.array([i]), size), policy)
        name = name_of(label)
        mark = '' if min(label, query_label) < 0 else 'right' if label == query_label else 'wrong'
        return {
            'picture': Picture(images.data_uri(image), name or figures.printable(source.file_name(i))),
            'name': name,
            'mark': mark,
        }

    query_labels = labels_of(found.test_source, near.queries).tolist()
    nearest_labels = labels_of(found.train_source, near.nearest).tolist()
    rows = []
    for query, label, ids, labels in zip(
        near.queries.tolist(), query_labels, near.nearest.tolist(), nearest_labels, strict=True
    ):
        nearest = [cell(found.train_source, i, other, label) for i, other in zip(ids, labels, strict=True)]
        rows.append({'query': cell(found.test_source, query, label), 'nearest': nearest})
    return rows


def projections(found: analysis.Features) -> list[dict[str, Any]]:
    """The features in two dimensions, by t-SNE and by PCA, colored by label.

    Raises:
      UserError: features are not finite, or there are fewer than four.
    """
    few = evenly_spaced(len(found.test), analysis.POINTS)
    h, labels, name_of = unit_rows(found.test[few]), found.test_labels[few], class_names(found)
    if not np.isfinite(h).all():
        raise UserError('the features are not finite -> check the training loss, and use an earlier checkpoint')
    if len(h) < 4:
        raise UserError(f'there are only {len(h)} images -> use at least 4')
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    colored = np.sort(present[np.argsort(-counts, kind='stable')][: charts.COLORS]).tolist()
    pca, explained = analysis.principal_components(h, 2)
    plots = [
        ('t-SNE', analysis.tsne(h), 'near points have similar features; distances between clusters mean little'),
        ('PCA', pca, f'two principal components, with {explained[0]:.0%} and {explained[1]:.0%} of the variance'),
    ]

    def groups(points: np.ndarray) -> list[charts.Group]:
        if not colored:
            return [charts.Group('', 0, points)]
        others = [charts.Group('', None, points[~np.isin(labels, colored)])]
        return others + [charts.Group(name_of(c), i, points[labels == c]) for i, c in enumerate(colored)]

    return [
        {
            'title': title,
            'svg': charts.scatter(groups(points), f'{title} of {len(h)} features'),
            'note': note,
            'points': len(h),
            'legend': [name_of(c) for c in colored],
            'gray': len(present) > len(colored),
        }
        for title, points, note in plots
    ]


def confusion(found: analysis.Features) -> dict[str, Any]:
    """The confusion matrix of a linear probe, as a table for few classes and as a picture for many; pairs and classes.

    Raises:
      UserError: a label is missing, or features are not finite.
    """
    matrix, name_of = analysis.confusion(found), class_names(found)
    C, totals = len(matrix), matrix.sum(1)
    fractions = matrix / np.maximum(totals, 1)[:, None]
    errors = np.where(np.eye(C, dtype=bool), 0, matrix)
    order = np.argsort(-errors, axis=None, kind='stable')[:LISTED]
    pairs = [divmod(int(i), C) for i in order if errors.flat[i] > 0]
    classes = [
        {'name': name_of(c), 'correct': int(matrix[c, c]), 'total': int(totals[c]), 'accuracy': float(fractions[c, c])}
        for c in range(C)
        if totals[c] > 0
    ]
    heat = np.zeros((C, C, 4), np.float32)
    heat[..., :3] = 0.25, 0.56, 0.85
    heat[..., 3] = np.sqrt(fractions)  # the value is the opacity, which suits a light and a dark page
    return {
        'accuracy': float(np.trace(matrix) / totals.sum()),
        'total': int(totals.sum()),
        'names': [name_of(c) for c in range(C)],
        'table': [
            [(int(n), round(float(p), 3)) for n, p in zip(*row, strict=True)]
            for row in zip(matrix, fractions, strict=True)
        ]
        if C <= TABLE_CLASSES
        else None,
        'picture': None if C <= TABLE_CLASSES else Picture(images.data_uri(heat), f'confusion matrix of {C} classes'),
        'pairs': [
            {
                'true': name_of(i),
                'predicted': name_of(j),
                'count': int(matrix[i, j]),
                'fraction': float(fractions[i, j]),
            }
            for i, j in pairs
        ],
        'classes': sorted(classes, key=lambda c: c['accuracy']),
        'listed': LISTED,
    }


def attention(encoder: Encoder, given: np.ndarray) -> dict[str, Any] | None:
    """The attention maps of each head of a ViT on images [n, S, S, C]; None if the encoder is not a ViT."""
    maps = analysis.attention(encoder, given)
    if maps is None:
        return None
    rows = []
    for i, (image, heads) in enumerate(zip(pictures.shown(given, encoder.policy), maps, strict=True), 1):
        shown = [images.heat_map(a / max(float(a.max()), 1e-12), MAP_SIDE) for a in heads]
        pictures_of_heads = [Picture(images.data_uri(x), f'image {i}, head {j}') for j, x in enumerate(shown, 1)]
        rows.append([Picture(images.data_uri(image), f'image {i}'), *pictures_of_heads])
    return {'heads': maps.shape[1], 'grid': f'{maps.shape[2]} × {maps.shape[3]}', 'rows': rows}


def feature_maps(encoder: Encoder, given: np.ndarray) -> dict[str, Any] | None:
    """The spatial features of images [n, S, S, C] as colors; None if the encoder has no suitable feature map."""
    found = analysis.feature_maps(encoder, given)
    if found is None:
        return None
    grid, what = found
    pairs = []
    pairs_of = zip(pictures.shown(given, encoder.policy), analysis.pca_colors(grid), strict=True)
    for i, (image, colors) in enumerate(pairs_of, 1):
        colors = images.enlarge(colors, MAP_SIDE)
        pairs.append(
            (Picture(images.data_uri(image), f'image {i}'), Picture(images.data_uri(colors), f'features of image {i}'))
        )
    return {'what': what, 'grid': f'{grid.shape[1]} × {grid.shape[2]}', 'pairs': pairs}


def class_names(found: analysis.Features) -> Callable[[int], str]:
    """A function from a label to the name of its class."""
    names = found.train_source.classes
    return lambda label: figures.class_name(label, names)
