"""What is chosen for a folder: a table of facts and values, for every recipe legal and without a warning."""

import math
from typing import Any

import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.advice import advice
from contrastive_jax.config.check import check, check_examples, check_fields
from contrastive_jax.config.choose import CADENCES, OF_CHANNELS, choose
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.find import list_configs, variants_of
from contrastive_jax.config.overrides import flat, override
from contrastive_jax.config.plan import describe, keep
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.distributed.machine import Machine
from tests import train_steps

CPU, LAPTOP_GPU, NODE = Machine('cpu', cores=2), Machine('gpu', 1, 16, 8), Machine('gpu', 8, 80, 96)
PHOTOS, SMALL, LARGE = DataFacts(40, 3000), DataFacts(2000, 32), DataFacts(1_000_000, 500)
DIGITS = DataFacts(1437, 8)

# recipe, data, machine -> the values that are expected.
TABLE: list[tuple[str, DataFacts, Machine, dict[str, Any]]] = [
    ('mocov2', PHOTOS, CPU, {
        'data.image_size': 64, 'encoder.name': 'resnet18', 'encoder.stem': 'imagenet', 'batch_size': 8,
        'bn_group_size': 4, 'method.queue_size': 8, 'epochs': 200.0, 'log_every_steps': 5, 'eval_every_steps': 100,
        'checkpoint_every_steps': 100, 'checkpoint_every_minutes': 10.0, 'eval.knn_k': 4, 'eval.batch_size': 64,
    }),
    ('mocov2', SMALL, CPU, {
        'data.image_size': 32, 'encoder.name': 'resnet_tiny', 'encoder.stem': 'cifar', 'batch_size': 128,
        'bn_group_size': 32, 'method.queue_size': 384, 'epochs': 200.0, 'projector.hidden_dim': 256,
        'eval_every_steps': 300, 'augment.blur': (0.0, 0.0), 'method.momentum': 0.999,
    }),
    ('mocov2', SMALL, LAPTOP_GPU, {'encoder.name': 'resnet18', 'batch_size': 128, 'epochs': 334.0}),
    ('mocov2', LARGE, NODE, {
        'data.image_size': 224, 'encoder.name': 'resnet50', 'batch_size': 256, 'method.queue_size': 65536,
        'epochs': 200.0, 'eval_every_steps': 5000, 'augment.blur': (0.5, 0.5), 'optimizer.learning_rate': 0.03,
    }),
    ('mocov2', DataFacts(1_000_000, 500), LAPTOP_GPU, {'batch_size': 32, 'optimizer.learning_rate': 0.0849}),
    ('mocov2', DataFacts(300_000, 300), CPU, {'epochs': 10.0, 'encoder.name': 'resnet18', 'eval.max_train': 5000}),
    ('mocov2', DataFacts(60_000, 28), LAPTOP_GPU, {'data.image_size': 28, 'encoder.stem': 'cifar'}),
    ('instdis', SMALL, CPU, {'method.objective': 'softmax', 'method.num_negatives': 0}),
    ('instdis', DataFacts(60_000, 96), LAPTOP_GPU, {'method.objective': 'nce', 'method.num_negatives': 4096}),
    ('cmc', DataFacts(60_000, 96), LAPTOP_GPU, {'method.objective': 'nce', 'method.num_negatives': 6000}),
    ('swav', SMALL, CPU, {
        'method.num_prototypes': 125, 'optimizer.freeze_steps': 15, 'optimizer.learning_rate': 0.357,
        'schedule.warmup_epochs': 10.0, 'augment.local_size': 14,
    }),
    ('swav', DataFacts(100_000, 300), LAPTOP_GPU, {'batch_size': 32}),
    ('deepcluster', SMALL, CPU, {'method.num_prototypes': (125, 125, 125)}),
    ('dino', SMALL, CPU, {'method.output_dim': 256, 'encoder.name': 'dino_tiny', 'encoder.patch_size': 4}),
    ('mocov3_vit', DataFacts(20_000, 70), LAPTOP_GPU, {'data.image_size': 64, 'encoder.patch_size': 8}),
    ('mocov1', SMALL, LAPTOP_GPU, {'epochs': 334.0, 'schedule.milestones': (200.0, 267.0)}),
    ('cpc', SMALL, CPU, {'data.image_size': 32, 'encoder.name': 'cpc_tiny', 'augment.patches.size': 8}),
    ('jigsaw', SMALL, CPU, {
        'data.image_size': 32, 'augment.patches.size': 10, 'augment.patches.stride': 11, 'augment.patches.tile': 9,
        'encoder.name': 'resnet_tiny', 'encoder.stem': 'cifar',
    }),
    ('relative_position', LARGE, NODE, {'augment.patches.tile': 96, 'encoder.stem': 'imagenet'}),
    ('denoising', DataFacts(60_000, 28), LAPTOP_GPU, {'data.image_size': 24, 'encoder.stem': 'cifar'}),
    ('deepcluster_v1', SMALL, CPU, {'method.num_prototypes': 125}),
    ('exemplar', SMALL, CPU, {'data.split': 'train', 'data.image_size': 32}),
    ('simclr', LARGE, NODE, {'batch_size': 2048, 'optimizer.learning_rate': 0.075}),  # the recipe's own root
    ('byol', DIGITS, CPU, {'batch_size': 128, 'optimizer.learning_rate': 1.13, 'data.image_size': 8}),
]  # fmt: skip


def folder(name: str, *arguments: str) -> ConfigDict:
    """The config of a recipe's variant `folder` with overrides of a command line."""
    config = train_steps.load(name if ':' in name else f'{name}:folder')
    assert override(config, arguments, sections_of) == []
    assert check_fields(config) == []
    return config


@pytest.mark.parametrize(('name', 'data', 'machine', 'expected'), TABLE, ids=[f'{t[0]} {t[1].images}' for t in TABLE])
def test_the_table(name: str, data: DataFacts, machine: Machine, expected: dict[str, Any]) -> None:
    config, _ = choose(folder(name), data, machine)
    assert {field: flat(config)[field] for field in expected} == expected
    assert check_examples(config, data.images, machine.devices) == [] and advice(config, data) == []


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize('name', [name for name in list_configs() if '/' not in name])
def test_every_recipe_is_legal_and_gets_no_warning(name: str) -> None:
    assert 'folder' in variants_of(name)
    recipe = folder(name)
    three = Machine('gpu', 3, 24)
    for i, (data, machine) in enumerate([(SMALL, CPU), (PHOTOS, CPU), (SMALL, three), (PHOTOS, three), (LARGE, NODE)]):
        config, choices = choose(recipe, data, machine)
        assert (check(config, machine.devices) if i < 1 else []) == []  # it traces the network, a second each
        assert check_examples(config, data.images, machine.devices) == [] and advice(config, data) == []
        assert config.batch_size % machine.devices == 0
        assert choices and all(choice.reason for choice in choices)
        assert choose(recipe, data, machine)[0] == config, 'the same facts give the same choices on every host'


def test_values_of_the_user_are_kept_and_the_rest_fits_around_them() -> None:
    given = folder('mocov2', '--config.method.queue_size=300', '--config.epochs=30')
    config, choices = choose(given, SMALL, CPU)
    assert (config.method.queue_size, config.epochs) == (300, 30.0)
    assert 300 % config.batch_size == 0 and config.batch_size > 64, 'the batch divides the queue'
    assert not {'method.queue_size', 'epochs'} & {choice.field for choice in choices}
    assert check_examples(config, 2000) == []

    config, _ = choose(folder('mocov2', '--config.batch_size=256'), SMALL, CPU)  # also a value that the recipe has
    assert (config.batch_size, config.method.queue_size) == (256, 256)
    config, _ = choose(folder('mocov2', '--config.bn_group_size=24', '--config.data.image_size=48'), SMALL, CPU)
    assert config.batch_size % 24 == 0 and (config.bn_group_size, config.data.image_size) == (24, 48)
    config, _ = choose(folder('dino', '--config.encoder.patch_size=8'), DataFacts(5000, 44), LAPTOP_GPU)
    assert (config.encoder.patch_size, config.data.image_size) == (8, 40)
    config, _ = choose(folder('mocov2', '--config.encoder.name=resnet34'), SMALL, CPU)
    assert config.encoder.name == 'resnet34' and config.encoder.stem == 'cifar'
    config, _ = choose(folder('mocov2', '--config.steps=50'), SMALL, CPU)
    assert config.eval_every_steps == 5


def test_a_variant_that_names_an_encoder_or_a_length_is_a_choice_of_the_user() -> None:
    for name in ('mocov2:r18,long,folder', 'mocov2:folder,r18,long'):
        config, _ = choose(folder(name), LARGE, NODE)
        assert (config.encoder.name, config.epochs) == ('resnet18', 800.0)
    assert choose(folder('simclrv2:memory,folder'), SMALL, CPU)[0].method.queue_size == 384


def test_only_cadences_are_chosen_without_the_variant() -> None:
    given = train_steps.load('mocov2')
    assert choose(given, SMALL, NODE) == (given, []), 'the cadence of ImageNet stays'
    override(given, ['--config.data.source=npz', '--config.log_every_steps=50'], sections_of)
    config, choices = choose(given, DataFacts(2000, 32), NODE)  # 7 steps an epoch, 1,400 in all
    assert {choice.field for choice in choices} == set(CADENCES) - {'log_every_steps'}
    assert (config.eval_every_steps, config.log_every_steps) == (140, 50)
    assert choose(train_steps.load('mocov2:tiny'), DIGITS, CPU)[1] == []
    config, choices = choose(folder('mocov2', '--config.auto.fields=()'), SMALL, CPU)
    assert choices == [] and config.method.queue_size == 65536


def test_a_resume_keeps_what_was_chosen() -> None:
    """The data has grown, the machine is another, and the command gives one value again and another length."""
    first, _ = choose(folder('mocov2', '--config.batch_size=64'), SMALL, CPU)
    stored = ConfigDict(first.to_dict())
    again = folder('mocov2', '--config.batch_size=64', '--config.epochs=300').unlock()
    keep(again, stored)
    expected = ConfigDict(stored.to_dict())
    expected.epochs = 300.0
    assert again.to_dict() == expected.to_dict()

    older = ConfigDict(folder('mocov2').to_dict())  # from before there was a choice
    del older['auto'], older['checkpoint_every_minutes']
    again = folder('mocov2').unlock()
    keep(again, older)
    assert again.method.queue_size == 65536 and again.auto.fields == (*CADENCES, *OF_CHANNELS)


def test_the_printed_lines_name_value_and_reason() -> None:
    lines = describe(choose(folder('mocov2'), PHOTOS, CPU)[1])
    assert any('data.image_size 64' in line and 'on a CPU; 224 px take 12 times as long' in line for line in lines)
    (line,) = (line for line in lines if 'optimizer.learning_rate' in line)
    rate, factor = 0.03 * math.sqrt(8 / 256), math.sqrt(8 / 256)  # of the recipe, for batch 256
    assert f'a rate of {rate:.2g}' in line and f' for batch 8, {factor:.3g} times that of batch 256' in line
    assert len(lines) < 16, 'choices with the same reason share a line'
