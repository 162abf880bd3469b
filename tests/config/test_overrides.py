"""Overrides on the command line have the values that ml_collections reads; other texts are one line each."""

import shlex
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from contrastive_jax.config.base import encoder_config
from contrastive_jax.config.check import check
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.overrides import flat, override, spelled
from tests import train_steps

OWN_ENCODER = """from __future__ import annotations
from typing import Any
import flax.linen as nn
import jax.numpy as jnp
from contrastive_jax.rules import field

class Mean(nn.Module):
    width: int = field(4, 'Features.', least=1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, axis_name=None):
        return nn.Dense(self.width, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)
"""

RIGHT = [
    ('mocov2:tiny', arguments)
    for arguments in (
        ['--config.batch_size=32'],
        ['--config.batch_size=0x20'],
        ['--config.epochs=3'],
        ['--config.epochs=1e-3'],
        ['--config.method.symmetric'],
        ['--config.method.symmetric=true'],
        ['--config.method.symmetric=False'],
        ['--config.method.symmetric=1'],
        ['--noconfig.method.shuffle_bn'],
        ['--config.data.name='],
        ['--config.data.path=/some/where with=signs, and spaces'],
        ['--config.augment.crop_scale=(0.1, 1.0)'],
        ['--config.augment.crop_scale=0.1,1.0'],
        ['--config.augment.crop_scale=[0.1,1.0]'],
        ['--config.schedule.milestones=30'],
        ['--config.schedule.milestones=()'],
        ['--config.optimizer.freeze=encoder'],
        ['--config.optimizer.freeze=encoder/conv1'],
        ['--config.optimizer.freeze=("encoder/conv1","projector")'],
        ['--config.optimizer.freeze=encoder', '--config.optimizer.freeze=projector'],
        ['--config.optimizer.rate_factors=(("projector", 10.0),)'],
        ['--config.encoder.name=resnet50', '--config.seed=3', '--config.encoder.width=8'],
        ['--config.seed=1', '--config.seed=2'],
    )
]


def by_ml_collections(config: ConfigDict, arguments: list[str]) -> ConfigDict:
    """The config after overrides, by the flags of ml_collections."""
    argv, values = ['', *arguments], flags.FlagValues()
    holder = config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
    values(argv)
    return holder.value


@pytest.mark.parametrize(('name', 'arguments'), RIGHT, ids=str)
def test_values_are_those_of_ml_collections(name: str, arguments: list[str]) -> None:
    ours = train_steps.load(name)
    assert override(ours, arguments, sections_of) == []
    assert ours == by_ml_collections(train_steps.load(name), arguments)
    assert ours.is_locked


def test_fields_that_a_module_has_and_its_section_does_not_list() -> None:
    config = train_steps.load('mocov3_vit:tiny')
    assert 'drop_path' not in config.encoder and 'last_bias' not in config.projector
    arguments = ['--config.encoder.drop_path=0.1', '--config.projector.last_bias=True']
    assert override(config, arguments, sections_of) == []
    assert config.encoder.drop_path == 0.1 and config.projector.last_bias is True
    (line,) = override(config, ['--config.encoder.drop_pth=0.1'], sections_of)
    assert "the config has no field 'encoder.drop_pth'; did you mean 'encoder.drop_path'?" in line


def test_a_field_that_may_be_none() -> None:
    config = train_steps.load('cmc:tiny')
    assert override(config, ['--config.encoder.stem_width=None'], sections_of) == []
    assert config.encoder.stem_width is None
    assert override(config, ['--config.encoder.stem_width=8'], sections_of) == [] and config.encoder.stem_width == 8
    (line,) = override(config, ['--config.encoder.stem_width=x'], sections_of)
    assert 'an integer or None is needed' in line and config.encoder.stem_width == 8
    config = train_steps.load('cpc:tiny')
    assert override(config, ['--config.augment.patches.flip=0.25'], sections_of) == []
    assert config.augment.patches.flip == 0.25
    assert override(config, ['--config.augment.patches=None'], sections_of) == [] and config.augment.patches is None


def test_the_class_of_a_section_follows_its_name() -> None:
    """The fields of a ResNet are removed for a ViT, and the order of the arguments does not matter."""
    arguments = ['--config.encoder.depth=3', '--config.encoder.name=vit_small', '--config.encoder.patch_size=4']
    config = train_steps.load('mocov2:tiny')
    assert override(config, arguments, sections_of) == []
    assert config.encoder == encoder_config('vit_small', depth=3, patch_size=4).lock()
    assert 'stem' not in config.encoder and check(config, 8) == []
    (line,) = override(train_steps.load('mocov2:tiny'), arguments[:1], sections_of)
    assert "has no field 'encoder.depth'" in line, 'a ResNet has none'
    (line,) = override(config, ['--config.encoder.width_multiplier=2'], sections_of)
    assert "has no field 'encoder.width_multiplier'" in line
    config = train_steps.load('mocov2:tiny')
    assert override(config, ['--config.encoder.name=resnet18'], sections_of) == []
    assert config.encoder.stem == 'cifar' and config.encoder.width == 4, 'the same class: its fields stay'


def test_an_encoder_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'own_encoder_3.py').write_text(OWN_ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    config = train_steps.load('mocov2:tiny')
    arguments = ['--config.encoder.name=own_encoder_3:Mean', '--config.encoder.width=6']
    assert override(config, arguments, sections_of) == []
    assert config.encoder.to_dict() == {'name': 'own_encoder_3:Mean', 'width': 6} and check(config, 8) == []
    (line,) = override(config, ['--config.encoder.width=x'], sections_of)
    assert 'an integer is needed' in line
    assert override(config, ['--config.encoder.width=0'], sections_of) == []
    assert check(config, 8)[0] == 'encoder.width 0 is out of range -> it must be at least 1'


def test_fields_of_no_class_keep_their_type() -> None:
    """For example, the configs of evaluations declare no classes."""

    def config() -> ConfigDict:
        return ConfigDict(
            {'knn': {'k': (20,), 'temperature': 0.07, 'empty': (), 'any': None, 'on': False, 'names': ('a',)}}
        )

    right = ['--config.knn.k=(10,20)', '--config.knn.temperature=1', '--config.knn.empty=(1,"a")', '--config.knn.on']
    ours = config()
    assert override(ours, right, lambda _: {}) == []
    assert ours.to_dict() == by_ml_collections(config(), right).to_dict()
    for wrong in ('k=abc', 'k=None', 'temperature=x', 'on=2', 'names=3', 'knn=3'):
        (line,) = override(config(), [f'--config.knn.{wrong}'], lambda _: {})
        assert ' -> ' in line and '\n' not in line


@pytest.mark.parametrize('name', ['mocov2:tiny', 'cpc:tiny', 'dino:tiny', 'deepcluster:tiny'])
@pytest.mark.parametrize(
    'text', ['', 'abc', 'None', '-', '(', "('", '(1,', '[[]]', '{}', '1e999', '9' * 5000, '\0', 'é']
)
def test_no_text_is_a_traceback(name: str, text: str) -> None:
    for field in flat(train_steps.load(name)):
        argument = f'--config.{field}={text}'
        for line in override(train_steps.load(name), [argument], sections_of):
            assert line.startswith(argument[:100]) and line.field == field and ' -> ' in line and len(line) < 2000


def test_what_is_spelled_is_read() -> None:
    for name in ('mocov2:tiny', 'cpc:tiny', 'dino:tiny'):
        config = train_steps.load(name)
        for field, value in flat(config).items():
            (argument,) = shlex.split(spelled(field, value))
            other = train_steps.load(name)
            assert override(other, [argument], sections_of) == [] and other == config, argument
