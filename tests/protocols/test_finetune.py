"""Fine-tuning in the loop: it starts from the run's encoder, moves all of it, and ends the same however it is run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import load_encoder
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.optim import optimizers
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.protocols import finetune
from contrastive_jax.protocols.run import run_protocol
from contrastive_jax.protocols.subset import stratified
from contrastive_jax.training.feed import ResidentFeed
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state, train_step
from contrastive_jax.workdir.reading import read_part
from tests import train_steps, untrained_workdirs
from tests.protocols.test_linear import evaluate
from tests.protocols.test_run import few, load
from tests.tiny_configs import get_config


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its BN groups are those of MoCo, and must not be those of fine-tuning."""
    workdir = tmp_path_factory.mktemp('mocov2')
    untrained_workdirs.save(get_config('mocov2'), workdir)
    return workdir


@pytest.fixture(scope='module')
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


@pytest.fixture(scope='module')
def simclrv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp('simclrv2')
    untrained_workdirs.save(get_config('simclrv2'), workdir)
    return workdir


@pytest.fixture(scope='module')
def vit(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """With learned positions."""
    workdir = tmp_path_factory.mktemp('dino')
    untrained_workdirs.save(get_config('dino'), workdir)
    return load_encoder(workdir)


FROM_THE_MIDDLE = {
    'finetune.projector_layers': 1,
    'finetune.init_std': 0.0,
    'optimizer.name': 'lars_simclr',
    'optimizer.learning_rate_scaling': 'sqrt',
    'schedule.name': 'cosine_per_step',
}
AS_DEIT = {
    'finetune.label_smoothing': 0.1,
    'finetune.mixup': 0.8,
    'finetune.cutmix': 1.0,
    'optimizer.name': 'adamw',
    'optimizer.learning_rate': 1e-3,
    'optimizer.classifier_learning_rate': 1e-3,
    'optimizer.weight_decay': 0.05,
    'optimizer.clip_norm': 5.0,
    'schedule.name': 'cosine_per_step',
}


def trained(workdir: Path, recipe: Run) -> tuple[int, PyTree]:
    """Steps, parameters and BN statistics of the newest checkpoint."""
    shapes = jax.eval_shape(lambda: init_state(recipe))
    shapes = {'params': shapes.params, 'method': {'batch_stats': shapes.method.batch_stats}}
    return read_part(workdir, shapes, ('params', 'method/batch_stats'))


def steps(config: Any, encoder: Encoder, mode: str, count: int, n: int = 2) -> tuple[PyTree, list[dict[str, Any]]]:
    """The state after n steps from the encoder, as numpy, and the metrics of each."""
    source = open_source('digits')
    recipe = finetune.build(config, encoder, len(source), 10)
    devices = find_devices(mode, count)
    state = jax.jit(lambda: init_state(recipe))()
    given, stats = finetune.start_of(encoder)
    method = state.method.replace(batch_stats={'online': stats})
    state = dataclasses.replace(state, params={**state.params, **given}, method=method)
    state = devices.place(state, recipe.state_specs)
    state, found = ResidentFeed(recipe, devices, source, 1).advance(state, 0, n)
    state = jax.device_get(devices.collect(state, recipe.state_specs))
    return (state.params, state.method.batch_stats), [devices.fetch(m) for m in found]


@pytest.mark.parametrize(('mode', 'count'), [('jit', 2), ('jit', 8), ('pmap', 4)])
def test_more_devices_train_what_one_trains(mode: str, count: int, encoder: Encoder) -> None:
    one, many = (steps(load('finetune:tiny'), encoder, *where) for where in (('jit', 1), (mode, count)))
    assert train_steps.relative_error(many[0], one[0]) < 1e-3
    for a, b in zip(many[1], one[1], strict=True):
        np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-3)
        np.testing.assert_allclose(a['train_top1'], b['train_top1'], atol=1e-6)


def test_more_devices_mix_and_drop_what_one_does(vit: Encoder) -> None:
    """What is random is so by the position in the global batch."""
    config = load('finetune:tiny', **AS_DEIT, **{'finetune.drop_path': 0.5, 'finetune.init_std': 0.5})
    one, many = (steps(config, vit, *where) for where in (('jit', 1), ('pmap', 4)))
    for a, b in zip(many[1], one[1], strict=True):
        np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-4)
    assert train_steps.relative_error(many[0], one[0]) < 1e-3


def test_paths_are_dropped_in_training_only(vit: Encoder) -> None:
    recipe = finetune.build(load('finetune:tiny', **{'finetune.drop_path': 0.5}), vit, 100, 2)
    params = {'encoder': vit.params, 'classifier': {'weight': np.eye(16)[:, :2], 'bias': np.zeros(2)}}
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    forward = jax.jit(lambda key: recipe.method.forward(params, {}, x, None, key)[0])
    a, b = (forward(jax.random.key(seed)) for seed in (0, 1))
    whole = recipe.method.logits(params, {}, x)
    assert not np.allclose(a, b, rtol=1e-3) and not np.allclose(a, whole, rtol=1e-3)
    np.testing.assert_allclose(whole, vit.module.apply({'params': vit.params}, x, train=False)[:, :2], rtol=1e-4)


def test_rates_of_encoder_and_classifier(encoder: Encoder) -> None:
    """The first step of SGD is minus rate x gradient, each with its own."""
    config = load('finetune:tiny', **{'optimizer.learning_rate': 0.5, 'optimizer.classifier_learning_rate': 3.0})
    recipe = finetune.build(config, encoder, 100, 10)
    state = init_state(recipe)
    grads = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = recipe.optimizer.update(grads, state.opt_state, state.params)
    for part, rate in (('encoder', 0.5), ('classifier', 3.0)):
        assert all(np.all(x == -rate) for x in jax.tree.leaves(updates[part]))


def test_lars_leaves_the_classifier_alone(simclrv2: Path) -> None:
    """The official rule in a slow loop: v = m v + rate ratio g, w -= v; the ratio is 1 of norms and the classifier."""
    config = load('finetune:tiny', **{**FROM_THE_MIDDLE, 'schedule.name': 'step', 'optimizer.learning_rate': 0.5})
    recipe = finetune.build(config, load_encoder(simclrv2, projector_layers=1), 100, 10)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), jax.eval_shape(lambda: init_state(recipe)).params)
    grads = [jax.tree.map(lambda x: rng.normal(size=x.shape), params) for _ in range(2)]
    held, state, update = params, recipe.optimizer.init(params), jax.jit(recipe.optimizer.update)
    for g in grads:
        updates, state = update(g, state, held)
        held = jax.tree.map(lambda w, u: w + u, held, updates)

    def slow(path: Any, w: np.ndarray, *grads: np.ndarray) -> np.ndarray:
        name, v = optimizers.parameter_path(path), np.zeros_like(w)
        rate = 4 * (0.2 if name.startswith('classifier') else 0.5)  # a batch of 16
        for g in grads:
            adapted = name.endswith('/kernel')
            v = 0.9 * v + rate * (1e-3 * np.linalg.norm(w) / np.linalg.norm(g) if adapted else 1.0) * g
            w = w - v
        return w

    expected = jax.tree_util.tree_map_with_path(slow, params, *grads)
    assert set(expected) == {'encoder', 'projector', 'classifier'}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), held, expected)


def test_what_deit_decays(vit: Encoder) -> None:
    """Without a gradient only weight decay moves a parameter: not norms, biases, the class token and the positions."""
    recipe = finetune.build(load('finetune:tiny', **AS_DEIT), vit, 100, 10)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), jax.eval_shape(lambda: init_state(recipe)).params)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(recipe.optimizer.update)(zeros, recipe.optimizer.init(params), params)
    moved, rests = [], []
    for path, u in jax.tree_util.tree_leaves_with_path(updates):
        (moved if np.any(u) else rests).append(optimizers.parameter_path(path))
        assert not np.any(u) or np.allclose(u, -0.001 * 0.05)
    assert all(name.endswith('/kernel') or name == 'classifier/weight' for name in moved) and len(moved) == 2 + 4 * 2
    assert {'encoder/cls_token', 'encoder/pos_embed', 'encoder/norm/scale', 'classifier/bias'} <= set(rests)


def test_warm_up(vit: Encoder) -> None:
    config = load('finetune:mocov3_vit', batch_size=1024)
    rate = finetune.build(config, vit, 10 * 1024, 10).learning_rate
    found = [float(rate(step)) for step in (0, 25, 50, 775, 1500)]
    np.testing.assert_allclose(found, [5e-7, (1e-3 + 5e-7) / 2, 1e-3, (1e-3 + 1e-5) / 2, 1e-5], rtol=1e-5)


def test_batch_norm_is_over_the_whole_batch(encoder: Encoder) -> None:
    assert encoder.module.bn_group_size == 8
    assert finetune.network_of(encoder).encoder.bn_group_size is None


@pytest.mark.parametrize('name', ['mocov3_vit', 'dino', 'cmc', 'byol', 'swav'])
def test_every_kind_of_encoder_can_be_trained_on(name: str, tmp_path: Path) -> None:
    untrained_workdirs.save(get_config(name), tmp_path)
    recipe = finetune.build(load('finetune:tiny'), load_encoder(tmp_path), 100, 10)
    shapes = jax.eval_shape(lambda: init_state(recipe))
    resident = {
        'images': jax.ShapeDtypeStruct((100, 8, 8, 3), jnp.uint8),
        'labels': jax.ShapeDtypeStruct((100,), jnp.int32),
        'order': jax.ShapeDtypeStruct((16,), jnp.int32),
    }
    after, _ = jax.eval_shape(lambda s, b: train_step(s, b, run=recipe), shapes, resident)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)


def test_labels_of_each_class() -> None:
    labels = np.array([0] * 200 + [1] * 30 + [2])
    chosen = stratified(labels, 0.1)
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [20, 3, 1]
    assert stratified(labels, 1.0).all()


def test_what_is_written_and_a_resumed_run(simclrv2: Path, tmp_path: Path) -> None:
    """Interrupted or not: the same bits, and numbers that are those of the network that was saved."""
    changes = {**AS_DEIT, **FROM_THE_MIDDLE, 'optimizer.learning_rate': 0.1, 'finetune.init_std': 0.1}
    config = load('finetune:tiny', init=str(simclrv2), **changes)  # half an epoch of 142 images: four steps
    found = evaluate(config, tmp_path / 'whole')
    assert str(evaluate(config, tmp_path / 'cut', at=2)).startswith('SIGTERM at step 2 of 4, saved')
    assert evaluate(config, tmp_path / 'cut') == found
    encoder = load_encoder(simclrv2, projector_layers=1)
    recipe = finetune.build(config, encoder, 142, 10)
    a, b = (trained(tmp_path / name, recipe) for name in ('whole', 'cut'))
    assert a[0] == b[0] == 4
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])

    params, stats = a[1]['params'], a[1]['method']['batch_stats']['online']
    for trained_on, given in zip((params, stats), finetune.start_of(encoder), strict=True):
        assert set(given) == {'encoder', 'projector'} and set(given['projector']) <= {'linear_0', 'bn_0'}
        after = {part: trained_on[part] for part in given}
        assert all(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (after, given)), strict=True)), 'all is trained'
    assert train_steps.relative_error(params['encoder'], encoder.params) < 0.5, 'from where the run was'
    test = open_source('digits', split='test')
    tuned = dataclasses.replace(encoder, params=params['encoder'], stats=stats['encoder'])
    h, norm, running = tuned(test.array), params['projector']['bn_0'], stats['projector']['bn_0']
    h = h @ params['projector']['linear_0']['kernel'] - running['mean']
    h = np.maximum(h / np.sqrt(running['var'] + 1e-5) * norm['scale'] + norm['bias'], 0)
    logits = h @ params['classifier']['weight'] + params['classifier']['bias']
    top1 = (np.asarray(logits).argmax(1) == test.labels).mean()
    assert found['eval/finetune_top1'] == pytest.approx(top1, abs=1.5 / 360)
    x = encoder.policy.normalize(test.array[:50])
    np.testing.assert_allclose(recipe.method.logits(params, stats, x), logits[:50], rtol=1e-3, atol=1e-3)
    held = json.loads((tmp_path / 'whole' / 'eval' / 'finetune.json').read_text())
    assert {name: held[name] for name in found} == found and held['eval/finetune_images'] == 142


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'finetune.projector_layers': 3}, 'has 2 -> use 0 to 2'),
        ({'finetune.drop_path': 0.1}, 'resnet_tiny is no ViT and has no stochastic depth -> '),
    ],
)
def test_an_encoder_that_does_not_serve(changes: dict[str, Any], line: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        run_protocol(load('finetune:tiny', init=str(run), **changes), str(tmp_path / 'tuned'))
    assert not (tmp_path / 'tuned').exists()


@pytest.mark.usefixtures('nothing_compiled')
def test_fewer_labels_than_a_batch(run: Path, tmp_path: Path) -> None:
    config = load('finetune:tiny', init=str(run), **few(60, tmp_path))
    with pytest.raises(UserError, match='batch_size'):
        run_protocol(config, str(tmp_path / 'tuned'))
    assert not (tmp_path / 'tuned').exists()
