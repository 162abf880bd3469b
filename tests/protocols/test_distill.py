"""Distillation in the loop: the student is told what the teacher says of images, and the teacher stays as it was."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from contrastive_jax import load_encoder
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.protocols import distill, finetune
from contrastive_jax.protocols.run import check_protocol, run_protocol
from contrastive_jax.training.feed import ResidentFeed
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir.reading import read_part
from tests import train_steps, untrained_workdirs
from tests.protocols.test_linear import evaluate
from tests.protocols.test_run import few, load
from tests.tiny_configs import get_config


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, 'student'; another, 'big', whose images are normalised otherwise; and 'teacher', tuned from there."""
    folder = tmp_path_factory.mktemp('distill')
    untrained_workdirs.save(get_config('mocov2'), folder / 'student')
    untrained_workdirs.save(get_config('simclr'), folder / 'big')
    run_protocol(load('finetune:tiny', init=str(folder / 'big')), str(folder / 'teacher'))
    return folder


@pytest.fixture(scope='module')
def encoder(folders: Path) -> Encoder:
    return load_encoder(folders / 'student')


@pytest.fixture(scope='module')
def teacher(folders: Path) -> distill.Teacher:
    return distill.load_teacher(str(folders / 'teacher'))


def given(folders: Path, **changes: Any) -> Any:
    return load('distill:tiny', init=str(folders / 'student'), teacher=str(folders / 'teacher'), **changes)


def recipe_of(folders: Path, encoder: Encoder, teacher: distill.Teacher) -> Run:
    return distill.build(given(folders), encoder, teacher, 1437)


def start(recipe: Run, encoder: Encoder, teacher: distill.Teacher) -> TrainState:
    state = jax.jit(lambda: init_state(recipe))()
    stats = {'online': {'encoder': encoder.stats}, 'target': teacher.stats}
    method = state.method.replace(target=teacher.params, batch_stats=stats)
    return dataclasses.replace(state, params={**state.params, 'encoder': encoder.params}, method=method)


def said_by(folder: Path, run: Path, images: np.ndarray) -> np.ndarray:
    """Logits of a fine-tuning, from the arrays of its checkpoint and the encoder of the run that it began with."""
    encoder = load_encoder(run)
    dim = encoder(images).shape[1]
    classifier = {'weight': np.zeros((dim, 10), np.float32), 'bias': np.zeros(10, np.float32)}
    shapes = {
        'params': {'encoder': encoder.params, 'classifier': classifier},
        'method': {'batch_stats': {'online': {'encoder': encoder.stats}}},
    }
    _, part = read_part(folder, shapes, ('params', 'method/batch_stats/online'))
    params, stats = part['params'], part['method']['batch_stats']['online']['encoder']
    h = dataclasses.replace(encoder, params=params['encoder'], stats=stats)(images)
    return np.asarray(h) @ params['classifier']['weight'] + params['classifier']['bias']


def test_loss_is_the_equation(folders: Path, encoder: Encoder, teacher: distill.Teacher) -> None:
    """SimCLR v2, equation 2, times T²; the teacher's logits by another way, from images that it normalises itself."""
    recipe = recipe_of(folders, encoder, teacher)
    method: Any = recipe.method
    state = start(recipe, encoder, teacher)
    images = open_source('digits').array[:16]
    x = encoder.policy.normalize(images)
    T = method.temperature
    assert T == 0.1 and encoder.policy.mean != teacher.policy.mean
    params = {**state.params, 'classifier': jax.tree.map(lambda x: x + 0.1, state.params['classifier'])}
    student, _ = method.student.forward(params, state.method.batch_stats['online'], x, None)
    said = said_by(folders / 'teacher', folders / 'big', images)
    np.testing.assert_allclose(
        method.teacher.logits(teacher.params, teacher.stats, method.for_teacher(x)), said, rtol=1e-3, atol=1e-3
    )
    expected = 0.0
    for t, s in zip(said / T, np.asarray(student, np.float64) / T, strict=True):
        p = np.exp(t - t.max()) / np.exp(t - t.max()).sum()
        expected += T**2 * -np.sum(p * (s - s.max() - np.log(np.exp(s - s.max()).sum()))) / 16

    def loss(params: PyTree, held: PyTree) -> tuple[jax.Array, Any]:
        method_state = state.method.replace(target=held)
        return method.loss(params, method_state, {'views': (x,)}, rng=jax.random.key(0), progress=0.0)

    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (_, metrics)), (grads, into_teacher) = value_and_grad(params, state.method.target)
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    np.testing.assert_allclose(
        metrics['teacher_agreement'], np.mean(said.argmax(1) == np.asarray(student).argmax(1)), atol=1e-6
    )
    assert all(np.any(x != 0) for x in jax.tree.leaves(grads['classifier']))
    assert all(np.all(x == 0) for x in jax.tree.leaves(into_teacher))


@pytest.mark.parametrize(('mode', 'count'), [('jit', 8), ('pmap', 4)])
def test_more_devices_train_what_one_trains(
    mode: str, count: int, folders: Path, encoder: Encoder, teacher: distill.Teacher
) -> None:
    def steps(mode: str, count: int) -> tuple[PyTree, list[Any]]:
        devices, recipe = find_devices(mode, count), recipe_of(folders, encoder, teacher)
        state = devices.place(start(recipe, encoder, teacher), recipe.state_specs)
        state, found = ResidentFeed(recipe, devices, open_source('digits'), 1).advance(state, 0, 2)
        state = jax.device_get(devices.collect(state, recipe.state_specs))
        return (state.params, state.method), [devices.fetch(metrics) for metrics in found]

    one, many = steps('jit', 1), steps(mode, count)
    assert train_steps.relative_error(many[0], one[0]) < 1e-3
    for a, b in zip(many[1], one[1], strict=True):
        np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-3)
    assert train_steps.relative_error(one[0][1].target, teacher.params) == 0


def test_what_is_written_and_a_resumed_run(folders: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Interrupted or not: the same bits, and the number is that of the student that was saved. No label is needed."""
    test = open_source('digits', split='test')
    data = few(100, tmp_path, train_labels=None, test_images=test.array, test_labels=test.labels)
    config = given(folders, epochs=0.7, **data)  # of 100 images: four steps
    found = evaluate(config, tmp_path / 'whole')
    assert str(evaluate(config, tmp_path / 'cut', at=2)).startswith('SIGTERM at step 2 of 4, saved')
    assert evaluate(config, tmp_path / 'cut') == found

    recipe = distill.build(config, encoder, distill.load_teacher(config.teacher), 100)
    shapes = jax.eval_shape(lambda: init_state(recipe))
    shapes = {'params': shapes.params, 'method': {'batch_stats': shapes.method.batch_stats}}
    a, b = (read_part(tmp_path / name, shapes, ('params', 'method/batch_stats')) for name in ('whole', 'cut'))
    assert a[0] == b[0] == 4
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])
    params, stats = a[1]['params'], a[1]['method']['batch_stats']['online']['encoder']
    assert train_steps.relative_error(params['encoder'], encoder.params) < 0.5, 'from where the run was'
    h = dataclasses.replace(encoder, params=params['encoder'], stats=stats)(test.array)
    top1 = (np.asarray(finetune.classify(params['classifier'], h)).argmax(1) == test.labels).mean()
    assert found['eval/distill_top1'] == pytest.approx(top1, abs=1.5 / 360)
    held = json.loads((tmp_path / 'whole' / 'eval' / 'distill.json').read_text())
    assert {name: held[name] for name in found} == found and held['train_images'] == 100
    assert held['teacher'] == str(folders / 'teacher')

    # Another teacher would be another training.
    other = tmp_path / 'teacher'
    run_protocol(load('finetune:tiny', init=str(folders / 'big'), seed=1), str(other))
    (folders / 'teacher').rename(folders / 'set_aside')
    try:
        shutil.copytree(other, folders / 'teacher')
        with pytest.raises(UserError, match=r'the teacher .* is not the one that .* began with'):
            run_protocol(config, str(tmp_path / 'whole'))
    finally:
        shutil.rmtree(folders / 'teacher')
        (folders / 'set_aside').rename(folders / 'teacher')


def test_from_scratch(folders: Path) -> None:
    """The architecture of the run, and weights as for a new run."""
    encoder = load_encoder(folders / 'student', projector_layers=1)
    new, other = distill.untrained(encoder, 0), distill.untrained(encoder, 1)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert (
        shapes(finetune.start_of(new)) == shapes(finetune.start_of(encoder))
        and 'projector' in finetune.start_of(new)[0]
    )
    kernels = [tree['layer1_0']['conv1']['kernel'] for tree in (new.params, other.params, encoder.params)]
    assert len({x.tobytes() for x in kernels}) == 3 and all(np.all(np.isfinite(x)) for x in kernels)


@pytest.mark.usefixtures('nothing_compiled')
def test_a_fine_tuned_encoder_is_an_encoder(folders: Path, teacher: distill.Teacher) -> None:
    """It can be exported, judged and tuned on: that of the run, with the weights of the tuning."""
    tuned, run = load_encoder(folders / 'teacher'), load_encoder(folders / 'big')
    jax.tree.map(np.testing.assert_array_equal, tuned.params, teacher.params['encoder'])
    jax.tree.map(np.testing.assert_array_equal, tuned.stats, teacher.stats['encoder'])
    assert (tuned.step, tuned.policy, tuned.module) == (4, run.policy, run.module)
    assert train_steps.relative_error(tuned.params, run.params) > 0
    with pytest.raises(UserError, match='is a fine-tuning, which has no target'):
        load_encoder(folders / 'teacher', 'target')


@pytest.mark.usefixtures('nothing_compiled')
def test_a_fine_tuning_whose_run_is_gone(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / 'teacher', tmp_path / 'tuned')
    about = json.loads((tmp_path / 'tuned' / distill.TUNED).read_text())
    (tmp_path / 'tuned' / distill.TUNED).write_text(json.dumps({**about, 'init': str(tmp_path / 'gone')}))
    with pytest.raises(UserError, match=r'is a fine-tuning of .*gone, which does not exist'):
        load_encoder(tmp_path / 'tuned')


# ================================ what is wrong ================================


@pytest.mark.usefixtures('nothing_compiled')
def test_teachers_that_are_none(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / 'teacher', tmp_path / 'unfinished')
    (tmp_path / 'unfinished' / distill.TUNED).unlink()
    shutil.copytree(folders / 'teacher', tmp_path / 'torn')
    (tmp_path / 'torn' / distill.TUNED).write_text('{"init": "')
    for name, line in (
        ('nowhere', 'cannot read .*nowhere/config.json'),
        (folders / 'student', 'is a pretraining run, which has no classifier -> give the workdir of a fine-tuning'),
        (tmp_path / 'unfinished', 'has not ended -> start its command again'),
        (tmp_path / 'torn', 'cannot be read'),
    ):
        config = given(folders)
        config.teacher = str(name)
        with pytest.raises(UserError, match=line) as error:
            run_protocol(config, str(tmp_path / 'student'))
        assert '\n' not in str(error.value) and not (tmp_path / 'student').exists()


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('arrays', 'line'),
    [
        ({'train_images': np.zeros((8, 8, 8, 3), np.uint8)}, 'batch_size'),
        ({'test_labels': None}, 'the held-out images of few have no labels'),
        ({'test_labels': np.arange(8) + 5}, 'few has 13 classes, and the teacher .* has 10'),
    ],
)
def test_data_that_does_not_serve(arrays: dict[str, Any], line: str, folders: Path, tmp_path: Path) -> None:
    config = given(folders, **few(30, tmp_path, **{'train_labels': None, **arrays}))
    with pytest.raises(UserError, match=line):
        run_protocol(config, str(tmp_path / 'student'))
    assert not (tmp_path / 'student').exists()


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'teacher': ''}, 'teacher is empty -> set it to the workdir of a fine-tuning'),
        ({'distill.temperature': 0.0}, 'distill.temperature 0.0 is out of range'),
        ({'distill.init_std': -1.0}, 'distill.init_std -1.0 is out of range'),
        ({'distill.projector_layers': -1}, 'distill.projector_layers -1 is out of range'),
        ({'optimizer.name': 'lar'}, "optimizer.name 'lar' is unknown; did you mean 'lars'"),
        ({'schedule.warmup_epochs': 1.0}, 'schedule.warmup_epochs 1 is longer than the training'),
        ({'batch_size': 12}, 'batch_size 12 is not divisible by 8 devices'),
    ],
)
def test_impossible_values(changes: dict[str, Any], line: str) -> None:
    (found,) = check_protocol(load('distill:tiny', **{'init': 'runs/any', 'teacher': 'runs/any', **changes}), 8)
    assert found.startswith(line) and ' -> ' in found


@pytest.mark.usefixtures('nothing_compiled')
def test_paths_of_no_parameter(folders: Path, encoder: Encoder, teacher: distill.Teacher) -> None:
    config = given(folders, **{'optimizer.freeze': ('encoder/layer1_O',)})
    with pytest.raises(UserError, match=r"matches no parameter; did you mean 'encoder/layer1_0'"):
        distill.build(config, encoder, teacher, 1437)
