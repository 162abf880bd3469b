"""Images of 13 channels with 16 bits are trained on, resumed with the same bits, evaluated, and their encoder saved."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from contrastive_jax import load_encoder, pretrained
from contrastive_jax.config.choose import choose
from contrastive_jax.data.facts import measure
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.errors import UserError
from contrastive_jax.training.fit import load_data
from tests.complete_runs import digest, fit, saved, tiny_config


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> ConfigDict:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp('data') / 'bands.npz'
    np.savez(path, images=rng.integers(0, 9000, (48, 8, 8, 13), np.uint16), labels=np.arange(48) % 2)
    given = tiny_config('mocov2', **{'data.source': 'npz', 'data.name': '', 'data.path': str(path), 'steps': 3})
    given.augment.update(jitter=(0.4, 0.4, 0.0, 0.0), jitter_probability=0.8, mean=(), std=())
    given.auto.fields, given.eval.evaluators = ('data.channels',), ()
    source, _ = load_data(given, derive_channels=True)
    return choose(given, measure(source, True), Machine('cpu', cores=2))[0]


def test_a_resumed_run_ends_with_the_same_bits(config: ConfigDict, tmp_path: Path) -> None:
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    last = fit(config, whole, count=1)
    assert isinstance(last, dict)
    assert isinstance(fit(config, parts, count=1, at=2), str)
    assert fit(config, parts, count=1) == last
    assert digest(saved(config, parts)) == digest(saved(config, whole))

    encoder = load_encoder(whole)
    assert encoder.channels == 13 and encoder.flat['params/conv1/kernel'].shape[2] == 13
    images = np.load(config.data.path)['images']
    h = np.asarray(encoder(images))
    pretrained.save(tmp_path / 'bands.safetensors', encoder)
    again = load_encoder(tmp_path / 'bands.safetensors')
    np.testing.assert_array_equal(again(images), h)
    for wrong in (images[..., :3], images.astype(np.float32)):
        with pytest.raises(UserError, match=r'-> give uint8\[n, H, W, 13\], with the 13 channels of its training'):
            again(wrong)
