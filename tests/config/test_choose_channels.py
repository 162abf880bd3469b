"""What follows from the number of channels: it is chosen, said, kept by a resume; and what does not fit is refused."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.build import build_policy
from contrastive_jax.config.check import check
from contrastive_jax.config.choose import choose
from contrastive_jax.config.choose_channels import check_channels, needs_estimate
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.overrides import override
from contrastive_jax.config.plan import describe, keep
from contrastive_jax.data.facts import DataFacts, measure
from contrastive_jax.data.sources import ArraySource
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.errors import UserError
from contrastive_jax.training.fit import fit
from tests import train_steps

CPU = Machine('cpu', cores=2)
IMAGES = np.random.default_rng(0).integers(0, 9000, (40, 12, 12, 13), np.uint16)
BANDS = DataFacts(40, 12, channels=13, mean=(0.1,) * 13, std=(0.2,) * 13)


def load(recipe: str, *arguments: str) -> ConfigDict:
    config = train_steps.load(recipe)
    assert override(config, arguments, sections_of) == []
    return config


@pytest.mark.parametrize('recipe', ['mocov2:cifar10', 'cpc:folder'])
def test_channels_are_chosen_and_colors_dropped(recipe: str) -> None:
    config, choices = choose(load(recipe), BANDS, CPU)
    assert config.data.channels == 13 and check_channels(config, BANDS) == [] and check(config, 1) == []
    policy = build_policy(config)
    assert (policy.channels, policy.mean, policy.std) == (13, BANDS.mean, BANDS.std)
    assert policy.grayscale == 0 and policy.jitter[2:] == (0, 0)
    lines = describe(choices)
    assert sum('saturation, hue and gray are those of RGB: dropped for 13 channels' in line for line in lines) == 1
    assert sum('estimated from 40 training images' in line for line in lines) == 1
    if recipe.startswith('cpc'):
        assert policy.patches.grayscale == policy.patches.color_drop == 0 and policy.patches.jitter[2:] == (0, 0)
    else:
        assert policy.jitter[:2] == (0.4, 0.4)


def test_rgb_keeps_its_values_unless_an_estimate_is_asked_for() -> None:
    config = load('mocov2:folder')
    assert not needs_estimate(config, 3) and needs_estimate(config, 1)
    chosen, choices = choose(config, DataFacts(40, 12), CPU)
    assert (chosen.augment.mean, chosen.augment.grayscale) == (config.augment.mean, 0.2)
    assert not {choice.field for choice in choices} & {'data.channels', 'augment.mean', 'augment.grayscale'}
    asked = load('mocov2:tiny', '--config.augment.mean=()', '--config.augment.std=()')
    assert needs_estimate(asked, 3) and check(asked, 1) == []
    source = ArraySource(IMAGES[..., :3])
    chosen, _ = choose(asked, measure(source, needs_estimate(asked, 3)), CPU)
    np.testing.assert_allclose(chosen.augment.mean, IMAGES[..., :3].mean((0, 1, 2)) / 65535, rtol=1e-5)
    again = load('mocov2:tiny', '--config.augment.mean=()', '--config.augment.std=()').unlock()
    keep(again, ConfigDict(chosen.to_dict()))
    assert (again.augment.mean, again.augment.std) == (chosen.augment.mean, chosen.augment.std)


def test_a_resume_keeps_the_channels() -> None:
    stored, _ = choose(load('mocov2:folder', '--config.batch_size=16'), BANDS, CPU)
    again = load('mocov2:folder', '--config.batch_size=16').unlock()
    keep(again, ConfigDict(stored.to_dict()))
    assert again.to_dict() == stored.to_dict()
    older = ConfigDict(load('mocov2:folder').to_dict())  # from before there were channels
    del older.data['channels'], older['init_channels']
    keep(again := load('mocov2:folder').unlock(), older)
    assert again.data.channels == 3 and again.augment == older.augment


def test_what_does_not_fit_is_refused_by_field() -> None:
    config = load('mocov2:tiny', '--config.data.channels=4', '--config.augment.mean=(0.1,0.1,0.1,0.1)')
    found = check_channels(config, BANDS)
    assert [line.field for line in found] == [
        'data.channels', 'augment.mean', 'augment.std', 'augment.jitter', 'augment.grayscale',
    ]  # fmt: skip
    assert found[0] == 'data.channels is 4, and the images have 13 channels -> use 13'
    assert found[2].remedy == 'give 13 values, or () for an estimate from training images'
    assert 'augment.grayscale 0.2 is for RGB, and the images have 13 channels -> use 0.0' in found
    assert [line.field for line in check(config, 1)] == ['augment.std']  # before the data is known


@pytest.mark.usefixtures('nothing_compiled')
def test_a_method_of_colors_refuses_other_channels_before_it_compiles(tmp_path: Path) -> None:
    np.savez(tmp_path / 'bands.npz', images=IMAGES)
    config = load('cmc:folder', '--config.data.source=npz', f'--config.data.path={tmp_path / "bands.npz"}')
    with pytest.raises(UserError, match=r'cmc separates lightness .* needs RGB, and the images have 13 channels'):
        fit(config, str(tmp_path / 'run'))
