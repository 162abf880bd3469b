"""The linear probe in the loop: a sweep is many probes, the encoder stays as it was, devices and interruptions too."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from contrastive_jax import load_encoder
from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import Interrupted, UserError
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.protocols import linear, training
from contrastive_jax.protocols.run import run_protocol
from contrastive_jax.protocols.subset import stratified
from contrastive_jax.training.feed import ResidentFeed
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.folder import CONFIG_FILE
from contrastive_jax.workdir.reading import read_part
from tests import complete_runs, train_steps, untrained_workdirs
from tests.protocols.test_run import few, load
from tests.tiny_configs import get_config


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp('mocov2')
    untrained_workdirs.save(get_config('mocov2'), workdir)
    return workdir


@pytest.fixture(scope='module')
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


def evaluate(config: Any, workdir: Path, count: int = 2, at: int | None = None) -> dict[str, float] | str:
    """On the first `count` devices; interrupted after step `at`, if given."""
    complete_runs.Cut.at, complete_runs.Cut.done = at, 0
    devices = complete_runs.SharedDevices.of(config.parallel, count)
    try:
        return run_protocol(config, str(workdir), devices=devices, interrupt=complete_runs.Cut)
    except Interrupted as stop:
        return str(stop)


def trained(workdir: Path, encoder: Encoder, settings: int = 4) -> tuple[int, PyTree]:
    """Steps, and classifiers and encoder of the newest checkpoint."""
    dim = encoder(np.zeros((1, 8, 8, 3), np.uint8)).shape[1]
    shapes = {
        'params': {'weight': np.zeros((settings, dim, 10), np.float32), 'bias': np.zeros((settings, 10), np.float32)},
        'method': {'target': {'encoder': encoder.params}, 'batch_stats': {'target': {'encoder': encoder.stats}}},
    }
    return read_part(
        workdir, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes), ('params', 'method')
    )


# ================================ the method ================================


def start(recipe: Run, encoder: Encoder) -> TrainState:
    """The state at step 0, with the encoder's weights."""
    state = jax.jit(lambda: init_state(recipe))()
    weights = {'target': {'encoder': encoder.params}, 'batch_stats': {'target': {'encoder': encoder.stats}}}
    return dataclasses.replace(state, method=state.method.replace(**weights))


def steps(config: Any, encoder: Encoder, mode: str, count: int, n: int = 3) -> tuple[PyTree, list[dict[str, Any]]]:
    """Classifiers after n steps, as numpy, and the metrics of each."""
    source = open_source('digits')
    recipe = linear.build(config, encoder, len(source), 10)
    devices = find_devices(mode, count)
    state = devices.place(start(recipe, encoder), recipe.state_specs)
    state, found = ResidentFeed(recipe, devices, source, 1).advance(state, 0, n)
    return jax.device_get(devices.collect(state, recipe.state_specs)).params, [devices.fetch(m) for m in found]


def test_a_sweep_is_many_probes(encoder: Encoder) -> None:
    """Row r is what setting r alone trains, for both optimizers."""
    for name in ('sgd', 'larc'):
        config = load('linear:tiny', **{'optimizer.name': name, 'optimizer.nesterov': name == 'sgd'})
        together, _ = steps(config, encoder, 'jit', 1)
        pairs = [(rate, decay) for rate in (0.1, 1.0) for decay in (0.0, 1e-4)]
        rows = []
        for rate, decay in pairs[1:3]:
            alone = {'optimizer.learning_rates': (rate,), 'optimizer.weight_decays': (decay,)}
            config.update_from_flattened_dict(alone)
            rows.append(steps(config, encoder, 'jit', 1)[0])
        expected = jax.tree.map(lambda *x: np.concatenate(x), *rows)
        found = jax.tree.map(lambda x: x[1:3], together)
        assert train_steps.relative_error(found, expected) < 1e-5
        assert train_steps.relative_error(found, jax.tree.map(lambda x: x[::-1], found)) > 1e-2, 'settings differ'


@pytest.mark.parametrize(('mode', 'count'), [('jit', 2), ('jit', 4), ('jit', 8), ('pmap', 4)])
def test_more_devices_train_what_one_trains(mode: str, count: int, encoder: Encoder) -> None:
    one, many = (steps(load('linear:tiny'), encoder, *where) for where in (('jit', 1), (mode, count)))
    assert train_steps.relative_error(many[0], one[0]) < 1e-4
    for a, b in zip(many[1], one[1], strict=True):
        for name in ('loss', 'train_top1'):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4)


def test_one_step_by_hand(encoder: Encoder) -> None:
    """Softmax regression: gradient h (p - y) / B, and the first step of SGD."""
    config = load('linear:tiny', **{'optimizer.learning_rates': (0.5,), 'optimizer.weight_decays': (0.0,)})
    recipe = linear.build(config, encoder, 100, 10)
    state = start(recipe, encoder)
    images, labels = open_source('digits').array[:16], open_source('digits').labels[:16]
    batch = {'views': (encoder.policy.normalize(images),), 'label': jnp.asarray(labels), 'index': jnp.arange(16)}
    loss = lambda p: recipe.method.loss(p, state.method, batch, rng=jax.random.key(0), progress=0.0)[0]  # noqa: E731
    value, grads = jax.value_and_grad(loss)(state.params)

    h = np.asarray(encoder(images), np.float64)
    logits = h @ np.asarray(state.params['weight'][0], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert float(value) == pytest.approx(-np.log(p[np.arange(16), labels]).mean(), rel=1e-4)
    error = (p - np.eye(10)[labels]) / 16
    np.testing.assert_allclose(grads['weight'][0], h.T @ error, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(grads['bias'][0], error.sum(0), rtol=1e-3, atol=1e-5)
    updates, _ = recipe.optimizer.update(grads, state.opt_state, state.params)
    np.testing.assert_allclose(updates['weight'], -0.5 * grads['weight'], rtol=1e-5)


def test_held_out_images_of_each_class() -> None:
    labels = np.array([0] * 20 + [1] * 3 + [2])
    chosen = stratified(labels, 0.1, leave=1)
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [2, 1, 0]
    np.testing.assert_array_equal(chosen, stratified(labels, 0.1, leave=1))


def test_augmentation_keeps_what_the_run_saw(encoder: Encoder) -> None:
    policy = training.policy(load('linear'), encoder.policy)
    assert policy.problems() == [] and policy.num_views == 1
    for field in ('style', 'interpolation', 'color_space', 'mean', 'std'):
        assert getattr(policy, field) == getattr(encoder.policy, field)


# ================================ whole evaluations ================================


def test_what_is_written_and_said(
    run: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep: the setting that is best on the selection is asked for the test images; the encoder is the run's."""
    config = load('linear:tiny', init=str(run), epochs=0.1)
    found = evaluate(config, tmp_path)
    step, state = trained(tmp_path, encoder)
    assert step == 8
    jax.tree.map(np.testing.assert_array_equal, state['method']['target']['encoder'], encoder.params)
    jax.tree.map(np.testing.assert_array_equal, state['method']['batch_stats']['target']['encoder'], encoder.stats)

    train_split, test = open_source('digits'), open_source('digits', split='test')
    chosen = stratified(train_split.labels, 0.1, leave=1)
    logits = [np.asarray(linear.classify(state['params'], encoder(x))) for x in (train_split.array[chosen], test.array)]
    selection = (logits[0].argmax(2) == train_split.labels[chosen]).mean(1)
    best = int(selection.argmax())
    rates, decays = linear.settings(config)
    assert found['eval/linear_learning_rate'] == rates[best] and found['eval/linear_weight_decay'] == decays[best]
    assert found['eval/linear_top1'] == pytest.approx((logits[1][best].argmax(1) == test.labels).mean(), abs=1.5 / 360)
    for rate, decay, accuracy in zip(rates, decays, selection, strict=True):
        assert found[f'eval/selection/lr{rate:g}_wd{decay:g}'] == pytest.approx(accuracy, abs=0.01)

    held = json.loads((tmp_path / 'eval' / 'linear.json').read_text())
    assert {name: held[name] for name in found} == found and held['train_images'] == 1437
    assert {k: v for line in metrics.read(tmp_path) for k, v in line.items()}['eval/linear_top1'] == found[
        'eval/linear_top1'
    ]
    assert list(tmp_path.glob('events.*'))
    assert f'linear_top1 on 360 held-out images of digits: {found["eval/linear_top1"]:.1%}' in capsys.readouterr().out


def test_a_resumed_probe_ends_with_the_same_bits(run: Path, encoder: Encoder, tmp_path: Path) -> None:
    config = load('linear:tiny', init=str(run), epochs=0.05)  # four steps
    whole = evaluate(config, tmp_path / 'whole')
    assert str(evaluate(config, tmp_path / 'cut', at=2)).startswith('SIGTERM at step 2 of 4, saved')
    assert evaluate(config, tmp_path / 'cut') == whole
    assert evaluate(config, tmp_path / 'cut') == whole, 'and says so again when all is done'
    a, b = (trained(tmp_path / name, encoder) for name in ('whole', 'cut'))
    assert a[0] == b[0] == 4
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])


@pytest.mark.parametrize('name', ['linear', 'finetune', 'distill'])
def test_fewer_steps_than_are_trained(name: str, run: Path, tmp_path: Path) -> None:
    """They are refused, and the config of the workdir stays as it is."""
    fields = {'init': str(run), 'epochs': 0.5}
    if name == 'distill':
        run_protocol(load('finetune:tiny', **fields), str(tmp_path / 'teacher'))
        fields['teacher'] = str(tmp_path / 'teacher')
    workdir = tmp_path / name
    steps = evaluate(load(f'{name}:tiny', **fields), workdir, at=2)
    assert str(steps).startswith('SIGTERM at step 2 of')
    before = (workdir / CONFIG_FILE).read_bytes()
    fields['epochs'] = 0.001
    with pytest.raises(UserError, match='has a checkpoint of step 2, and the length given now is 1 steps -> give the'):
        run_protocol(load(f'{name}:tiny', **fields), str(workdir))
    assert (workdir / CONFIG_FILE).read_bytes() == before


def test_another_encoder_than_the_one_it_began_with(run: Path, tmp_path: Path) -> None:
    untrained_workdirs.save(get_config('mocov2'), tmp_path / 'run', (3,))
    config = load('linear:tiny', init=str(tmp_path / 'run'))
    evaluate(config, tmp_path / 'probe')
    untrained_workdirs.save(get_config('mocov2'), tmp_path / 'run', (5,))
    with pytest.raises(UserError, match=r'was begun with other inputs \(encoder: '):
        evaluate(config, tmp_path / 'probe')


def test_an_encoder_that_moves_is_noticed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = lambda self, params, state, progress: (  # noqa: E731
        params, state.replace(target=jax.tree.map(lambda x: x * 1.0001, state.target))
    )  # fmt: skip
    monkeypatch.setattr(linear.LinearProbe, 'after_update', moved)
    complete_runs.PROGRAMS.clear()
    with pytest.raises(AssertionError, match='the frozen encoder has moved'):
        evaluate(load('linear:tiny', init=str(run), seed=1), tmp_path)
    complete_runs.PROGRAMS.clear()


def test_images_off_the_disk_one_setting(run: Path, tmp_path: Path) -> None:
    """Streamed, with an image that cannot be read; without a sweep nothing is held out."""
    digits = open_source('digits')
    for i in range(40):
        file = tmp_path / 'images' / ('train' if i < 32 else 'test') / str(digits.labels[i] % 2) / f'{i:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.array[i]).save(file)
    file.write_bytes(b'no image')
    data = {'data.source': 'folder', 'data.path': str(tmp_path / 'images')}
    one = {'optimizer.learning_rates': (0.1,), 'optimizer.weight_decays': (0.0,), 'epochs': 1.0}
    found = evaluate(load('linear:tiny', init=str(run), **data, **one), tmp_path / 'probe')
    assert 0 <= found['eval/linear_top1'] <= 1 and not any('selection' in name for name in found)
    assert (tmp_path / 'probe' / FOLDER / '2').is_dir()


@pytest.mark.usefixtures('nothing_compiled')
def test_fewer_images_than_a_batch(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='batch_size'):
        run_protocol(load('linear:tiny', init=str(run), **few(12, tmp_path)), str(tmp_path / 'probe'))
    assert not (tmp_path / 'probe').exists()


@pytest.mark.usefixtures('nothing_compiled')
def test_one_image_a_class_cannot_choose(run: Path, tmp_path: Path) -> None:
    labels = np.arange(30)
    config = load('linear:tiny', init=str(run), **few(30, tmp_path, train_labels=labels, test_labels=labels[:8]))
    with pytest.raises(UserError, match=r'no class of few has two training images, .* there are 4 settings -> '):
        run_protocol(config, str(tmp_path / 'probe'))


def test_rows_of_a_source() -> None:
    source, ids = open_source('digits'), np.array([5, 2, 900])
    rows = sources.Subset(source, ids)
    assert len(rows) == 3 and rows.name == 'digits' and rows.classes == source.classes
    np.testing.assert_array_equal(rows.labels, source.labels[ids])
    np.testing.assert_array_equal(rows.array, source.array[ids])
    for i, of in enumerate(ids.tolist()):
        np.testing.assert_array_equal(rows.image(i), source.image(of))
        assert (rows.label(i), rows.file_name(i)) == (source.label(of), source.file_name(of))
        assert rows.example(i)[1] == source.label(of)
    assert rows.fingerprint != sources.Subset(source, ids[::-1].copy()).fingerprint
