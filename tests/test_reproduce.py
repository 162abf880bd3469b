"""Anchors are real, and the command runs one, judges it, records it once and goes on where it was stopped."""

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from contrastive_jax import compare, load_encoder
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import UserError
from contrastive_jax.methods import METHODS
from contrastive_jax.protocols import run as protocols_run
from contrastive_jax.protocols.run import RESULTS_FOLDER
from contrastive_jax.reproduce import __main__ as reproduce
from contrastive_jax.reproduce.references import REFERENCES, Number, Reference
from contrastive_jax.training import fit as training
from contrastive_jax.workdir import metrics
from tests import whole_runs
from tests.whole_runs import Cut, compiled, quick_runs  # noqa: F401 (fixtures)

REPOSITORY = Path(__file__).parents[1]

# No colour: the programs of tests are not optimised.
CHANGES = {
    'augment.jitter': (0.0, 0.0, 0.0, 0.0),
    'augment.jitter_probability': 0.0,
    'augment.grayscale': 0.0,
    'augment.blur': (0.0, 0.0),
}


def tiny(reference: float) -> Reference:
    number = Number('knn:digits', 'knn20_top1', reference, 2.0, 'a guess')
    return Reference('mocov2:tiny', (number,), 'seconds', CHANGES)


@pytest.fixture
def little_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is easily met, and one that cannot be."""
    held = {'easy': tiny(10.0), 'hard': tiny(110.0)}
    monkeypatch.setattr(reproduce, 'REFERENCES', held)
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'left as it is')


def tell(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = reproduce.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def slow_knn(workdir: Path, k: int = 20, temperature: float = 0.07) -> float:
    """Accuracy in percent, image by image."""
    encoder = load_encoder(workdir)
    splits = [open_source('digits', split=split) for split in ('train', 'test')]
    train, test = (np.asarray(encoder(split.array), np.float64) for split in splits)
    train, test = (h / np.linalg.norm(h, axis=1, keepdims=True) for h in (train, test))
    hits = []
    for h, label in zip(test, splits[1].labels, strict=True):
        cosine = train @ h
        nearest = np.argsort(-cosine, kind='stable')[:k]
        votes = np.bincount(splits[0].labels[nearest], np.exp(cosine[nearest] / temperature), minlength=10)
        hits.append(votes.argmax() == label)
    return 100 * float(np.mean(hits))


# ================================ the command ================================


def test_a_reference_s_life(
    tmp_path: Path,
    little_references: None,
    quick_runs: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped in training and between the stages, finished, asked again; a second one is missed."""
    results, folder = tmp_path / 'sub' / 'results.jsonl', tmp_path / 'runs' / 'easy'
    argv = [f'--workdir={tmp_path}/runs', f'--results={results}']
    Cut.at, Cut.done = 1, 0
    code, out, _ = tell(capsys, 'easy', *argv)
    assert code == 42 and 'at step 1 of 2, saved; the same command goes on' in out
    assert not results.exists() and not (folder / reproduce.RESULT).exists()

    Cut.at = None
    given = reproduce.Interrupt
    monkeypatch.setattr(reproduce, 'Interrupt', AfterTraining)
    code, out, _ = tell(capsys, 'easy', *argv)
    assert code == 42 and 'between two stages' in out and not results.exists()
    log = (folder / reproduce.PRETRAINING / metrics.FILE).read_bytes()
    assert metrics.read(folder / reproduce.PRETRAINING)[-1]['step'] == 2
    before = reproduce.read(folder / reproduce.SECONDS)
    assert before > 0

    monkeypatch.setattr(reproduce, 'Interrupt', given)
    code, out, _ = tell(capsys, 'easy', *argv)
    assert code == 0 and out.rstrip().endswith(f'easy: pass\nrecorded in {results}')
    assert (folder / reproduce.PRETRAINING / metrics.FILE).read_bytes() == log  # it was not trained again
    (line,) = results.read_text().splitlines()
    result = json.loads(line)
    (number,) = result['numbers']
    assert abs(number['ours'] - slow_knn(folder / reproduce.PRETRAINING)) < 0.01
    assert (number['reference'], number['tolerance'], number['met'], result['passed']) == (10.0, 2.0, True, True)
    assert result['seconds'] > before and result['jax'] == jax.__version__
    assert result['command'].startswith('python -m contrastive_jax.reproduce easy --workdir=')
    head = subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True, cwd=REPOSITORY).stdout.strip()
    assert result['commit'].rstrip('+') == head
    assert (
        result['pretraining']['baseline/knn_top1'] == metrics.read(folder / reproduce.PRETRAINING)[0]['eval/knn_top1']
    )
    assert [re.search(rf'{x:.1f}', out) for x in (10.0, 2.0, number['ours'])].count(None) == 0

    with monkeypatch.context() as patch:  # again: nothing runs, nothing is recorded twice
        patch.setattr(training, 'fit', None)
        patch.setattr(protocols_run, 'run_protocol', None)
        code, again, _ = tell(capsys, 'easy', *argv)
    assert code == 0 and 'easy: pass' in again and results.read_text() == line + '\n'

    shutil.copytree(folder / reproduce.PRETRAINING, tmp_path / 'runs' / 'hard' / reproduce.PRETRAINING)
    code, out, _ = tell(capsys, 'hard', *argv)
    assert code == reproduce.MISSED and 'hard: FAIL' in out and 'MISSED' in out
    lines = results.read_text().splitlines()
    assert lines[0] == line and [json.loads(x)['anchor'] for x in lines] == ['easy', 'hard']
    assert [json.loads(x)['passed'] for x in lines] == [True, False]


class AfterTraining(reproduce.Interrupt):
    """A signal that comes in the last moments of the training, after it looked for one."""

    asked = 0

    @property
    def requested(self) -> str | None:
        AfterTraining.asked += 1
        return 'SIGTERM' if AfterTraining.asked > 1 else None  # the first time is before the training

    @requested.setter
    def requested(self, value: str | None) -> None:
        pass


def test_an_evaluation_of_an_earlier_training_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = reproduce.load_config('eval.knn:digits', {'init': str(tmp_path / 'run')})
    calls = []
    monkeypatch.setattr(protocols_run, 'run_protocol', lambda *args: calls.append(args) or {'eval/knn20_top1': 0.5})
    file = tmp_path / 'knn' / RESULTS_FOLDER / 'knn.json'
    file.parent.mkdir(parents=True)
    for trained, judged, expected in ((7, 7, 0.9), (8, 7, 0.5)):
        (tmp_path / 'run').mkdir(exist_ok=True)
        (tmp_path / 'run' / metrics.FILE).write_text(json.dumps({'step': trained}) + '\n')
        file.write_text(json.dumps({'step': judged, 'eval/knn20_top1': 0.9}))
        assert reproduce.evaluate(judge, tmp_path / 'knn') == {'eval/knn20_top1': expected}
    assert len(calls) == 1


@pytest.mark.parametrize(
    ('ours', 'gained', 'passed'),
    [
        (0.90, 0.2, True),
        (0.87, 0.2, True),
        (0.8699, 0.2, False),
        (0.90, 0.04, False),
        (0.99, 0.05, True),
        (float('nan'), 0.2, False),
        (0.90, float('nan'), False),
        (0.90, None, False),
    ],
)
def test_verdict(ours: float, gained: float | None, passed: bool) -> None:
    """The tolerance counts downwards only; what was not measured, or is not finite, is no pass."""
    reference = Reference('mocov2:digits', (Number('knn:digits', 'knn20_top1', 90.0, 3.0, ''),), '', gain=5.0)
    trained = {} if gained is None else {'baseline/knn_top1': 0.5, 'eval/knn_top1': 0.5 + gained}
    result = reproduce.verdict(reference, trained, [{'eval/knn20_top1': ours}])
    assert result['passed'] is passed
    json.dumps(result, allow_nan=False)
    text = reproduce.report({'anchor': 'x', **result})
    assert text.endswith('x: pass' if passed else 'x: FAIL')


def test_all_numbers_have_to_be_met() -> None:
    numbers = tuple(Number('knn:digits', f'knn{k}_top1', 90.0, 1.0, '') for k in (1, 20))
    for found in ((0.95, 0.8), (0.8, 0.95)):
        values = [{f'eval/knn{k}_top1': x} for k, x in zip((1, 20), found, strict=True)]
        assert not reproduce.verdict(Reference('mocov2', numbers, ''), {}, values)['passed']


def test_records_are_appended_to_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / 'results.jsonl'
    file.write_text('{"by": "hand"}')  # without a newline at its end
    for result in ({'a': 1}, {'a': 2}, {'a': 1}):
        reproduce.record(result, file)
    assert file.read_text() == '{"by": "hand"}\n{"a": 1}\n{"a": 2}\n'
    with pytest.raises(UserError, match='cannot write --results'):
        reproduce.record({'a': 1}, tmp_path)


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('argv', 'code', 'said'),
    [
        (['mocov2_digit'], 2, "no reference is called 'mocov2_digit'; did you mean 'mocov2_digits'"),
        (['zzz'], 2, "no reference is called 'zzz' -> --list shows all of them"),
        (['mocov2_digits', '--data=x.npz'], 2, 'mocov2:digits has embedded data -> leave it out'),
        (['mocov2_cifar10'], 3, 'mocov2:cifar10 needs data -> --data=cifar10.npz, written by np.savez'),
        (['mocov1_imagenet'], 3, 'mocov1 needs data -> --data=DIR'),
        (['mocov2_cifar10', '--data=HERE/nothing.npz'], 3, "nothing.npz' does not exist"),
        (['mocov2_cifar10', '--data=HERE/few.npz'], 3, 'has 40 training and 8 held-out images, cifar10 has 50000 and'),
        (['mocov1_imagenet', '--data=HERE/nothing'], None, 'imagenet2012'),
        (['mocov2_digits', '--results=HERE'], 2, 'is a folder -> name a file in it'),
        (['mocov2_digits', '--workdir=gs://bucket/runs'], 2, 'is not local -> mount the bucket'),
    ],
)
def test_mistakes_are_a_line_each(
    argv: list[str], code: int | None, said: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    whole_runs.write_npz(tmp_path / 'few.npz', 40, 8)
    argv = [arg.replace('HERE', str(tmp_path)) for arg in argv]
    got, out, err = tell(capsys, f'--workdir={tmp_path}/runs', *argv)
    assert got == code if code else got in (2, 3)
    assert (
        err.count('\n') == 1 and err.startswith('contrastive_jax: error: ') and said in err and '--config.' not in err
    )
    assert out.count('\n') <= 1 and not (tmp_path / 'runs').exists()


def test_a_torn_result_is_named(tmp_path: Path) -> None:
    (tmp_path / 'x.json').write_text('{"a": ')
    with pytest.raises(UserError, match=r'cannot read .*x\.json: .* -> delete it'):
        reproduce.read(tmp_path / 'x.json')
    assert reproduce.read(tmp_path / 'none.json') is None


def test_started_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes are those of the package, wherever the command is started."""
    monkeypatch.chdir(tmp_path)
    assert reproduce.load_config('eval.knn:digits', {'knn.temperature': 0.5}).knn.to_dict() == {
        'k': (20,), 'temperature': 0.5,
    }  # fmt: skip


@pytest.mark.parametrize('argv', [[], ['--list'], ['mocov2_digits', '--list']])
def test_the_table(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tell(capsys, *argv)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 1 + sum(len(reference.numbers) for reference in REFERENCES.values())
    (row,) = [line.split() for line in lines if line.startswith('mocov1_imagenet ')]
    assert row[:5] == ['mocov1_imagenet', 'mocov1', 'linear:mocov2', '60.6', '0.5']


# ================================ the references ================================


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize('name', REFERENCES)
def test_a_reference_is_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configs load and are valid with what it changes, and its protocols write the metrics that it looks at."""
    reference = REFERENCES[name]
    data = '' if name.endswith('_digits') else str(tmp_path)
    config, judges = reproduce.load_configs(reference, tmp_path, data)
    assert config.data.path == data and config.data.name in reproduce.IMAGES and config.steps == 0
    assert {'digits': '_digits', 'cifar10': '_cifar10', 'imagenet2012': '_imagenet'}[config.data.name] in name
    for number, judge in zip(reference.numbers, judges, strict=True):
        written = {'knn': [f'knn{k}_top1' for k in judge.knn.k] if 'knn' in judge else [], 'linear': ['linear_top1']}
        assert number.metric in written[judge.protocol]
        assert 50 < number.reference < 100 and 0 < number.tolerance <= 3 and number.source
    assert (reference.gain > 0) == name.endswith('_digits')


def test_every_method_has_a_reference_on_digits() -> None:
    configs = [reference.config for name, reference in REFERENCES.items() if name.endswith('_digits')]
    assert {reproduce.load_config(config, {}).method.name for config in configs} == set(METHODS)
    assert {config.replace('configs/', '').replace('.py', '') for config in compare.every_method()} <= set(configs)


@pytest.mark.parametrize('name', [name for name in REFERENCES if not name.endswith('_digits')])
def test_references_are_those_of_the_configs(name: str) -> None:
    """The head of a config says what its paper reports."""
    reference = REFERENCES[name]
    said = importlib.import_module(f'contrastive_jax.configs.{reference.config.partition(":")[0]}').__doc__
    for number in reference.numbers:
        assert re.search(rf'(?<!\d){number.reference:g}(?!\d)', said), f'{number.reference} is not in {said}'
