"""A run that starts from given weights: they are where they belong at step 0, and nothing else is accepted."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from contrastive_jax import load_encoder, pretrained
from contrastive_jax.configs import byol, mocov2, swav
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.training import given
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state
from tests.pretrained import published_files
from tests.pretrained.test_other_projects import FEATURES, IMAGE, STATE


def small_run(**encoder: object) -> Run:
    """MoCo v2 with the ResNet of STATE."""
    config: ConfigDict = mocov2.get_config('tiny')
    config.unlock()
    config.encoder.update(encoder)
    return build_run(config, 64)


@pytest.fixture(scope='module')
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with torchvision's names."""
    return published_files.write(tmp_path_factory.mktemp('weights') / 'x.pth', {'state_dict': STATE})


def test_the_first_state_has_the_weights_in_both_networks(path: Path) -> None:
    run, devices = small_run(), find_devices(count=1)
    encoder = given.read_weights(str(path), run, load_encoder)
    scratch = jax.jit(partial(init_state, run))()
    state = given.start(scratch, 0, weights=lambda: encoder, devices=devices)
    online = {'params': state.params['encoder'], 'batch_stats': state.method.batch_stats['online']['encoder']}
    target = {'params': state.method.target['encoder'], 'batch_stats': state.method.batch_stats['target']['encoder']}
    apply = jax.jit(lambda variables, x: run.method.network.encoder.apply(variables, x, train=False))
    with jax.default_matmul_precision('highest'):
        for variables in (online, target):
            h = np.asarray(apply(variables, IMAGE.transpose(0, 2, 3, 1)))[0, :6]
            np.testing.assert_allclose(h, FEATURES[1, 1, 'no'], rtol=2e-5)  # torch's
    for old, new in ((scratch.params, state.params), (scratch.method.target, state.method.target)):
        for a, b in zip(jax.tree.leaves(old['projector']), jax.tree.leaves(new['projector']), strict=True):
            np.testing.assert_array_equal(a, b)
    assert jax.tree.structure(scratch) == jax.tree.structure(state)
    (line,) = given.describe(encoder, run)
    assert 'encoder, its BN statistics' in line and 'in the trained network and its moving average' in line
    assert line.endswith('new: projector, memory, optimizer, schedule')
    other = dataclasses.replace(run, policy=dataclasses.replace(run.policy, mean=(0.5, 0.5, 0.5)))
    assert given.describe(encoder, other)[1].startswith('warning: the weights expect rgb minus mean (0.485, ')


def test_a_predictor_and_prototypes_are_new_and_said(path: Path) -> None:
    for recipe, new in ((byol, {'projector', 'predictor'}), (swav, {'projector', 'prototypes'})):
        run = build_run(recipe.get_config('tiny'), 64)
        line = given.describe(given.read_weights(str(path), run, load_encoder), run)[0]
        assert {*line.partition('; new: ')[2].split(', ')} == {*new, 'optimizer', 'schedule'}


def test_a_restored_state_stays_and_the_weights_are_not_read() -> None:
    def weights() -> pretrained.Encoder:
        raise AssertionError('they were read')

    state = object()
    assert given.start(state, 1, weights=weights, devices=find_devices(count=1)) is state  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('encoder', 'line'),
    [
        ({'width': 8}, r'has another encoder: width 4 instead of 8 -> set encoder\.width to 4'),
        ({'stem_padding': 2}, r'stem_padding None instead of 2 -> set encoder\.stem_padding to None'),
        ({'stage_sizes': (1, 1, 1)}, r'stage_sizes \(1, 1, 1, 1\) instead of \(1, 1, 1\)'),
    ],
)
def test_another_encoder_is_refused(path: Path, encoder: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        given.read_weights(str(path), small_run(**encoder), load_encoder)
    assert error.value.field.startswith('encoder.')


def test_a_path_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='does not exist'):
        given.read_weights(str(tmp_path / 'x'), small_run(), load_encoder)
