"""The command: a self-contained page with all possible sections, which names the sections that are left out."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax.data import digits, sources
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.verdict import verdict
from contrastive_jax.plots.panels import SMALL
from contrastive_jax.report import __main__ as command
from contrastive_jax.report import charts, sections
from contrastive_jax.report.facts import duration
from contrastive_jax.report.page import load_same_data
from contrastive_jax.report.record import origin, read_record
from contrastive_jax.workdir import about, metrics, run_record
from contrastive_jax.workdir.inputs import check_inputs
from tests import untrained_workdirs
from tests.tiny_configs import get_config

pytestmark = pytest.mark.usefixtures('one_device')

SECTIONS = [
    'accuracy', 'curves', 'staleness', 'views', 'neighbors', 'projections', 'confusion', 'attention', 'feature-maps',
    'settings',
]  # fmt: skip
VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}
EVIL = '<script>alert(1)</script>&"\''


class Page(HTMLParser):
    """Parses a page, and checks that tags are closed in the right order."""

    def __init__(self, file: Path):
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labelled: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.text = ''
        self.raw = file.read_text(encoding='utf-8')
        self.feed(self.raw)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        held = dict(attrs)
        self.ids += [held['id']] if 'id' in held else []
        self.labelled += [held['aria-labelledby']] if 'aria-labelledby' in held else []
        self.links += [held['href']] if 'href' in held else []
        self.images += [held] if tag == 'img' else []
        self.cells += [''] if tag in ('td', 'th') else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ('style', 'script'):
            self.text += data
            if {'td', 'th'} & set(self.open):
                self.cells[-1] += data

    @property
    def sections(self) -> list[str]:
        return [name for name in SECTIONS if name in self.ids]

    def check(self) -> None:
        """Checks what is true for every page."""
        assert len(set(self.ids)) == len(self.ids)
        assert [link.removeprefix('#') for link in self.links] == self.sections == self.labelled
        for image in self.images:
            assert image['src'].startswith(('data:image/png;base64,', 'data:image/jpeg;base64,')) and image['alt']
        for loads in ('script', 'link', 'iframe', 'object', 'form', 'base'):
            assert loads not in self.tags
        assert not re.search(r'url\(|@import|@font-face|javascript:|https?://(?!www\.w3\.org)', self.raw)
        assert self.tags.count('svg') == self.raw.count('role="img"')
        assert 'nan' not in self.text.split('Settings of the run')[0]


def tiny_config(name: str = 'mocov2', **changes: object) -> ConfigDict:
    """A config of tiny_configs.py, evaluated on a few images."""
    config = get_config(name)
    config.update_from_flattened_dict({'eval.max_train': 60, 'eval.max_test': 40, **changes})
    return config


def write_log(workdir: Path) -> None:
    """Writes metrics.jsonl and about.json as a run does."""
    writer = metrics.MetricWriter(workdir)
    writer.write(0, {'eval/knn_top1': 0.5, 'baseline/knn_top1': 0.5, 'eval/feature_std': 0.3})
    for step in (1, 2, 3):
        writer.write(
            step, {'loss': 3.0 / step, 'feature_std': 0.5, 'grad_norm': float('nan'), 'images_per_second': 1234.0}
        )
    writer.write(3, {'eval/knn_top1': 0.875, 'eval/probe_top1': 0.9, 'eval/feature_std': 0.6})
    writer.close()
    about.About(workdir, 0, {'data': 'digits', 'train_images': 1437, 'total_steps': 5}, 'jit').update(3)


def write_evaluation(workdir: Path, init: object, protocol: str = 'knn', **values: object) -> None:
    """Writes the result of an evaluation of the run `init`."""
    file = workdir / 'eval' / f'{protocol}.json'
    file.parent.mkdir(parents=True)
    result = {'protocol': protocol, 'init': str(init), 'weights': 'online', 'step': 3, 'data': 'digits'}
    file.write_text(json.dumps({**result, **{f'eval/{name}': x for name, x in values.items()}}))


def amend_evaluation(workdir: Path, **changes: object) -> None:
    """Changes facts in the result that `write_evaluation` wrote."""
    file = workdir / 'eval' / 'knn.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture(scope='module')
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that was not trained, with a checkpoint, a log and about.json."""
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    untrained_workdirs.save(tiny_config(), workdir)
    write_log(workdir)
    return workdir


def report(workdir: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[Page, list[str]]:
    """The page, and the lines of the terminal about sections that were left out."""
    assert command.main([f'--workdir={workdir}', *flags]) == 0
    *left_out, last = capsys.readouterr().out.splitlines()
    assert last.startswith('report: ')
    found = Page(Path(last.removeprefix('report: ')))
    found.check()
    for line in left_out:
        assert line.removeprefix('left out: ') in found.text
    return found, left_out


def test_evaluations_of_other_steps_data_and_runs_are_told_apart(tmp_path: Path) -> None:
    """Each is shown under its own step and data; one of another run in the same workdir is left out."""
    run = tmp_path / 'run'
    untrained_workdirs.save(tiny_config(), run)
    id_of_run = run_record.begin(run, {})
    images = {name: open_source('digits', split=name).fingerprint for name in ('train', 'test')}
    same = {'training images': images['train'], 'held-out images': images['test']}
    check_inputs(run, {'training images': (images['train'], '1,437 of digits')})
    for name, changes in {
        'now': {'run': id_of_run, 'fingerprints': same},
        'earlier': {'run': id_of_run, 'fingerprints': same, 'step': 2},
        'transfer': {'run': id_of_run, 'fingerprints': {**same, 'held-out images': 'x' * 24}},
        'replaced': {'run': 'f' * 16, 'fingerprints': same},
        'old': {},
    }.items():
        write_evaluation(tmp_path / name, run, top1=0.5)
        amend_evaluation(tmp_path / name, **changes)
    record = read_record(str(run))
    assert {e.folder: origin(e, record.newest, same) for e in record.evaluations} == {
        'now': '',
        'earlier': 'of step 2; the newest checkpoint is of step 3',
        'transfer': 'its held-out images are not those of this run',
        'old': 'by an older version, which did not record its data',
    }
    assert record.left_out == ['evaluation replaced (knn): it is of another run, which was in this workdir']
    assert len(load_same_data(record)[0]) == 1437
    (run / 'inputs.json').write_text(json.dumps({'training images': ['o' * 24, '99 of digits']}))
    with pytest.raises(UserError, match='99 of digits -> 1,437 of digits'):
        load_same_data(read_record(str(run)))


def test_the_whole_page(given: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With evaluations in the same folder and in another one, by path and by a link, but not those of another run."""
    link = tmp_path / 'link'
    link.symlink_to(given)
    write_evaluation(given.parent / 'run_knn', given, knn20_top1=0.9375, knn20_top5=1.0)
    write_evaluation(given.parent / 'other', given.parent / 'another', top1=0.111)
    write_evaluation(
        tmp_path / 'evaluations' / 'probe', link, 'linear', top1=0.777, learning_rate=0.3, found='no number'
    )
    (tmp_path / 'evaluations' / 'probe' / 'eval' / 'mine.json').write_text('[1]')
    found, left_out = report(given, capsys, f'--evaluations={tmp_path / "evaluations"}')
    assert left_out == []
    assert found.sections == [name for name in SECTIONS if name != 'attention']
    assert 'MoCo on digits' in found.text and '87.5%' in found.text and 'untrained encoder: 50.0%' in found.text
    assert all(line in found.text for line in sections.conclusions(read_record(str(given))))
    assert found.raw.count('class="scroll wide"') >= 4 and 'near 1; below 0.1: collapsed' in found.text
    assert 'step 3 of 5' in found.text and '1,437 training images' in found.text and '1,234 (median)' in found.text
    for text in ('run_knn', '93.8%', 'probe', '77.7%', 'learning_rate 0.3'):
        assert text in found.text
    assert 'by an older version, which did not record its data' in found.text
    assert '11.1%' not in found.text and 'no number' not in found.text
    config = json.loads((given / 'config.json').read_text())
    assert json.loads(found.text[found.text.index('{') : found.text.rindex('}') + 1]) == config
    assert (given / 'report.html').is_file() and len(found.raw) < 1_000_000
    # A row of the confusion table sums to the held-out images of its class, the diagonal to the correct predictions.
    start = found.raw.index('class="matrix"')
    rows = re.findall(r'<tr>(.*?)</tr>', found.raw[start : found.raw.index('</table>', start)])[1:]
    counts = np.array([[int(n) for n in re.findall(r'<td[^>]*>(\d+)</td>', row)] for row in rows])
    shown = np.linspace(0, 359, 40).astype(int)
    np.testing.assert_array_equal(counts.sum(1), np.bincount(open_source('digits', split='test').labels[shown]))
    accuracy = re.search(r'step 3 classifies ([\d.]+)% of 40 held-out images', found.text)
    assert accuracy and float(accuracy.group(1)) == pytest.approx(100 * np.trace(counts) / 40, abs=0.06)


def test_the_head_says_whether_it_went_well_and_what_to_do_next(tmp_path: Path) -> None:
    """The sentences of the verdict on the last values, then dropped steps and rollbacks; values of the same images."""
    run = tmp_path / 'run'
    untrained_workdirs.save(tiny_config(init='runs/other'), run)
    write_log(run)
    record = read_record(str(run))
    assert sections.conclusions(dataclasses.replace(record, history=record.history[:1])) == [], 'at step 0'
    writer = metrics.MetricWriter(run, 3)
    writer.write(
        3, {'baseline/pixels_knn_top1': 0.8, 'eval/knn_few_top1': 0.45, 'eval/effective_rank': 9.0, 'dropped': 2.0}
    )
    writer.close()
    run_record.write(run, {'id': 'x', 'rollbacks': [{'to_step': 1, 'at': '2026-01-01', 'changes': ['seed: 0 -> 1']}]})
    record = read_record(str(run))
    good, pixels, before, dropped, rolled = sections.conclusions(record)
    assert [good, pixels, before] == verdict(record.latest, 'given weights') and good.startswith('not collapsed')
    assert pixels.startswith('worse than raw pixels (kNN 45.0%, raw pixels 80.0%) -> ')
    assert before.startswith('no better than the given weights (50.0%)')
    assert (
        dropped.startswith('2 steps changed nothing') and rolled == 'rolled back to step 1 at 2026-01-01: seed: 0 -> 1'
    )
    knn, probe = sections.accuracies(record)
    assert knn['value'] == '87.5%' and probe['others'] == []
    assert knn['others'] == ['on the images of the values below: 45.0%', 'given weights: 50.0%', 'raw pixels: 80.0%']
    scales = {chart.title: chart.scale for chart in sections.curve_charts(record, SMALL)}
    assert 'below 0.1: collapsed' in scales['feature std (0 = collapsed)'] and 'below 2' in scales['effective rank']


@pytest.mark.parametrize('name', ['cmc', 'cpc', 'dino'])
def test_every_kind_of_method(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(name)
    untrained_workdirs.save(config, tmp_path / 'run')
    found, _ = report(tmp_path / 'run', capsys)
    assert {'views', 'neighbors', 'projections', 'confusion'} <= set(found.sections)
    vit = config.encoder.name.startswith(('vit', 'dino'))
    assert ('attention' in found.sections) == vit
    if vit:
        heads = config.encoder.get('num_heads', 3)
        assert f'head {heads}' in found.cells and f'head {heads + 1}' not in found.cells
    local = config.augment.local_crops > 0
    assert any(cell.startswith('local view 1, draw 1') for cell in found.cells) == local
    assert 'No accuracy was measured' in found.text and 'before about.json existed' in found.text


def test_a_folder_without_labels_and_without_held_out_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / '<b>photos'
    images.mkdir()
    for i, image in enumerate(open_source('digits').array[:30]):
        Image.fromarray(image).resize((20, 14)).save(images / f'{i:02}<i>.png')
    (images / '29<i>.png').write_bytes(b'no image')
    untrained_workdirs.save(tiny_config(**{'data.source': 'folder', 'data.path': str(images)}), tmp_path / 'run')
    found, left_out = report(tmp_path / 'run', capsys)
    assert 'confusion' not in found.sections and '29 training images' in found.text
    assert any('no held-out images' in line for line in left_out) and 'The data has no labels' in found.text
    assert '<i>' not in found.raw and '<b>photos' not in found.raw and '<b>photos' in found.text


def test_many_classes_with_names_that_look_like_html(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The confusion matrix is a picture with lists, ten classes have colors, and names from users are escaped."""

    def load(split: str = 'train', channels: int = 3) -> sources.ArraySource:
        images = given_digits(split).array
        return sources.ArraySource(images, np.arange(len(images)) % 40, name=EVIL, classes=(*[EVIL] * 39, 'caf\udce9'))

    given_digits = digits.load
    monkeypatch.setattr(digits, 'load', load)
    run = tmp_path / "<img src=x onerror='1'>"
    untrained_workdirs.save(tiny_config(), run)
    write_log(run)
    write_evaluation(tmp_path / '<script>2', run, '<script>3', **{EVIL: 0.5})
    found, _ = report(run, capsys)
    assert {EVIL, '<script>2', '<script>3'} <= set(found.cells) and f'on {EVIL}' in found.text
    assert 'caf\\udce9' in found.text  # a name that is not UTF-8
    assert '<script' not in found.raw and '<img src=x' not in found.raw
    assert 'class="matrix"' not in found.raw and 'confusion matrix of 40 classes' in found.raw
    assert re.search(r'all \d+ classes', found.text) and '10 most frequent classes' in found.text
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', found.raw, re.DOTALL)
    assert legends[-1].count('swatch') == charts.COLORS + 1


@pytest.mark.parametrize('missing', ['data', 'checkpoint', 'all'])
def test_a_missing_part_leaves_out_only_its_sections(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Path
) -> None:
    run = tmp_path / 'run'
    shutil.copytree(given, run, ignore=shutil.ignore_patterns('report.html'))
    if missing in ('data', 'all'):
        text = (run / 'config.json').read_text()
        (run / 'config.json').write_text(
            text.replace('"source": "digits"', '"source": "npz"').replace('"path": ""', '"path": "/gone.npz"')
        )
    if missing in ('checkpoint', 'all'):
        shutil.rmtree(run / 'checkpoints')
    if missing == 'all':
        (run / 'metrics.jsonl').unlink()
    found, left_out = report(run, capsys)
    expected = {
        'data': ['accuracy', 'curves', 'settings'],
        'checkpoint': ['accuracy', 'curves', 'views', 'settings'],
        'all': ['accuracy', 'settings'],
    }[missing]
    assert found.sections == expected
    assert any('gone.npz' in line for line in left_out) == (missing in ('data', 'all'))
    assert any('no checkpoint' in line for line in left_out) == (missing in ('checkpoint', 'all'))
    assert 'MoCo on digits' in found.text, 'the name of the data is recorded'


@pytest.mark.parametrize('file', ['inputs.json', 'run.json'])
def test_a_damaged_record_is_said_and_does_not_stop_the_report(
    file: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / 'run'
    shutil.copytree(given, run, ignore=shutil.ignore_patterns('report.html'))
    (run / file).write_text('{"training images": [')
    found, left_out = report(run, capsys)
    assert any(f'{file} cannot be read' in line for line in left_out)
    assert {'accuracy', 'curves', 'views'} <= set(found.sections)
    # A checkpoint is used only if it repeats the id in run.json.
    assert ('confusion' in found.sections) == (file == 'inputs.json')


@pytest.mark.parametrize(
    ('flags', 'line'),
    [
        (['--workdir={tmp}/none'], '{tmp}/none does not exist -> give the workdir of a run'),
        (['--workdir={tmp}/file'], 'is a file -> give the workdir of a run'),
        (['--workdir={tmp}'], 'give the workdir of a run'),
        (
            ['--workdir={tmp}/evaluation'],
            'evaluation is the workdir of an evaluation -> give the workdir of the run that it evaluates: /its/run',
        ),
        (['--workdir={tmp}/odd'], 'is not the config of a run: it lacks'),
        (['--workdir={run}', '--evaluations={tmp}/none'], '{tmp}/none is not a folder'),
        (['--workdir={run}', '--output={tmp}'], 'is a folder -> give a file'),
        (['--workdir={run}', '--output={tmp}/none/x.html'], 'the folder {tmp}/none does not exist'),
    ],
)
def test_an_error_is_one_line(
    flags: list[str], line: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_compiled: None
) -> None:
    (tmp_path / 'file').touch()
    for name, config in (
        ('evaluation', {'protocol': 'knn', 'init': '/its/run'}),
        ('odd', {'method': {'name': 'moco'}}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'config.json').write_text(json.dumps(config))
    paths = {'tmp': tmp_path, 'run': given}
    assert command.main([flag.format(**paths) for flag in flags]) == 2
    err = capsys.readouterr().err
    assert line.format(**paths) in err and err.count('\n') == 1


def test_duration() -> None:
    assert [duration(s) for s in (0, 59.6, 250, 3600, 10_925)] == [
        '0 s',
        '1 min 00 s',
        '4 min 10 s',
        '1 h 00 min',
        '3 h 02 min',
    ]
