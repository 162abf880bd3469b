"""Puts the report together: gathers its parts, those that there are, and fills in `page.html`.

Jinja escapes whatever is filled in, since class names, paths and config values are what people wrote.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.config.build import build_policy
from contrastive_jax.config.check import check_examples
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import Devices, find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.online import evenly_spaced
from contrastive_jax.plots import figures, pictures
from contrastive_jax.pretrained.encoder import Encoder, load_encoder
from contrastive_jax.report import charts, images, look
from contrastive_jax.report import staleness as stale
from contrastive_jax.report.facts import facts
from contrastive_jax.report.run import Run
from contrastive_jax.training.build import build_run
from contrastive_jax.training.fit import load_data

FEW = 20  # classes whose confusion matrix can be read as a table
LISTED = 12  # confused pairs, and classes that are told worst
SHOWN = 6  # images whose attention and cells are shown
HEAT_SIDE = 96  # pixels of an attention map


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image in the page: its data, and what it shows in words."""

    src: str
    alt: str


def write(run: Run) -> tuple[str, list[str]]:
    """The page, and a line for each part that is not in it because something is missing or wrong."""
    parts = Parts(run)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('contrastive_jax.report', ''),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template('page.html').render(
        title=f'{run.method} on {parts.data_name}',
        run=run,
        colours=charts.COLOURS,
        summary=parts.summary,
        headlines=headlines(run),
        large=panels(run, figures.LARGE),
        small=panels(run, figures.SMALL),
        staleness=parts.staleness,
        sheet=parts.sheet,
        neighbours=parts.neighbours,
        maps=parts.maps,
        confusion=parts.confusion,
        attention=parts.attention,
        cells=parts.cells,
        facts=facts(run),
        config=json.dumps(json.loads(run.config.to_json()), indent=2, sort_keys=True),
        left_out=parts.left_out,
        step=parts.step,
        which=parts.which,
        now=datetime.datetime.now().astimezone().isoformat(' ', 'minutes'),
    )
    return html, parts.left_out


class Parts:
    """What needs the encoder or the data; a part is None where it does not apply or something is missing.

    Attributes:
      left_out: why, a line each, where a reader would miss something.
      step: of the checkpoint.
      which: 'held-out images', or 'training images' of data that has no others.
    """

    def __init__(self, run: Run):
        self.run = run
        self.left_out: list[str] = []
        self.step = 0
        self.which = 'held-out images'
        data = self.attempt('augmentation, neighbours, map and confusion matrix', lambda: load_data(run.config))
        encoder = self.attempt('all that takes the encoder', lambda: load_encoder(run.workdir))
        self.data_name = data[0].name if data else run.known.get('data') or run.config.data.source
        self.staleness = self.sheet = self.neighbours = self.maps = self.confusion = self.attention = self.cells = None
        if data:
            self.sheet = self.attempt('augmentation', lambda: sheet(run.config, data[0]))
        if encoder:
            self.step = encoder.step
        if data and encoder:
            devices = find_devices('jit')
            self.staleness = self.attempt('how stale the dictionary is', lambda: staleness(run, data[0], devices))
            found = self.attempt('all that takes features', lambda: look.features(encoder, data[0], data[1], devices))
            if found:
                self.show(encoder, found)

    def show(self, encoder: Encoder, found: look.Features) -> None:
        """The parts that take both."""
        if not found.held_out:
            self.which = 'training images'
            self.left_out.append('the confusion matrix: the data has no held-out images')
        elif found.classes < 2:
            self.left_out.append('the confusion matrix: it takes labels of two classes or more')
        else:
            self.confusion = self.attempt('the confusion matrix', lambda: confusion(found))
        size = encoder.image_size
        self.neighbours = self.attempt('nearest neighbours', lambda: neighbours(found, size))
        self.maps = self.attempt('the map of the features', lambda: maps(found))
        ids = found.test_ids[evenly_spaced(len(found.test_ids), SHOWN)]
        given = look.prepared(encoder, found.test_source, ids)
        self.attention = self.attempt('attention', lambda: attention(encoder, given))
        self.cells = self.attempt('features of places', lambda: cells(encoder, given))
        if self.cells is None:
            self.left_out.append(f'features of places: the encoder has no map of {look.CELLS} × {look.CELLS} cells')

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """What is made, or None and a line about why not."""
        try:
            return make()
        except UserError as error:
            reason = ' '.join(str(error).split())
            self.left_out.append(f'{what}: {reason}')
            return None

    @property
    def summary(self) -> str:
        """The run in a line."""
        run, c = self.run, self.run.config
        total = run.known.get('total_steps')
        done = f'step {run.step:,}' + (f' of {total:,}' if total and run.step < total else '')
        length = f'{c.steps:,} steps' if c.steps else f'{c.epochs:g} epochs'
        return f'{c.encoder.name}, batch {c.batch_size:,}, {length}; {done}'


def headlines(run: Run) -> list[dict[str, str]]:
    """The accuracies in large, beside those of the untrained encoder."""
    found = []
    for name, title in (('knn_top1', 'kNN'), ('probe_top1', 'linear probe')):
        value, before = run.last(f'eval/{name}'), run.last(f'baseline/{name}')
        if value is not None:
            untrained = '' if before is None else f'{before:.1%}'
            found.append({'title': title, 'value': f'{value:.1%}', 'untrained': untrained})
    return found


def panels(run: Run, wanted: Sequence[tuple[str, dict[str, str]]]) -> list[charts.Chart]:
    """The panels of figures.py for which something was measured."""
    found = []
    for title, metrics in wanted:
        lines = []
        for name, label in metrics.items():
            x, y = run.series(name)
            if x:
                baseline = run.last(f'baseline/{name.removeprefix("eval/")}') if name.startswith('eval/') else None
                lines.append(charts.Line(label, x, y, baseline))
        low, high = (0.0, 1.0) if title.startswith('feature std') else (None, None)  # a collapse should look like one
        if lines:
            found.append(charts.Chart(title, lines, 'accuracy' in title, low, high))
    return found


def staleness(run: Run, source: Source, devices: Devices) -> dict[str, Any] | None:
    """The entries of a queue or a bank beside those that there would be now."""
    c = run.config
    if c.batch_size % devices.count:
        raise UserError(
            f'batch_size {c.batch_size} is not divisible by {devices.count} devices -> use a number that is'
        )
    if problems := check_examples(c, len(source)):  # the data may have changed since the training
        raise UserError.of(problems)
    recipe = build_run(c, len(source))
    found = stale.measure(run.workdir, recipe, source, devices, c.data.on_device, c.data.workers)
    if found is None:
        return None
    lines = [charts.Line('with the same view', found.ages, found.same)]
    lines.append(charts.Line('with the views of other images', found.ages, found.other))
    title = 'cosine of an entry as it is and as it would be now, by its age in steps'
    return {'found': found, 'chart': charts.Chart(title, lines, low=0.0, high=1.0)}


def sheet(config: ConfigDict, source: Source) -> dict[str, Any]:
    """What the augmentation makes of a few images."""
    originals, views = pictures.augmented(source, build_policy(config), config.data.image_size, config.seed, rows=6)
    columns = {'original': originals, **views}
    titles = [f'{title}\n{x.shape[2]} × {x.shape[1]}' for title, x in columns.items()]
    rows = [
        [Picture(images.data_uri(x[i]), f'image {i + 1}, {title}') for title, x in columns.items()]
        for i in range(len(originals))
    ]
    return {'titles': titles, 'rows': rows}


def neighbours(found: look.Features, size: int) -> list[dict[str, Any]]:
    """Images and what the encoder finds similar, nearest first, with whether it is of the same class."""
    near, names = found.neighbours, class_names(found)

    def cell(source: Source, i: int, label: int, query: int | None = None) -> dict[str, Any]:
        (image,) = pictures.look(source, np.array([i]), size)
        name = names(label)
        mark = '' if query is None or min(label, query) < 0 else 'right' if label == query else 'wrong'
        return {'picture': Picture(images.data_uri(image), name or source.file_name(i)), 'name': name, 'mark': mark}

    def label(source: Source, i: int) -> int:
        return -1 if source.labels is None else int(source.labels[i])

    rows = []
    for query, ids in zip(near.queries.tolist(), near.nearest.tolist(), strict=True):
        own = label(found.test_source, query)
        others = [cell(found.train_source, i, label(found.train_source, i), own) for i in ids]
        rows.append({'query': cell(found.test_source, query, own), 'nearest': others})
    return rows


def maps(found: look.Features) -> list[dict[str, Any]]:
    """The features in the plane, coloured by label."""
    few = evenly_spaced(len(found.test), look.POINTS)
    h, labels, names = look.unit(found.test[few]), found.test_labels[few], class_names(found)
    if not np.isfinite(h).all():
        raise UserError('the features are not finite -> look at the loss, and use an older checkpoint')
    if len(h) < 4:
        raise UserError(f'{len(h)} images are too few -> four or more make a map')
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    coloured = np.sort(present[np.argsort(-counts, kind='stable')][: charts.COLOURS]).tolist()
    points, explained = look.principal_components(h, 2)
    drawn = [('t-SNE', look.tsne(h), 'neighbours stay neighbours; distances between heaps mean little')]
    drawn += [('PCA', points, f'the two directions that vary most: {explained[0]:.0%} and {explained[1]:.0%}')]

    def groups(points: np.ndarray) -> list[charts.Group]:
        if not coloured:
            return [charts.Group('', 0, points)]
        rest = [charts.Group('', None, points[~np.isin(labels, coloured)])]
        return rest + [charts.Group(names(c), i, points[labels == c]) for i, c in enumerate(coloured)]

    return [
        {
            'title': title,
            'svg': charts.scatter(groups(points), f'{title} of {len(h)} features'),
            'note': note,
            'points': len(h),
            'legend': [names(c) for c in coloured],
            'grey': len(present) > len(coloured),
        }
        for title, points, note in drawn
    ]


def confusion(found: look.Features) -> dict[str, Any]:
    """The confusion matrix of the probe: a table, or of many classes a picture and the pairs confused most."""
    matrix, names = look.confusion(found), class_names(found)
    C, totals = len(matrix), matrix.sum(1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    off = np.where(np.eye(C, dtype=bool), 0, matrix)
    order = np.argsort(-off, axis=None, kind='stable')[:LISTED]
    pairs = [divmod(int(i), C) for i in order if off.flat[i] > 0]
    classes = [
        {'name': names(c), 'correct': int(matrix[c, c]), 'total': int(totals[c]), 'accuracy': float(shares[c, c])}
        for c in range(C)
        if totals[c] > 0
    ]
    heat = np.zeros((C, C, 4), np.float32)
    heat[..., :3] = 0.25, 0.56, 0.85  # with its opacity as the value: right on light and dark
    heat[..., 3] = np.sqrt(shares)
    return {
        'accuracy': float(np.trace(matrix) / totals.sum()),
        'total': int(totals.sum()),
        'names': [names(c) for c in range(C)],
        'table': [
            [(int(n), round(float(p), 3)) for n, p in zip(*row, strict=True)]
            for row in zip(matrix, shares, strict=True)
        ]
        if C <= FEW
        else None,
        'picture': None if C <= FEW else Picture(images.data_uri(heat), f'confusion matrix of {C} classes'),
        'pairs': [
            {'true': names(i), 'taken': names(j), 'count': int(matrix[i, j]), 'share': float(shares[i, j])}
            for i, j in pairs
        ],
        'classes': sorted(classes, key=lambda c: c['accuracy']),
        'listed': LISTED,
    }


def attention(encoder: Encoder, given: np.ndarray) -> dict[str, Any] | None:
    """What each head of a ViT looks at."""
    maps = look.attention(encoder, given)
    if maps is None:
        return None
    rows = []
    for i, (image, heads) in enumerate(zip(given, maps, strict=True), 1):
        shown = [
            Picture(images.data_uri(images.heat(a / max(float(a.max()), 1e-12), HEAT_SIDE)), f'image {i}, head {j}')
            for j, a in enumerate(heads, 1)
        ]
        rows.append([Picture(images.data_uri(image), f'image {i}'), *shown])
    return {'heads': maps.shape[1], 'grid': f'{maps.shape[2]} × {maps.shape[3]}', 'rows': rows}


def cells(encoder: Encoder, given: np.ndarray) -> dict[str, Any] | None:
    """The features of places as colours."""
    found = look.cells(encoder, given)
    if found is None:
        return None
    grid, what = found
    coloured = look.as_colours(grid)
    times = max(1, HEAT_SIDE // max(grid.shape[1:3]))
    pairs = []
    for i, (image, colours) in enumerate(zip(given, coloured, strict=True), 1):
        large = np.repeat(np.repeat(colours, times, axis=0), times, axis=1)
        pairs.append(
            (Picture(images.data_uri(image), f'image {i}'), Picture(images.data_uri(large), f'its features, image {i}'))
        )
    return {'what': what, 'grid': f'{grid.shape[1]} × {grid.shape[2]}', 'pairs': pairs}


def class_names(found: look.Features) -> Callable[[int], str]:
    """The name of a label: its number where the data has no names, nothing where it is unknown."""
    names = found.train_source.classes

    def name(label: int) -> str:
        return '' if label < 0 else str(label) if names is None or label >= len(names) else names[label]

    return name
