"""Fine-tuning in the loop: it starts from the run's encoder, moves all of it, and ends the same however it is run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import parallel, train
from contrastive_jax.checkpoint import read_part
from contrastive_jax.data import sources
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate import finetune, protocols
from contrastive_jax.evaluate.encoder import Encoder, load_encoder
from contrastive_jax.feed import ResidentFeed
from tests import runs, saved
from tests.evaluate.test_probe import evaluate
from tests.evaluate.test_protocols import few, load
from tests.little import get_config
from tests.whole_runs import compiled, quick_runs  # noqa: F401

PyTree = Any


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its BN groups are those of MoCo, and must not be those of fine-tuning."""
    workdir = tmp_path_factory.mktemp('mocov2')
    saved.save(get_config('mocov2'), workdir)
    return workdir


@pytest.fixture(scope='module')
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


def trained(workdir: Path, recipe: train.Recipe) -> tuple[int, PyTree]:
    """Steps, parameters and BN statistics of the newest checkpoint."""
    shapes = jax.eval_shape(lambda: train.init_state(recipe))
    shapes = {'params': shapes.params, 'method': {'batch_stats': shapes.method.batch_stats}}
    return read_part(workdir, shapes, ('params', 'method/batch_stats'))


def steps(config: Any, encoder: Encoder, mode: str, count: int, n: int = 2) -> tuple[PyTree, list[dict[str, Any]]]:
    """The state after n steps from the encoder, as numpy, and the metrics of each."""
    source = sources.load('digits')
    recipe = finetune.build(config, encoder, len(source), 10)
    devices = parallel.devices(mode, count)
    state = jax.jit(lambda: train.init_state(recipe))()
    method = state.method.replace(batch_stats={'online': {'encoder': encoder.stats}})
    state = dataclasses.replace(state, params={**state.params, 'encoder': encoder.params}, method=method)
    state = devices.place(state, recipe.state_specs)
    state, found = ResidentFeed(recipe, devices, source, 1).advance(state, 0, n)
    state = jax.device_get(devices.collect(state, recipe.state_specs))
    return (state.params, state.method.batch_stats), [devices.fetch(m) for m in found]


@pytest.mark.parametrize(('mode', 'count'), [('jit', 2), ('jit', 8), ('pmap', 4)])
def test_more_devices_train_what_one_trains(mode: str, count: int, encoder: Encoder) -> None:
    one, many = (steps(load('finetune:tiny'), encoder, *where) for where in (('jit', 1), (mode, count)))
    assert runs.relative_error(many[0], one[0]) < 1e-3
    for a, b in zip(many[1], one[1], strict=True):
        np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-3)
        np.testing.assert_allclose(a['train_top1'], b['train_top1'], atol=1e-6)


def test_rates_of_encoder_and_classifier(encoder: Encoder) -> None:
    """The first step of SGD is minus rate x gradient, each with its own."""
    config = load('finetune:tiny', **{'optimizer.learning_rate': 0.5, 'optimizer.classifier_learning_rate': 3.0})
    recipe = finetune.build(config, encoder, 100, 10)
    state = train.init_state(recipe)
    grads = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = recipe.optimizer.update(grads, state.opt_state, state.params)
    for part, rate in (('encoder', 0.5), ('classifier', 3.0)):
        assert all(np.all(x == -rate) for x in jax.tree.leaves(updates[part]))


def test_batch_norm_is_over_the_whole_batch(encoder: Encoder) -> None:
    assert encoder.module.bn_group_size == 8
    assert finetune.network_of(encoder).encoder.bn_group_size is None


@pytest.mark.parametrize('name', ['mocov3_vit', 'dino', 'cmc', 'byol', 'swav'])
def test_every_kind_of_encoder_can_be_trained_on(name: str, tmp_path: Path) -> None:
    saved.save(get_config(name), tmp_path)
    recipe = finetune.build(load('finetune:tiny'), load_encoder(tmp_path), 100, 10)
    shapes = jax.eval_shape(lambda: train.init_state(recipe))
    resident = {
        'images': jax.ShapeDtypeStruct((100, 8, 8, 3), jnp.uint8),
        'labels': jax.ShapeDtypeStruct((100,), jnp.int32),
        'order': jax.ShapeDtypeStruct((16,), jnp.int32),
    }
    after, _ = jax.eval_shape(lambda s, b: train.train_step(s, b, run=recipe), shapes, resident)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)


def test_labels_of_each_class() -> None:
    labels = np.array([0] * 200 + [1] * 30 + [2])
    chosen = finetune.labelled(labels, 0.1)
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [20, 3, 1]
    assert finetune.labelled(labels, 1.0).all()


@pytest.mark.usefixtures('quick_runs')
def test_what_is_written_and_a_resumed_run(run: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Interrupted or not: the same bits, and numbers that are those of the network that was saved."""
    config = load('finetune:tiny', init=str(run))  # half an epoch of 142 images: four steps
    found = evaluate(config, tmp_path / 'whole')
    assert str(evaluate(config, tmp_path / 'cut', at=2)).startswith('SIGTERM at step 2 of 4, saved')
    assert evaluate(config, tmp_path / 'cut') == found
    recipe = finetune.build(config, encoder, 142, 10)
    a, b = (trained(tmp_path / name, recipe) for name in ('whole', 'cut'))
    assert a[0] == b[0] == 4
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])

    params, stats = a[1]['params'], a[1]['method']['batch_stats']['online']['encoder']
    moved = [np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (params['encoder'], encoder.params)), strict=True)]
    assert all(moved) and runs.relative_error(params['encoder'], encoder.params) < 0.5, 'from where the run was'
    assert all(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (stats, encoder.stats)), strict=True))
    test = sources.load('digits', split='test')
    h = dataclasses.replace(encoder, params=params['encoder'], stats=stats)(test.array)
    top1 = (np.asarray(finetune.classify(params['classifier'], h)).argmax(1) == test.labels).mean()
    assert found['eval/finetune_top1'] == pytest.approx(top1, abs=1.5 / 360)
    held = json.loads((tmp_path / 'whole' / 'eval' / 'finetune.json').read_text())
    assert {name: held[name] for name in found} == found and held['eval/finetune_images'] == 142


@pytest.mark.usefixtures('nothing_compiled')
def test_fewer_labels_than_a_batch(run: Path, tmp_path: Path) -> None:
    config = load('finetune:tiny', init=str(run), **few(60, tmp_path))
    with pytest.raises(UserError, match='batch_size'):
        protocols.evaluate(config, str(tmp_path / 'tuned'))
    assert not (tmp_path / 'tuned').exists()
