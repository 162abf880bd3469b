"""Builds the page: computes the sections that are possible for a run, and renders `page.html`.

Jinja escapes all values, because names of classes, paths and values of a config are written by users.
"""

import datetime
import json
from collections.abc import Callable
from typing import Any

import jinja2

from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.online import evenly_spaced
from contrastive_jax.plots.panels import LARGE, SMALL
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.load import load as load_encoder
from contrastive_jax.report import analysis, charts, sections
from contrastive_jax.report.facts import facts
from contrastive_jax.report.record import RunRecord, origin
from contrastive_jax.training.fit import load_data
from contrastive_jax.workdir.inputs import compare

SHOWN = 6  # images whose attention and feature maps are shown


def render(record: RunRecord, say: Callable[[str], None] = lambda _: None) -> tuple[str, list[str]]:
    """Renders the page of a run.

    Args:
      record: what the run recorded.
      say: is called with a line before each part that takes a while.

    Returns:
      The page as HTML, and one line for each section that was left out because something is missing or wrong.
    """
    computed = ComputedSections(record, say)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('contrastive_jax.report', ''),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template('page.html').render(
        title=f'{record.method} on {computed.data_name}',
        record=record,
        evaluations=[(e, origin(e, record.newest, computed.inputs)) for e in record.evaluations],
        colors=charts.COLORS,
        summary=summary(record),
        conclusions=sections.conclusions(record),
        first=record.first,
        accuracies=sections.accuracies(record),
        large=sections.curve_charts(record, LARGE),
        small=sections.curve_charts(record, SMALL),
        staleness=computed.staleness,
        views=computed.views,
        neighbors=computed.neighbors,
        projections=computed.projections,
        confusion=computed.confusion,
        attention=computed.attention,
        feature_maps=computed.feature_maps,
        facts=facts(record),
        config=json.dumps(json.loads(record.config.to_json()), indent=2, sort_keys=True),
        left_out=computed.left_out,
        step=computed.step,
        shown=computed.shown,
        images=computed.images,
        now=datetime.datetime.now().astimezone().isoformat(' ', 'minutes'),
    )
    return html, computed.left_out


def summary(record: RunRecord) -> str:
    """The encoder, the batch size and the length of a run in one line."""
    c, total = record.config, record.about.get('total_steps')
    done = f'step {record.step:,}' + (f' of {total:,}' if total and record.step < total else '')
    length = f'{c.steps:,} steps' if c.steps else f'{c.epochs:g} epochs'
    return f'{c.encoder.name}, batch size {c.batch_size:,}, {length}; {done}'


def load_same_data(record: RunRecord) -> tuple[Source, Source | None]:
    """The data of a run.

    Raises:
      UserError: it is missing, or its training images are not those that the run was trained on.
    """
    source, held_out = load_data(record.config)
    given = {'training images': (source.fingerprint, f'{len(source):,} of {source.name}')}
    compare(record.workdir, record.inputs, given)
    return source, held_out


class ComputedSections:
    """The sections that need the data or the encoder. A section is None if it does not apply or something is missing.

    Attributes:
      left_out: one line for each section that is missing, with the reason, unless a reader does not expect it.
      step: the step of the checkpoint; 0 if there is none.
      shown: which channels the pictures show; '' for RGB.
      images: 'held-out images', or 'training images' if the data has no held-out images.
      data_name: the name of the data.
      inputs: fingerprints of the data, by the names of `workdir.inputs`; those that are not known are missing.
    """

    def __init__(self, record: RunRecord, say: Callable[[str], None] = lambda _: None):
        self._say = say
        self.left_out: list[str] = list(record.left_out)
        self.inputs = {name: fingerprint for name, (fingerprint, _) in record.inputs.items()}
        self.step, self.shown = 0, ''
        self.images = 'held-out images'
        self.staleness = self.views = self.neighbors = self.projections = self.confusion = None
        self.attention = self.feature_maps = None
        data = self._try('sections that need the data', lambda: load_same_data(record))
        if data:
            splits = zip(('training images', 'held-out images'), data, strict=True)
            self.inputs |= {name: source.fingerprint for name, source in splits if source is not None}
        encoder = self._try('sections that need the encoder', lambda: load_encoder(record.workdir))
        self.data_name = data[0].name if data else record.about.get('data') or record.config.data.source
        if data:
            self.views = self._try('augmented views', lambda: sections.augmented_views(record.config, data[0]))
        if encoder:
            self.step, self.shown = encoder.step, encoder.policy.shown_channels
        if data and encoder:
            devices = find_devices('jit')
            self.staleness = self._try('staleness', lambda: sections.staleness(record, data[0], devices))
            found = self._try(
                'sections that need features', lambda: analysis.features(encoder, data[0], data[1], devices)
            )
            if found:
                self._add_features(encoder, found)

    def _add_features(self, encoder: Encoder, found: analysis.Features) -> None:
        """Computes the sections that need both data and encoder."""
        if not found.held_out:
            self.images = 'training images'
            self.left_out.append('confusion matrix: the data has no held-out images')
        elif found.classes < 2:
            self.left_out.append('confusion matrix: the data has no labels of two or more classes')
        else:
            self.confusion = self._try('confusion matrix', lambda: sections.confusion(found))
        size = encoder.image_size
        self.neighbors = self._try('nearest neighbors', lambda: sections.neighbors(found, encoder.policy, size))
        self.projections = self._try('projections of the features', lambda: sections.projections(found))
        ids = found.test_ids[evenly_spaced(len(found.test_ids), SHOWN)]
        given = analysis.preprocess(encoder, found.test_source, ids)
        self.attention = self._try('attention', lambda: sections.attention(encoder, given))
        self.feature_maps = self._try('feature maps', lambda: sections.feature_maps(encoder, given))
        if self.feature_maps is None:
            cells = f'{analysis.MIN_CELLS} × {analysis.MIN_CELLS} cells'
            self.left_out.append(f'feature maps: the encoder has no feature map of at least {cells}')

    def _try(self, section: str, compute: Callable[[], Any]) -> Any:
        """The result of `compute`; None, and a line with the reason, if it raises a UserError."""
        self._say(f'{section.removeprefix("sections that need ")} ...')
        try:
            return compute()
        except UserError as error:
            reason = ' '.join(str(error).split())
            self.left_out.append(f'{section}: {reason}')
            return None
