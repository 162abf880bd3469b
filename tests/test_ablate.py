"""The ablations: every arm is a legal config, runs are completed once, and the page says what their results say."""

import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax.ablate import __main__ as command
from contrastive_jax.ablate import page, runs
from contrastive_jax.ablate.ablations import ABLATIONS, Arm, Data, changes_of, config_of
from contrastive_jax.ablate.runs import Result
from contrastive_jax.config.check import check
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.load import load
from contrastive_jax.config.overrides import override
from contrastive_jax.errors import Interrupted
from contrastive_jax.losses import negative_cosine
from contrastive_jax.training.child import Children
from contrastive_jax.workdir import metrics
from tests import train_steps


@pytest.mark.parametrize('data', ['digits', 'cifar10'])
@pytest.mark.parametrize('name', ABLATIONS)
def test_every_arm_is_a_legal_config(name: str, data: Data) -> None:
    """And changes what it names: no two arms are the same training."""
    ablation = ABLATIONS[name](data)
    trainings = []
    for arm in ablation.arms:
        recipe = train_steps.load(config_of(ablation, arm, data))
        config = train_steps.load(config_of(ablation, arm, data), **changes_of(arm, data, recipe))
        if data == 'cifar10':
            config.data.update(source='npz', path='cifar10.npz')
        assert [problem for problem in check(config, 1) if 'cifar10.npz' not in problem] == [], arm.name
        trainings.append(config.to_json())
    assert len(set(trainings)) == len(ablation.arms) == len({arm.name for arm in ablation.arms})
    folders = {runs.place(Path(), arm, 0) for arm in ablation.arms}
    assert len(folders) == len(ablation.arms)
    if ablation.picture != 'bars':
        assert bool(ablation.axis) == (ablation.picture == 'curves')
        assert len({arm.place for arm in ablation.arms}) == len(ablation.arms) and ablation.arms[0].place


def test_the_digits_are_ablated_in_the_settings_of_the_papers() -> None:
    """Some values, written out again."""
    recipe = train_steps.load('mocov1:digits')
    m = [changes_of(arm, 'digits', recipe)['method.momentum'] for arm in ABLATIONS['momentum']('digits').arms]
    assert m == [0.0, 0.9, 0.99, 0.999, 0.9999]
    pairs = [arm.place for arm in ABLATIONS['augmentations']('cifar10').arms]
    assert len(pairs) == 5 * 6 / 2 and ('crop', 'color') in pairs
    arm = next(arm for arm in ABLATIONS['augmentations']('digits').arms if arm.name == 'blur')
    config = train_steps.load('simclr:digits', **arm.changes)
    augment = config.augment
    assert augment.blur == (0.5, 0.5) and augment.jitter_probability == augment.flip == augment.grayscale == 0.0
    assert augment.crop_scale == augment.crop_ratio == (1.0, 1.0)


@pytest.mark.parametrize('name', ['simsiam:tiny', 'byol:tiny'])
def test_without_predictor_the_projections_are_compared(name: str, rng: np.random.Generator) -> None:
    """Then the predictor gets no gradient."""
    run, _ = train_steps.build(train_steps.load_small(name, **{'method.use_predictor': False}))
    x = [jnp.asarray(rng.normal(size=(16, 8, 8, 3)), jnp.float32) for _ in range(2)]
    params, state = run.method.init(jax.random.key(0), {'views': x})
    loss = lambda p: run.method.loss(p, state, {'views': x}, rng=jax.random.key(0), progress=0.0)[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    assert not any(np.any(g) for g in jax.tree.leaves(gradient['predictor']))
    assert any(np.any(g) for g in jax.tree.leaves(gradient['projector']))


def test_without_stop_gradient_both_sides_get_the_gradient_of_the_cosine(rng: np.random.Generator) -> None:
    """By finite differences, in float64."""
    p, z = rng.normal(size=(2, 3, 4))
    cosine = lambda p, z: -np.mean(np.sum(p * z, -1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(z, axis=-1))  # noqa: E731
    with jax.enable_x64(True):
        found = jax.grad(lambda z: negative_cosine(jnp.asarray(p), z, stop_gradient=False))(jnp.asarray(z))
        assert not np.any(jax.grad(lambda z: negative_cosine(jnp.asarray(p), z))(jnp.asarray(z)))
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = 1e-6
        assert found[i] == pytest.approx((cosine(p, z + step) - cosine(p, z - step)) / 2e-6, abs=1e-8)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Takes the place of training: arms without stop-gradient collapse, and those without predictor fail."""
    commands: list[list[str]] = []

    def run(processes: Children, given: list[str], output: IO[bytes]) -> int:
        commands.append(given)
        workdir = Path(next(arg for arg in given if arg.startswith('--workdir=')).removeprefix('--workdir='))
        if 'predictor' in str(workdir):
            output.write(b'contrastive_jax: error: no\n')
            return 2
        workdir.mkdir(parents=True, exist_ok=True)
        writer, collapsed = metrics.MetricWriter(workdir), 'stop' in str(workdir)
        for step, knn in ((0, 0.5), (10, 0.8), (20, 0.7), (30, 0.1 if collapsed else 0.9)):
            std = 0.0 if collapsed else 1.0
            writer.write(
                step,
                {
                    'baseline/knn_top1': 0.5,
                    'eval/knn_top1': knn,
                    'eval/probe_top1': knn,
                    'eval/feature_std': std,
                    'feature_std': std,
                },
            )
        writer.close()
        return 0

    monkeypatch.setattr(Children, 'run', run)
    return commands


def test_runs_are_trained_once_and_the_page_says_what_they_say(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ['simsiam', f'--workdir={tmp_path}', '--seeds=0,1', '--jobs=2', '--epochs=3', '--config.batch_size=64']
    assert command.main(given) == 1, 'an arm fails'
    assert len(started) == 8
    (without,) = [c for c in started if any('stop_gradient/seed1' in arg for arg in c)]
    assert without[1:3] == ['-m', 'contrastive_jax.main'] and '--config=configs/simsiam.py:digits' in without
    assert {'--config.method.stop_gradient=False', '--config.epochs=3.0'} <= {*without}
    assert without[-2:] == [
        '--config.batch_size=64',
        '--config.seed=1',
    ]

    folder = tmp_path / 'simsiam'
    table = (folder / page.TABLE).read_text()
    assert (
        '| SimSiam | 2 | 90.0 (90.0 to 90.0) | 50.0 (50.0 to 50.0) | 90.0 (90.0 to 90.0) | 10.0 (10.0 to 10.0) | 1 |'
        in table
    )
    assert (
        '| without predictor | 0, 2 failed | not measured | not measured | not measured | not measured | not measured |'
        in table
    )
    html, out = (folder / page.PAGE).read_text(), capsys.readouterr().out
    for text in (html, out):
        below = (
            'Below its untrained encoder in every run: without stop-gradient, kNN 10.0 (10.0 to 10.0) % against 50.0'
        )
        assert below in text and text.count('Below') == 1
        assert 'Collapsed in every run: without stop-gradient.' in text
        assert 'Failed: without predictor, seed 0, exit code 2: contrastive_jax: error: no' in text
    assert 'feature_std is the spread of the normalized projections' in html
    assert 'python -m contrastive_jax.ablate simsiam' in html and table in out
    with Image.open(folder / page.PICTURE) as picture:
        assert picture.format == 'PNG'

    assert command.main(given) == 1
    assert len(started) == 10, 'those that failed are tried again, and no other'

    shutil.rmtree(folder / 'simsiam' / 'seed1')
    assert command.main(given) == 1
    assert len(started) == 13 and '/simsiam/seed1' in str(started[10:]), 'a deleted one is trained again'

    def changed(given: str) -> ConfigDict:  # as in a later version
        config = load(given)
        config.optimizer.weight_decay = 0.5
        return config

    monkeypatch.setattr(runs, 'load', changed)
    assert command.main(given) == 1
    assert len(started) == 21, 'of another recipe, all of them'


def test_a_signal_reaches_the_running_run(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the restart code, and so does the command; no other run begins. The same command continues."""
    reached: list[int] = []
    complete, forward = Children.run, Children.forward

    def run(processes: Children, given: list[str], output: IO[bytes]) -> int:
        if processes.requested:
            raise Interrupted
        if len(started) < 2:
            return complete(processes, given, output)
        started.append(given)
        os.kill(os.getpid(), signal.SIGTERM)
        while not reached:
            time.sleep(0.01)
        return 42

    def heard(processes: Children, number: int, frame: FrameType | None) -> None:
        forward(processes, number, frame)
        reached.append(number)

    arguments = ['temperature', f'--workdir={tmp_path}']
    with monkeypatch.context() as patch:
        patch.setattr(Children, 'run', run)
        patch.setattr(Children, 'forward', heard)
        assert command.main(arguments) == 42
    assert reached == [signal.SIGTERM] and len(started) == 3
    assert command.main(arguments) == 0
    assert len(started) == 3 + 3, 'two of the five were complete'


def test_sentences() -> None:
    ablation = ABLATIONS['temperature']('digits')
    one = [Result('T = 0.1', 0, knn=0.9), Result('T = 0.2', 0, knn=0.8)]
    assert page.sentences(ablation, one) == [
        'Highest kNN accuracy: T = 0.1, 90.0 %; lowest: T = 0.2, 80.0 %.',
        'Each arm was run once, so a small difference says nothing: give several seeds.',
    ]
    same = [Result('T = 0.1', 0, knn=0.9), Result('T = 0.2', 0, knn=0.9)]
    assert page.sentences(ablation, same)[0] == 'All arms have the same kNN accuracy, 90.0 %.'
    apart = [*one, Result('T = 0.1', 1, knn=0.92), Result('T = 0.2', 1, knn=0.82)]
    assert page.sentences(ablation, apart) == [
        'Highest kNN accuracy: T = 0.1, 91.0 (90.0 to 92.0) %; lowest: T = 0.2, 81.0 (80.0 to 82.0) %.'
    ]
    overlap = [*one, Result('T = 0.1', 1, knn=0.7), Result('T = 0.2', 1, knn=0.75)]
    assert (
        page.sentences(ablation, overlap)[1]
        == 'The runs of T = 0.1 and of T = 0.2 overlap: their order is not certain.'
    )
    collapsed = [Result('BYOL', 0, knn=0.9, signal=0.9), Result('without predictor', 0, knn=0.8, signal=0.08)]
    assert page.sentences(ABLATIONS['byol']('digits'), collapsed)[2:] == [
        'The projections of all images are nearly the same: without predictor. The features of the encoder are not.'
    ]
    assert page.sentences(ablation, []) == ['Nothing was measured yet.']


@pytest.mark.parametrize('name', ['augmentations', 'dictionary_size', 'byol'])
def test_pictures_of_each_kind(name: str, tmp_path: Path) -> None:
    """With all arms, with one, and with none."""
    ablation = ABLATIONS[name]('digits')
    for count in (len(ablation.arms), 1, 0):
        results = [
            Result(arm.name, 0, knn=0.5 + 0.01 * i, untrained=0.52) for i, arm in enumerate(ablation.arms[:count])
        ]
        page.write(ablation, [*results, Result(ablation.arms[0].name, 1, knn=math.nan)], tmp_path, 'command', 'digits')
        with Image.open(tmp_path / page.PICTURE) as picture:
            assert picture.size[0] > 500


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        (('simsim', '--workdir=x'), "there is no ablation 'simsim'; did you mean 'simsiam'? -> choose from"),
        (('simsiam',), '--workdir is missing'),
        (('simsiam', '--workdir=x', '--seeds=0,a'), "--seeds '0,a' is no list of different integers"),
        (('simsiam', '--workdir=x', '--jobs=0'), '--jobs 0 is below 1'),
        (
            ('simsiam', '--workdir=x', '--config.seed=3'),
            '--config.seed would be the same in all runs, which have those',
        ),
        (
            ('simsiam', '--workdir=x', '--config.method.use_predictor=False'),
            '--config.method.use_predictor would be the same in all arms, which differ in it -> leave it out',
        ),
        (
            ('simsiam', '--workdir=x', '--config.epochs=3.0'),
            '--config.epochs leaves the rest of the schedule as it is -> use --epochs',
        ),
        (
            ('mocov2_ladder', '--workdir=x', '--config.steps=9'),
            '--config.steps leaves the rest of the schedule as it is -> use --epochs',
        ),
        (('simsiam', '--workdir=x', '--epochs=0'), '--epochs 0 is no length above 0'),
        (('simsiam', '--workdir=x', '--epochs=inf'), '--epochs inf is no length above 0'),
        (('simsiam', '--workdir=x', '--seeds=1,01'), "--seeds '1,01' is no list of different integers"),
        (('simsiam', '--workdir=x', '--data=cifar'), '--data cifar is no .npz file'),
    ],
)
def test_an_error_is_one_line(arguments: tuple[str, ...], line: str, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert line in found and not list(tmp_path.iterdir())


def test_a_wrong_field_is_one_line_and_no_run_begins(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(['byol', f'--workdir={tmp_path}', '--config.batch_size=many']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '--config.batch_size=many: an integer is needed' in line and not started


def test_trainings_of_another_length_are_no_results(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`main` would go on with the longer schedule."""
    given = ['temperature', f'--workdir={tmp_path}']
    assert command.main([*given, '--epochs=3']) == 0
    stored = train_steps.load('simclr:digits', epochs=3.0).to_json()  # as `main` stores it
    (tmp_path / 'temperature' / 't_0.1' / 'seed0' / 'config.json').write_text(stored)
    for epochs in ('--epochs=2', '--epochs=4'):
        assert command.main([*given, epochs]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert 't_0.1/seed0 holds a run with epochs 3.0, and this one has' in line
    assert len(started) == 5 and command.main([*given, '--epochs=3']) == 0


def test_a_field_of_the_user_replaces_that_of_the_shorter_training(tmp_path: Path) -> None:
    """Also a tuple: a command whose tuple is given twice joins the two."""
    ablation = ABLATIONS['momentum']('cifar10')
    given = runs.arguments(ablation, ablation.arms[0], 'cifar10', tmp_path, ['--config.schedule.milestones=10,15'])
    config = train_steps.load(config_of(ablation, ablation.arms[0], 'cifar10'))
    assert not override(config, [text for text in given if text.startswith('--config.')], sections_of)
    assert config.schedule.milestones == (10, 15) and config.epochs == 20


def test_a_shorter_training_keeps_the_shares_of_its_phases() -> None:
    """And an arm that is trained longer has as many times the length."""
    step = train_steps.load('mocov1:cifar10')
    assert (step.epochs, step.schedule.name, step.schedule.milestones) == (200.0, 'step', (120, 160))
    arms = ABLATIONS['mocov2_ladder']('cifar10').arms
    assert changes_of(arms[0], 'cifar10', step) == {'epochs': 20.0, 'schedule.milestones': (12.0, 16.0)}
    assert changes_of(arms[0], 'cifar10', step, 3.0) == {'epochs': 3.0, 'schedule.milestones': (1.8, 2.4)}
    lengths = [changes_of(arm, 'cifar10', step, 3.0)['epochs'] for arm in arms]
    assert lengths == [3.0, 3.0, 3.0, 3.0, 3.0, 6.0]
    warm = train_steps.load('simclr:cifar10')
    assert warm.schedule.warmup_epochs == 10
    assert changes_of(Arm('SimCLR'), 'cifar10', warm) == {'epochs': 20.0, 'schedule.warmup_epochs': 2.0}
    teacher = train_steps.load('dino:cifar10', **{'method.teacher_warmup_epochs': 30})
    found = changes_of(Arm('DINO'), 'cifar10', teacher, 10.0)
    assert found['method.teacher_warmup_epochs'] == 3 and found['schedule.warmup_epochs'] == 1.0
    assert (teacher.optimizer.freeze_first, teacher.optimizer.freeze_epochs) == (('last_layer',), 1.0)
    assert found['optimizer.freeze_epochs'] == 1.0
    assert changes_of(Arm('DINO'), 'cifar10', teacher, 1.0)['optimizer.freeze_epochs'] == 0.1
    digits = train_steps.load('simsiam:digits')
    assert changes_of(Arm('SimSiam'), 'digits', digits) == {}


def test_every_signal_is_explained() -> None:
    assert {make('digits').signal for make in ABLATIONS.values()} - {''} == set(page.SIGNALS)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*ABLATIONS]
