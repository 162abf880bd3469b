"""Every variant of every recipe can be built, and its docstring lists it."""

import dataclasses
import importlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from contrastive_jax.config.build import build_policy
from contrastive_jax.config.check import check
from contrastive_jax.config.find import variants_of
from contrastive_jax.errors import UserError
from contrastive_jax.methods import METHODS
from contrastive_jax.training.build import build_run
from tests import train_steps

FILES = (
    'barlow_twins',
    'byol',
    'cmc',
    'colorization',
    'context_encoder',
    'cpc',
    'deepcluster',
    'deepcluster_v1',
    'denoising',
    'dictionary',
    'dino',
    'exemplar',
    'instdis',
    'invaspread',
    'jigsaw',
    'mocov1',
    'mocov2',
    'mocov3_r50',
    'mocov3_vit',
    'relative_position',
    'nnclr',
    'simclr',
    'simclrv2',
    'simsiam',
    'swav',
    'vicreg',
)

EXAMPLES = {
    'digits': 1437,
    'cifar10': 50_000,
    'imagenette/160px-v2': 9469,
    'imagenet2012': 1_281_167,
    'stl10': 100_000,
    'mnist': 60_000,
    '': 1_281_167,  # any folder
}


def commands() -> Iterator[str]:
    for file in FILES:
        yield file
        variants = [variant for variant in variants_of(file) if variant != 'continue']  # the same network and views
        yield from (f'{file}:{variant}' for variant in variants)
        if file == 'dictionary':
            dictionaries = importlib.import_module(f'contrastive_jax.configs.{file}').DICTIONARIES
            rest = [variant for variant in variants if variant not in dictionaries]
            yield from (f'{file}:{a},{b}' for a, b in itertools.product(dictionaries, rest))
    yield 'cmc:v3,ycbcr,softmax'
    yield 'instdis:r50,softmax'
    yield 'instdis:cifar10,tiny'
    yield 'mocov1:cifar10,symmetric'
    yield 'mocov2:cifar10,symmetric'
    yield 'mocov2:tiny,symmetric'
    yield 'mocov2:r18,long'
    yield 'mocov3_r50:1000,bfloat16'
    yield 'mocov3_vit:base,bfloat16'
    yield 'simclr:x4,long'
    yield 'simclrv2:r101,x2,sk'
    yield 'simclrv2:r152,x3,sk,memory'
    yield 'simclrv2:digits,memory'
    yield 'dino:base,patch8'
    yield 'dino:resnet50,tiny'
    for variant in ('cifar10', 'stl10', 'digits', 'tiny'):
        yield f'cpc:v1,{variant}'
    yield 'swav:small_batch,400'
    yield 'swav:tiny,queue'


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize('name', list(commands()))
def test_every_variant_is_right_and_can_be_built(name: str) -> None:
    config = train_steps.load(name)
    assert config.is_locked
    assert check(config, 8) == []
    run = build_run(config, EXAMPLES[config.data.name])
    assert isinstance(run.method, METHODS[config.method.name]) and run.total_steps > 0
    hash(run.method)  # a static argument of jit


def test_the_views_of_every_config() -> None:
    """The first and the last global view and a local view of every augmentation policy, on small images."""
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 36, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 2)
    # Without jit, each operation is compiled once for all policies.
    for policy in {build_policy(train_steps.load(name)) for name in commands()}:
        policy = dataclasses.replace(policy, local_size=16)
        if policy.patches is not None:
            small = dataclasses.replace(policy.patches, size=8, stride=4, crop=0, tile=0, channel_shift=0)
            policy = dataclasses.replace(policy, patches=small)
        sizes = policy.view_sizes(24)
        for number in {0, policy.global_views - 1, policy.num_views - 1}:
            view = np.asarray(policy(keys, images, number, 24))
            shape = (sizes[number], sizes[number]) if policy.patches is None else (5, 5, 8, 8)
            assert view.shape == (2, *shape, 3)
            assert np.isfinite(view).all() and view.std() > 0.05 and np.abs(policy.to_rgb(view)).max() <= 1, policy


@pytest.mark.parametrize('file', FILES)
def test_variants_are_documented(file: str) -> None:
    """The docstring of a recipe names every variant, and no other."""
    doc = importlib.import_module(f'contrastive_jax.configs.{file}').__doc__
    named = {name for text in re.findall(r'`:?([\w,]+)`', doc) for name in text.split(',')}
    named |= set(re.findall(rf'configs/{file}\.py:(\w+)', doc))
    assert named == set(variants_of(file))


def test_there_are_no_other_configs() -> None:
    (folder,) = importlib.import_module('contrastive_jax.configs').__path__
    assert {file.stem for file in Path(folder).glob('[!_]*.py')} == {*FILES, 'variants'}


def test_an_unknown_variant() -> None:
    with pytest.raises(UserError, match=r"unknown variant 'digit'; did you mean 'digits'\? -> choose from long, r18"):
        train_steps.load('mocov2:digit')
    with pytest.raises(UserError, match=r"unknown variant 'zzz' -> choose from"):
        train_steps.load('dictionary:zzz')
    with pytest.raises(UserError, match=r'variants moco and memory_bank exclude each other -> give one dictionary'):
        train_steps.load('dictionary:moco,digits,memory_bank')
