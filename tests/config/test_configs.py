"""Every variant of every recipe can be built, and the recipes have the values of the papers and their code."""

import dataclasses
import importlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.build import build_network, build_policy
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


# ================================ every variant of every config ================================


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


# ================================ the papers' numbers, written out ================================


def values(config: ConfigDict, *sections: str) -> dict[str, Any]:
    """The fields of sections as 'section.field'."""
    return {f'{section}.{name}': value for section in sections for name, value in config[section].items()}


def check_values(config: ConfigDict, expected: dict[str, Any]) -> None:
    flat = {**dict(config.items()), **values(config, *(k for k, v in config.items() if isinstance(v, ConfigDict)))}
    assert {name: flat[name] for name in expected} == expected


IMAGENET = {
    'data.source': 'tfds',
    'data.name': 'imagenet2012',
    'data.image_size': 224,
    'augment.style': 'pil',
    'augment.interpolation': 'bilinear',
    'augment.crop_ratio': (3 / 4, 4 / 3),
    'augment.flip': 0.5,
    'augment.grayscale': 0.2,
    'augment.blur_sigma': (0.1, 2.0),
    'augment.mean': (0.485, 0.456, 0.406),
    'augment.std': (0.229, 0.224, 0.225),
}

# facebookresearch/moco: what v1 and v2 share
MOCO_V1_V2 = {
    **IMAGENET,
    'batch_size': 256,
    'epochs': 200.0,
    'bn_group_size': 32,  # 8 GPUs of 32, not synchronized
    'encoder.name': 'resnet50',
    'encoder.stem': 'imagenet',
    'encoder.width_multiplier': 1,
    'encoder.zero_init_residual': False,
    'projector.output_dim': 128,
    'projector.bias': True,
    'projector.last_batch_norm': False,
    'method.name': 'moco',
    'method.queue_size': 65536,
    'method.momentum': 0.999,
    'method.symmetric': False,
    'method.shuffle_bn': True,
    'augment.crop_scale': (0.2, 1.0),
    'augment.solarize': (0.0, 0.0),
    'optimizer.name': 'sgd',
    'optimizer.learning_rate': 0.03,
    'optimizer.learning_rate_batch': 256,
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 1e-4,
    'optimizer.freeze': (),
}

# facebookresearch/moco-v3: what the ResNet and the ViTs share
MOCO_V3 = {
    **IMAGENET,
    'batch_size': 4096,
    'bn_group_size': 0,  # synchronized
    'projector.hidden_dim': 4096,
    'projector.output_dim': 256,
    'projector.bias': False,
    'projector.batch_norm': True,
    'projector.last_batch_norm': True,
    'projector.last_batch_norm_affine': False,
    'predictor.num_layers': 2,
    'predictor.hidden_dim': 4096,
    'predictor.output_dim': 256,
    'predictor.bias': False,
    'predictor.batch_norm': True,
    'method.name': 'mocov3',
    'method.momentum': 0.99,
    'augment.jitter': (0.4, 0.4, 0.2, 0.1),
    'augment.jitter_probability': 0.8,
    'augment.grayscale_first': False,
    'augment.blur': (1.0, 0.1),
    'augment.solarize': (0.0, 0.2),
    'optimizer.learning_rate_batch': 256,
    'schedule.name': 'warmup_cosine',
}


# What InstDis, InvaSpread and CMC share
SGD = {
    'optimizer.name': 'sgd',
    'optimizer.learning_rate': 0.03,
    'optimizer.learning_rate_batch': 0,  # not scaled
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 1e-4,
    'schedule.name': 'step',
    'schedule.factor': 0.1,
    'schedule.milestones': (120, 160),
    'schedule.factors': (),
    'projector.num_layers': 1,
    'projector.output_dim': 128,
    'projector.bias': True,
    'projector.last_batch_norm': False,
    'bn_group_size': 0,
    'augment.crop_scale': (0.2, 1.0),
    'augment.jitter': (0.4, 0.4, 0.4, 0.4),
    'augment.jitter_probability': 1.0,
    'augment.grayscale': 0.2,
}


def test_instdis() -> None:
    """zhirongw/lemniscate.pytorch: the README's commands."""
    expected = {
        **IMAGENET,
        **SGD,
        'batch_size': 256,
        'epochs': 200.0,
        'encoder.name': 'resnet18',
        'encoder.stem': 'imagenet',
        'method.num_negatives': 4096,
        'method.objective': 'nce',
        'method.momentum': 0.5,
        'method.temperature': 0.07,
        'method.proximal': 0.0,
        'augment.grayscale_first': True,
        'augment.blur': (0.0,),
        'augment.solarize': (0.0,),
    }
    check_values(train_steps.load('instdis'), expected)
    check_values(train_steps.load('instdis:r50'), {**expected, 'encoder.name': 'resnet50'})
    later = {'method.objective': 'softmax', 'method.num_negatives': 65536}
    check_values(train_steps.load('instdis:softmax'), {**expected, **later})
    cifar10 = {
        'batch_size': 128,
        'data.image_size': 32,
        'encoder.stem': 'cifar',
        'method.objective': 'softmax',
        'method.num_negatives': 0,  # the softmax over all 50,000
        'method.temperature': 0.1,
        'optimizer.weight_decay': 5e-4,
        'augment.flip': 0.0,
        'augment.grayscale_first': False,
        'augment.mean': (0.4914, 0.4822, 0.4465),
        'augment.std': (0.2023, 0.1994, 0.2010),
        'eval.knn_k': 200,
        'eval.knn_temperature': 0.1,
    }
    check_values(train_steps.load('instdis:cifar10'), {**expected, **cifar10, 'data.name': 'cifar10'})


def test_invaspread() -> None:
    """mangye16/Unsupervised_Embedding_Learning: demo_seen.py."""
    expected = {
        **IMAGENET,
        **SGD,
        'data.name': 'cifar10',
        'data.image_size': 32,
        'batch_size': 128,
        'epochs': 301.0,
        'encoder.name': 'resnet18',
        'encoder.stem': 'cifar',
        'method.temperature': 0.1,
        'optimizer.weight_decay': 5e-4,
        'schedule.milestones': (120, 160, 200),
        'schedule.factors': (0.1, 0.05, 0.01),
        'augment.grayscale_first': False,
        'augment.blur': (0.0, 0.0),
        'augment.solarize': (0.0, 0.0),
        'augment.mean': (0.4914, 0.4822, 0.4465),
        'augment.std': (0.2023, 0.1994, 0.2010),
        'eval.knn_k': 200,
        'eval.knn_temperature': 0.1,
    }
    check_values(train_steps.load('invaspread'), expected)
    check_values(train_steps.load('invaspread:cifar10'), {**expected, 'data.split': 'train'})
    stl10 = {'data.name': 'stl10', 'data.split': 'train+unlabelled', 'data.image_size': 96}
    check_values(train_steps.load('invaspread:stl10'), {**expected, **stl10})


def test_cmc() -> None:
    """HobbitLong/CMC: README and train_CMC.py."""
    expected = {
        **IMAGENET,
        **SGD,
        'batch_size': 128,
        'epochs': 240.0,
        'bn_group_size': 32,  # 4 GPUs, not synchronized
        'encoder.name': 'split_resnet50',
        'encoder.stem': 'imagenet',
        'encoder.width': 32,
        'encoder.stem_width': 64,
        'method.num_negatives': 16384,
        'method.objective': 'nce',
        'method.momentum': 0.5,
        'method.temperature': 0.07,
        'schedule.milestones': (120, 160, 200),
        'augment.crop_scale': (0.08, 1.0),
        'augment.jitter': (0.0, 0.0, 0.0, 0.0),
        'augment.jitter_probability': 0.0,
        'augment.grayscale': 0.0,
        'augment.blur': (0.0,),
        'augment.solarize': (0.0,),
        'augment.color_space': 'lab',
        'augment.mean': (50.0, 6.025, -6.6895),  # the middle of -86.183 .. 98.233, and of -107.857 .. 94.478
        'augment.std': (50.0, 92.208, 101.1675),
    }
    check_values(train_steps.load('cmc'), expected)
    for name, width in (('v1', 32), ('v2', 64), ('v3', 128)):
        check_values(train_steps.load(f'cmc:{name}'), {**expected, 'encoder.width': width})
    ycbcr = {
        'augment.color_space': 'ycbcr',
        'augment.mean': (116.151, 121.080, 132.342),
        'augment.std': (109.500, 111.855, 111.964),
    }
    check_values(train_steps.load('cmc:ycbcr'), {**expected, **ycbcr})
    softmax = {'method.objective': 'softmax', 'method.num_negatives': 4096}
    check_values(train_steps.load('cmc:softmax'), {**expected, **softmax})
    check_values(train_steps.load('cmc:softmax,nce'), expected)


def test_moco_v1() -> None:
    config = train_steps.load('mocov1')
    check_values(
        config,
        {
            **MOCO_V1_V2,
            'projector.num_layers': 1,  # 2048 -> 128
            'method.temperature': 0.07,
            'augment.jitter': (0.4, 0.4, 0.4, 0.4),
            'augment.jitter_probability': 1.0,
            'augment.grayscale_first': True,
            'augment.blur': (0.0, 0.0),
            'schedule.name': 'step',
            'schedule.milestones': (120, 160),
            'schedule.factor': 0.1,
        },
    )
    assert not config.predictor
    check_values(train_steps.load('mocov1:symmetric'), {**MOCO_V1_V2, 'method.symmetric': True})


def test_moco_v2() -> None:
    expected = {
        **MOCO_V1_V2,
        'projector.num_layers': 2,  # 2048 -> 2048 -> 128
        'projector.hidden_dim': 2048,
        'projector.batch_norm': False,
        'method.temperature': 0.2,
        'augment.jitter': (0.4, 0.4, 0.4, 0.1),
        'augment.jitter_probability': 0.8,
        'augment.grayscale_first': False,
        'augment.blur': (0.5, 0.5),
        'schedule.name': 'cosine',
    }
    check_values(train_steps.load('mocov2'), expected)
    check_values(train_steps.load('mocov2:long'), {**expected, 'epochs': 800.0})
    assert not train_steps.load('mocov2').predictor


def test_moco_v2_cifar10_demo() -> None:
    check_values(
        train_steps.load('mocov2:cifar10'),
        {
            'batch_size': 512,
            'epochs': 200.0,
            'bn_group_size': 64,  # split into 8
            'data.image_size': 32,
            'encoder.name': 'resnet18',
            'encoder.stem': 'cifar',
            'projector.num_layers': 1,
            'projector.output_dim': 128,
            'method.queue_size': 4096,
            'method.temperature': 0.1,
            'method.momentum': 0.99,
            'augment.crop_scale': (0.08, 1.0),
            'augment.jitter': (0.4, 0.4, 0.4, 0.1),
            'augment.jitter_probability': 0.8,
            'augment.grayscale': 0.2,
            'augment.blur': (0.0, 0.0),
            'optimizer.weight_decay': 5e-4,
            'schedule.name': 'cosine',
            'eval.knn_k': 200,
            'eval.knn_temperature': 0.1,
        },
    )
    run = build_run(train_steps.load('mocov2:cifar10'), 50_000)
    assert float(run.learning_rate(0)) == pytest.approx(0.06)


def test_moco_v3_resnet() -> None:
    expected = {
        **MOCO_V3,
        'epochs': 100.0,
        'encoder.name': 'resnet50',
        'encoder.zero_init_residual': True,
        'projector.num_layers': 2,
        'predictor.last_batch_norm': False,
        'method.temperature': 1.0,
        'augment.crop_scale': (0.2, 1.0),
        'optimizer.name': 'lars',
        'optimizer.learning_rate': 0.6,
        'optimizer.momentum': 0.9,
        'optimizer.weight_decay': 1e-6,
        'optimizer.freeze': (),
        'schedule.warmup_epochs': 10.0,
    }
    check_values(train_steps.load('mocov3_r50'), expected)
    check_values(train_steps.load('mocov3_r50:300'), {**expected, 'epochs': 300.0, 'optimizer.learning_rate': 0.3})
    long = {
        'epochs': 1000.0,
        'optimizer.learning_rate': 0.3,
        'optimizer.weight_decay': 1.5e-6,
        'method.momentum': 0.996,
    }
    check_values(train_steps.load('mocov3_r50:1000'), {**expected, **long})
    check_values(
        train_steps.load('mocov3_r50:cifar10'),  # vturrisi/solo-learn: scripts/pretrain/cifar/mocov3.yaml
        {
            'batch_size': 256,
            'encoder.stem': 'cifar',
            'encoder.zero_init_residual': False,
            'method.temperature': 0.2,
            'method.momentum': 0.99,
            'augment.crop_scale': (0.08, 1.0),
            'augment.jitter': (0.4, 0.4, 0.2, 0.1),
            'augment.blur': (0.0, 0.0),
            'augment.solarize': (0.0, 0.2),
            'optimizer.learning_rate': 0.3,
            'optimizer.learning_rate_batch': 256,
            'optimizer.weight_decay': 1e-6,
        },
    )


def test_moco_v3_vit() -> None:
    expected = {
        **MOCO_V3,
        'epochs': 300.0,
        'encoder.name': 'vit_small',
        'encoder.patch_size': 16,
        'projector.num_layers': 3,
        'predictor.last_batch_norm': True,
        'predictor.last_batch_norm_affine': False,
        'method.temperature': 0.2,
        'augment.crop_scale': (0.08, 1.0),
        'optimizer.name': 'adamw',
        'optimizer.learning_rate': 1.5e-4,
        'optimizer.weight_decay': 0.1,
        'optimizer.freeze': ('encoder/patch_embed',),
        'schedule.warmup_epochs': 40.0,
    }
    check_values(train_steps.load('mocov3_vit'), expected)
    check_values(train_steps.load('mocov3_vit:base'), {**expected, 'encoder.name': 'vit_base'})
    check_values(
        train_steps.load('mocov3_vit:conv_small'),
        {**expected, 'encoder.name': 'vit_conv_small', 'optimizer.freeze': ()},
    )
    for name, width, depth in (('small', 384, 12), ('base', 768, 12), ('conv_small', 384, 11), ('conv_base', 768, 11)):
        encoder: Any = build_network(train_steps.load(f'mocov3_vit:{name}')).encoder
        assert (encoder.width, encoder.depth, encoder.num_heads) == (width, depth, 12)


# google-deepmind/deepmind-research, byol/configs/byol.py: epochs -> learning rate, weight decay, momentum
BYOL_PRESETS = {
    40: (0.45, 1e-6, 0.97),
    100: (0.45, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.2, 1.5e-6, 0.996),
}


def test_byol() -> None:
    expected = {
        **IMAGENET,
        'batch_size': 4096,
        'bn_group_size': 0,
        'encoder.name': 'resnet50',
        'encoder.width_multiplier': 1,
        'encoder.zero_init_residual': False,
        'encoder.padding': 'same',
        'encoder.bn_unbiased': False,
        **{
            f'{head}.{name}': value
            for head in ('projector', 'predictor')
            for name, value in {
                'num_layers': 2,
                'hidden_dim': 4096,
                'output_dim': 256,
                'bias': True,
                'last_bias': False,
                'batch_norm': True,
                'last_batch_norm': False,
                'bn_unbiased': False,
            }.items()
        },
        'method.name': 'byol',
        'augment.style': 'byol',
        'augment.interpolation': 'bicubic',
        'augment.crop_scale': (0.08, 1.0),
        'augment.jitter': (0.4, 0.4, 0.2, 0.1),
        'augment.jitter_probability': 0.8,
        'augment.blur': (1.0, 0.1),
        'augment.solarize': (0.0, 0.2),
        'optimizer.name': 'lars',
        'optimizer.learning_rate_batch': 256,
        'optimizer.momentum': 0.9,
        'schedule.name': 'warmup_cosine',
        'schedule.warmup_epochs': 10.0,
    }
    for epochs, (learning_rate, weight_decay, momentum) in BYOL_PRESETS.items():
        preset = {
            'epochs': float(epochs),
            'optimizer.learning_rate': learning_rate,
            'optimizer.weight_decay': weight_decay,
            'method.momentum': momentum,
        }
        check_values(train_steps.load('byol' if epochs == 1000 else f'byol:{epochs}'), expected | preset)
    sizes = {'r50x2': ('resnet50', 2), 'r50x4': ('resnet50', 4), 'r200x2': ('resnet200', 2)}
    for variant, (name, width) in sizes.items():
        check_values(train_steps.load(f'byol:{variant}'), {'encoder.name': name, 'encoder.width_multiplier': width})
    check_values(
        train_steps.load('byol:imagenette'),
        {
            'data.name': 'imagenette/160px-v2',
            'data.image_size': 128,
            'encoder.name': 'resnet18',
            'epochs': 1000.0,
            'batch_size': 256,
            'optimizer.learning_rate': 2.0,
            'optimizer.weight_decay': 1e-6,
        },
    )


# Augmentation and LARS that Barlow Twins, VICReg and NNCLR share: those of BYOL, with PIL
AFTER_BYOL = {
    **IMAGENET,
    'bn_group_size': 0,
    'epochs': 1000.0,
    'encoder.name': 'resnet50',
    'augment.style': 'pil',
    'augment.crop_scale': (0.08, 1.0),
    'augment.interpolation': 'bicubic',
    'augment.jitter': (0.4, 0.4, 0.2, 0.1),
    'augment.jitter_probability': 0.8,
    'augment.grayscale': 0.2,
    'augment.blur': (1.0, 0.1),
    'augment.solarize': (0.0, 0.2),
    'optimizer.name': 'lars',
    'optimizer.learning_rate_batch': 256,
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 1e-6,
    'schedule.name': 'warmup_cosine',
    'schedule.warmup_epochs': 10.0,
}


def test_barlow_twins() -> None:
    """facebookresearch/barlowtwins, main.py; the variant for CIFAR-10 is lightly's cifar10_benchmark.py."""
    expected = {
        **AFTER_BYOL,
        'batch_size': 2048,
        'encoder.zero_init_residual': True,
        'projector.num_layers': 3,
        'projector.hidden_dim': 8192,
        'projector.output_dim': 8192,
        'projector.bias': False,
        'projector.batch_norm': True,
        'projector.last_batch_norm': False,
        'method.off_diagonal': 0.0051,
        'optimizer.learning_rate': 0.2,
        'schedule.final': pytest.approx(0.2 * 2048 / 256 * 0.001),
    }
    check_values(train_steps.load('barlow_twins'), expected)
    check_values(train_steps.load('barlow_twins:300'), {**expected, 'epochs': 300.0})
    assert 0.2 * train_steps.load('barlow_twins').optimizer.bias_rate_factor == pytest.approx(0.0048)
    assert not train_steps.load('barlow_twins').predictor
    check_values(
        train_steps.load('barlow_twins:cifar10'),
        {
            'batch_size': 512,
            'epochs': 200.0,
            'projector.num_layers': 2,
            'projector.output_dim': 2048,
            'method.off_diagonal': 0.005,
            'augment.jitter': (0.4, 0.4, 0.4, 0.1),
            'augment.blur': (0.0, 0.0),
            'augment.solarize': (0.0, 0.0),
            'optimizer.name': 'sgd',
            'optimizer.learning_rate': 0.06,
            'optimizer.learning_rate_batch': 128,
            'optimizer.bias_rate_factor': 1.0,
            'optimizer.weight_decay': 5e-4,
            'schedule.name': 'cosine',
        },
    )


def test_vicreg() -> None:
    """facebookresearch/vicreg, main_vicreg.py and README; the variant for CIFAR-10 is solo-learn's vicreg.yaml."""
    expected = {
        **AFTER_BYOL,
        'batch_size': 2048,
        'encoder.zero_init_residual': True,
        'projector.num_layers': 3,
        'projector.hidden_dim': 8192,
        'projector.output_dim': 8192,
        'projector.bias': True,
        'projector.last_bias': False,
        'projector.batch_norm': True,
        'projector.last_batch_norm': False,
        'method.invariance': 25.0,
        'method.variance': 25.0,
        'method.covariance': 1.0,
        'optimizer.learning_rate': 0.2,
        'optimizer.bias_rate_factor': 1.0,
        'schedule.final': pytest.approx(0.2 * 2048 / 256 * 0.001),
    }
    check_values(train_steps.load('vicreg'), expected)
    short = {'batch_size': 512, 'epochs': 100.0, 'optimizer.learning_rate': 0.3}
    short['schedule.final'] = pytest.approx(0.3 * 512 / 256 * 0.001)
    check_values(train_steps.load('vicreg:100'), {**expected, **short})
    check_values(train_steps.load('vicreg:r50x2'), {**expected, 'encoder.width_multiplier': 2})
    wide = {'encoder.name': 'resnet200', 'encoder.width_multiplier': 2}
    check_values(train_steps.load('vicreg:r200x2'), {**expected, **wide})
    check_values(
        train_steps.load('vicreg:cifar10'),
        {
            'batch_size': 256,
            'epochs': 1000.0,
            'projector.num_layers': 3,
            'projector.hidden_dim': 2048,
            'projector.output_dim': 2048,
            'method.variance': 50.0,
            'augment.crop_scale': (0.2, 1.0),
            'augment.jitter': (0.4, 0.4, 0.2, 0.1),
            'augment.blur': (0.0, 0.0),
            'augment.solarize': (0.1, 0.1),
            'optimizer.learning_rate': 0.3,
            'optimizer.weight_decay': 1e-4,
        },
    )


def test_nnclr() -> None:
    """Section 4.1 of the paper; the variant for CIFAR-10 is lightly's cifar10_benchmark.py."""
    expected = {
        **AFTER_BYOL,
        'batch_size': 4096,
        'projector.num_layers': 3,  # 2048, 2048, 256
        'projector.hidden_dim': 2048,
        'projector.output_dim': 256,
        'projector.last_batch_norm': True,
        'projector.last_batch_norm_affine': True,
        'predictor.num_layers': 2,  # 4096, 256
        'predictor.hidden_dim': 4096,
        'predictor.output_dim': 256,
        'predictor.batch_norm': True,
        'predictor.last_batch_norm': False,
        'method.queue_size': 98304,
        'method.temperature': 0.1,
        'optimizer.learning_rate': 0.3,
        'schedule.final': 0.0,
    }
    check_values(train_steps.load('nnclr'), expected)
    check_values(
        train_steps.load('nnclr:cifar10'),
        {
            'batch_size': 512,
            'epochs': 200.0,
            'projector.num_layers': 2,
            'projector.hidden_dim': 2048,
            'projector.output_dim': 256,
            'predictor.hidden_dim': 4096,
            'method.queue_size': 8192,
            'augment.jitter': (0.4, 0.4, 0.4, 0.1),
            'augment.blur': (0.0, 0.0),
            'augment.solarize': (0.0, 0.0),
            'optimizer.name': 'sgd',
            'optimizer.learning_rate': 0.06,
            'optimizer.learning_rate_batch': 128,
            'optimizer.weight_decay': 5e-4,
            'schedule.name': 'cosine',
        },
    )


def test_byol_cifar10() -> None:
    """lightly-ai/lightly: cifar10_benchmark.py, for batches of 512. Its loss times 4 is BYOL's up to a constant."""
    config = train_steps.load('byol:cifar10')
    check_values(
        config,
        {
            'batch_size': 512,
            'epochs': 200.0,
            'projector.hidden_dim': 1024,
            'projector.output_dim': 256,
            'method.momentum': 0.99,
            'augment.style': 'pil',
            'augment.crop_scale': (0.08, 1.0),
            'augment.jitter': (0.4, 0.4, 0.4, 0.1),
            'augment.blur': (0.0, 0.0),
            'optimizer.name': 'sgd',
            'optimizer.weight_decay': 4 * 5e-4,
        },
    )
    run = build_run(config, 50_000)
    assert float(run.learning_rate(0)) == pytest.approx(0.06 * 512 / 128 / 4)


def test_simsiam() -> None:
    expected = {
        **IMAGENET,
        'batch_size': 512,
        'epochs': 100.0,
        'bn_group_size': 0,
        'encoder.name': 'resnet50',
        'encoder.zero_init_residual': True,
        'projector.num_layers': 3,
        'projector.hidden_dim': 2048,
        'projector.output_dim': 2048,
        'projector.bias': False,
        'projector.batch_norm': True,
        'projector.last_batch_norm': True,
        'projector.last_batch_norm_affine': False,
        'predictor.num_layers': 2,
        'predictor.hidden_dim': 512,
        'predictor.output_dim': 2048,
        'predictor.bias': False,
        'predictor.last_bias': True,
        'predictor.batch_norm': True,
        'predictor.last_batch_norm': False,
        'method.name': 'simsiam',
        'augment.crop_scale': (0.2, 1.0),
        'augment.jitter': (0.4, 0.4, 0.4, 0.1),
        'augment.jitter_probability': 0.8,
        'augment.blur': (0.5, 0.5),
        'augment.solarize': (0.0, 0.0),
        'optimizer.name': 'sgd',
        'optimizer.learning_rate': 0.05,
        'optimizer.learning_rate_batch': 256,
        'optimizer.momentum': 0.9,
        'optimizer.weight_decay': 1e-4,
        'optimizer.mask': 'none',
        'optimizer.constant': ('predictor',),
        'schedule.name': 'cosine',
    }
    check_values(train_steps.load('simsiam'), expected)
    for epochs in (200, 400, 800):
        check_values(train_steps.load(f'simsiam:{epochs}'), {**expected, 'epochs': float(epochs)})
    check_values(
        train_steps.load('simsiam:cifar10'),  # appendix D
        {
            'batch_size': 512,
            'epochs': 800.0,
            'encoder.name': 'resnet18',
            'encoder.stem': 'cifar',
            'projector.num_layers': 2,
            'projector.output_dim': 2048,
            'augment.blur': (0.0, 0.0),
            'optimizer.learning_rate': 0.03,
            'optimizer.weight_decay': 5e-4,
        },
    )


# google-research/simclr: what v1 and v2 share
SIMCLR = {
    'batch_size': 4096,
    'bn_group_size': 0,  # global
    'data.name': 'imagenet2012',
    'data.image_size': 224,
    'encoder.name': 'resnet50',
    'encoder.stem': 'imagenet',
    'encoder.zero_init_residual': True,
    'encoder.padding': 'simclr',
    'projector.hidden_dim': 2048,
    'projector.output_dim': 128,
    'projector.bias': False,
    'projector.batch_norm': True,
    'projector.last_batch_norm': True,
    'projector.last_batch_norm_affine': True,
    'projector.last_batch_norm_offset': False,
    'projector.kernel_init': 'normal',
    'method.temperature': 0.1,
    'augment.interpolation': 'bicubic',
    'augment.crop_scale': (0.08, 1.0),
    'augment.crop_ratio': (3 / 4, 4 / 3),
    'augment.flip': 0.5,
    'augment.jitter': (0.8, 0.8, 0.8, 0.2),
    'augment.jitter_probability': 0.8,
    'augment.grayscale': 0.2,
    'augment.grayscale_first': False,
    'augment.blur': (0.5, 0.5),
    'augment.blur_sigma': (0.1, 2.0),
    'augment.solarize': (0.0, 0.0),
    'augment.mean': (0.0, 0.0, 0.0),  # not normalized
    'augment.std': (1.0, 1.0, 1.0),
    'optimizer.name': 'lars_simclr',
    'optimizer.learning_rate_scaling': 'sqrt',
    'optimizer.momentum': 0.9,
    'schedule.name': 'warmup_cosine',
}


def test_simclr() -> None:
    expected = {
        **SIMCLR,
        'epochs': 100.0,
        'encoder.width_multiplier': 1,
        'projector.num_layers': 2,
        'method.name': 'simclr',
        'augment.style': 'simclrv1',
        'optimizer.learning_rate': 0.075,
        'optimizer.weight_decay': 1e-6,
        'schedule.warmup_epochs': 10.0,
    }
    check_values(train_steps.load('simclr'), expected)
    assert not train_steps.load('simclr').predictor
    check_values(train_steps.load('simclr:long'), {**expected, 'epochs': 1000.0})
    for width in (2, 4):
        wide = {'encoder.width_multiplier': width, 'projector.hidden_dim': 2048 * width}
        check_values(train_steps.load(f'simclr:x{width}'), {**expected, **wide})
    check_values(
        train_steps.load('simclr:cifar10'),
        {
            'batch_size': 512,
            'epochs': 1000.0,
            'data.image_size': 32,
            'encoder.name': 'resnet18',
            'encoder.stem': 'cifar',
            'encoder.zero_init_residual': True,
            'projector.hidden_dim': 512,
            'method.temperature': 0.5,
            'augment.jitter': (0.4, 0.4, 0.4, 0.1),
            'augment.blur': (0.0, 0.0),
            'augment.mean': (0.0, 0.0, 0.0),
            'optimizer.weight_decay': 1e-4,
        },
    )
    run = build_run(train_steps.load('simclr:cifar10'), 50_000)
    assert float(run.learning_rate(10 * run.steps_per_epoch)) == pytest.approx(2.0)


def test_simclr_v2() -> None:
    expected = {
        **SIMCLR,
        'epochs': 800.0,
        'encoder.sk_ratio': 0.0,
        'projector.num_layers': 3,
        'method.name': 'simclr',
        'augment.style': 'simclr',
        'optimizer.learning_rate': 0.1,
        'optimizer.weight_decay': 1e-4,
        'schedule.warmup_epochs': 40.0,  # 5 %
    }
    check_values(train_steps.load('simclrv2'), expected)
    largest = {
        'encoder.name': 'resnet152',
        'encoder.width_multiplier': 3,
        'encoder.sk_ratio': 0.0625,
        'projector.hidden_dim': 6144,
        'method.name': 'simclr_memory',
        'method.queue_size': 65536,
        'method.momentum': 0.999,
    }
    check_values(train_steps.load('simclrv2:r152,x3,sk,memory'), {**expected, **largest})
    check_values(train_steps.load('simclrv2:cifar10'), {'projector.num_layers': 3, 'projector.hidden_dim': 512})


def test_dino() -> None:
    expected = {
        **IMAGENET,
        'batch_size': 512,
        'epochs': 100.0,
        'bn_group_size': 0,
        'encoder.name': 'dino_small',
        'encoder.patch_size': 16,
        'encoder.drop_path': 0.1,
        'projector.num_layers': 3,
        'projector.hidden_dim': 2048,
        'projector.output_dim': 256,
        'projector.bias': True,
        'projector.batch_norm': False,
        'projector.activation': 'gelu',
        'projector.kernel_init': 'trunc_normal',
        'method.name': 'dino',
        'method.output_dim': 65536,
        'method.train_gain': False,
        'method.momentum': 0.996,
        'method.student_temperature': 0.1,
        'method.teacher_temperature': 0.04,
        'method.warmup_teacher_temperature': 0.04,
        'method.teacher_warmup_epochs': 0,
        'method.center_momentum': 0.9,
        'augment.interpolation': 'bicubic',
        'augment.crop_scale': (0.4, 1.0),
        'augment.jitter': (0.4, 0.4, 0.2, 0.1),
        'augment.jitter_probability': 0.8,
        'augment.blur': (1.0, 0.1),
        'augment.solarize': (0.0, 0.2),
        'augment.local_crops': 8,
        'augment.local_size': 96,
        'augment.local_scale': (0.05, 0.4),
        'augment.local_blur': 0.5,
        'optimizer.name': 'adamw',
        'optimizer.learning_rate': 5e-4,
        'optimizer.learning_rate_scaling': 'linear',
        'optimizer.learning_rate_batch': 256,
        'optimizer.weight_decay': 0.04,
        'optimizer.final_weight_decay': 0.4,
        'optimizer.mask': 'matrices',
        'optimizer.clip_norm': 3.0,
        'optimizer.freeze_first': ('last_layer',),
        'optimizer.freeze_epochs': 1.0,
        'schedule.name': 'linspace_warmup_cosine',
        'schedule.warmup_epochs': 10.0,
        'schedule.warmup_start': 0.0,
        'schedule.final': 1e-6,
    }
    check_values(train_steps.load('dino'), expected)
    rising = {'method.teacher_temperature': 0.07, 'batch_size': 1024}
    boost = {'epochs': 300.0, 'method.teacher_warmup_epochs': 30, 'method.train_gain': True}
    check_values(train_steps.load('dino:boost'), {**expected, **rising, **boost})
    vissl = {
        'epochs': 400.0,
        'encoder.name': 'dino_base',
        'method.teacher_warmup_epochs': 50,
        'optimizer.clip_norm': 0.3,
        'optimizer.freeze_epochs': 3.0,
        'schedule.final': 8e-6,
    }
    check_values(train_steps.load('dino:base'), {**expected, **rising, **vissl})
    check_values(train_steps.load('dino:base,patch8'), {**expected, **rising, **vissl, 'encoder.patch_size': 8})
    no_drop = {
        name: value for name, value in expected.items() if name not in ('encoder.patch_size', 'encoder.drop_path')
    }
    resnet = {
        'encoder.name': 'resnet50',
        'encoder.zero_init_residual': False,
        'augment.crop_scale': (0.14, 1.0),
        'augment.local_scale': (0.05, 0.14),
        'optimizer.name': 'sgd',
        'optimizer.momentum': 0.9,
        'optimizer.learning_rate': 0.03,
        'optimizer.weight_decay': 1e-4,
        'optimizer.final_weight_decay': -1.0,
    }
    check_values(train_steps.load('dino:resnet50'), {**no_drop, **resnet})
    two = {'epochs': 300.0, 'augment.crop_scale': (0.14, 1.0), 'augment.local_crops': 0, 'optimizer.clip_norm': 0.0}
    check_values(train_steps.load('dino:two_crops'), {**expected, **two, 'schedule.final': 1e-5})
    for name, width, heads in (('dino', 384, 6), ('dino:base', 768, 12)):
        encoder: Any = build_network(train_steps.load(name)).encoder
        assert (encoder.width, encoder.depth, encoder.num_heads, encoder.position) == (width, 12, heads, 'learned')


# arXiv 1807.03748 and 1905.09272: what both versions of CPC share
CPC_BOTH = {
    'data.name': 'imagenet2012',
    'batch_size': 512,  # 32 GPUs of 16
    'projector.num_layers': 1,
    'projector.batch_norm': False,
    'method.name': 'cpc',
    'method.candidates': 'global',
    'method.context_blocks': 5,
    'method.context_dim': 256,
    'augment.flip': 0.5,
    'augment.blur': (0.0,),
    'optimizer.name': 'adam',
    'optimizer.weight_decay': 0.0,
    'schedule.name': 'constant',
}


def test_cpc_v2() -> None:
    config = train_steps.load('cpc')
    expected = {
        **CPC_BOTH,
        'epochs': 200.0,
        'data.image_size': 260,
        'encoder.name': 'cpc_resnet161',
        'encoder.norm': 'layer',
        'encoder.patch_size': 80,  # a grid of 6x6
        'encoder.patch_stride': 36,
        'projector.output_dim': 64,
        'method.directions': ('down', 'up', 'right', 'left'),
        'method.offsets': (3,),  # steps_to_ignore = 2, steps_to_predict = 3
        'method.scale': 0.1,
        'optimizer.learning_rate': 4e-4,
        'optimizer.b1': 0.8,
        'optimizer.b2': 0.999,
    }
    check_values(config, expected)
    patches = build_policy(config).patches
    assert patches is not None and patches.jitter_probability == 0.8 and patches.grayscale == 0.25
    assert patches.color_drop > 0
    check_values(train_steps.load('cpc:r50'), {**expected, 'encoder.name': 'cpc_resnet50'})


def test_cpc_v1() -> None:
    config = train_steps.load('cpc:v1')
    check_values(
        config,
        {
            **CPC_BOTH,
            'data.image_size': 256,
            'encoder.name': 'cpc_resnet101',
            'encoder.norm': 'none',
            'encoder.patch_size': 64,  # a grid of 7x7
            'encoder.patch_stride': 32,
            'projector.output_dim': 1024,
            'method.directions': ('down',),
            'method.offsets': (2, 3, 4, 5),
            'method.scale': 1.0,
            'optimizer.learning_rate': 2e-4,
        },
    )
    patches = build_policy(config).patches
    assert patches is not None and (patches.crop, patches.color_drop, patches.warp) == (60, 0.0, 0.0)
    assert build_policy(train_steps.load('cpc:v1,cifar10')).patches.crop == 7  # of 8


# facebookresearch/swav, scripts/swav_*.sh and deepclusterv2_*.sh: what all of them share
SWAV = {
    **IMAGENET,
    'batch_size': 4096,  # 64 GPUs of 64
    'bn_group_size': 0,
    'encoder.name': 'resnet50',
    'encoder.zero_init_residual': False,
    'projector.num_layers': 2,
    'projector.hidden_dim': 2048,
    'projector.output_dim': 128,
    'projector.bias': True,
    'projector.batch_norm': True,
    'projector.last_batch_norm': False,
    'method.temperature': 0.1,
    'augment.jitter': (0.8, 0.8, 0.8, 0.2),
    'augment.jitter_probability': 0.8,
    'augment.blur': (0.5, 0.5),
    'augment.solarize': (0.0, 0.0),
    'augment.local_size': 96,
    'augment.local_scale': (0.05, 0.14),
    'augment.local_blur': 0.5,
    'augment.std': (0.228, 0.224, 0.225),  # not .229
    'optimizer.name': 'larc',
    'optimizer.learning_rate': 4.8,
    'optimizer.learning_rate_batch': 0,  # not scaled
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 1e-6,
    'optimizer.freeze': (),
    'schedule.name': 'linspace_warmup_cosine',
    'schedule.warmup_epochs': 10.0,
    'schedule.warmup_start': 0.3,
    'schedule.final': 0.0048,
}


def test_swav() -> None:
    expected = {
        **SWAV,
        'epochs': 100.0,
        'method.num_prototypes': 3000,
        'method.epsilon': 0.05,
        'method.iterations': 3,
        'method.queue_size': 0,
        'augment.crop_scale': (0.14, 1.0),
        'augment.local_crops': 6,
        'optimizer.freeze_first': ('prototypes',),
        'optimizer.freeze_steps': 313,
    }
    check_values(train_steps.load('swav'), expected)
    for epochs in (200, 400, 800):
        check_values(train_steps.load(f'swav:{epochs}'), {**expected, 'epochs': float(epochs)})
    small = {
        'batch_size': 256,
        'epochs': 200.0,
        'method.queue_size': 3840,
        'method.queue_from_epoch': 15,
        'optimizer.learning_rate': 0.6,
        'optimizer.freeze_steps': 5005,
        'schedule.warmup_epochs': 0.0,
        'schedule.final': 0.0006,
    }
    small = {**expected, **small}
    del small['schedule.warmup_start']
    check_values(train_steps.load('swav:small_batch'), small)
    check_values(train_steps.load('swav:small_batch,400'), {**small, 'epochs': 400.0})
    two = {'epochs': 400.0, 'augment.local_crops': 0, 'augment.crop_scale': (0.08, 1.0)}
    check_values(train_steps.load('swav:two_crops'), {**expected, **two})
    w2 = {**expected, 'epochs': 400.0, 'encoder.width_multiplier': 2, 'projector.hidden_dim': 8192}
    w2['augment.local_crops'] = 4
    check_values(train_steps.load('swav:w2'), w2)
    w4 = {
        'batch_size': 2560,
        'encoder.width_multiplier': 4,
        'method.queue_size': 2560,
        'method.queue_from_epoch': 0,
        'augment.crop_scale': (0.08, 1.0),
        'augment.local_scale': (0.08, 0.14),
    }
    check_values(train_steps.load('swav:w4'), {**w2, **w4})
    w5 = {
        'batch_size': 1536,
        'encoder.width_multiplier': 5,
        'projector.hidden_dim': 10240,
        'method.queue_size': 1536,
        'schedule.warmup_start': 0.1875,
        'schedule.final': 0.0,
    }
    check_values(train_steps.load('swav:w5'), {**w2, **w5})


def test_deepcluster_v2() -> None:
    expected = {
        **SWAV,
        'epochs': 400.0,
        'data.image_size': 160,
        'method.num_prototypes': (3000, 3000, 3000),
        'method.kmeans_iterations': 10,
        'augment.crop_scale': (0.08, 1.0),
        'augment.local_crops': 4,
        'optimizer.freeze_first': (),
    }
    check_values(train_steps.load('deepcluster'), expected)
    long = {'epochs': 800.0, 'data.image_size': 224, 'augment.crop_scale': (0.14, 1.0), 'augment.local_crops': 6}
    check_values(train_steps.load('deepcluster:800'), {**expected, **long})
    check_values(
        train_steps.load('deepcluster:two_crops'), {**expected, 'data.image_size': 224, 'augment.local_crops': 0}
    )


@pytest.mark.parametrize(
    ('name', 'examples', 'points'),
    [
        # (epoch, learning rate), at the start of the epoch
        ('instdis', 1_281_167, [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0003)]),
        ('invaspread', 50_000, [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0015), (200, 0.0003), (300, 0.0003)]),
        ('cmc', 1_281_167, [(119, 0.03), (120, 0.003), (160, 0.0003), (200, 0.00003)]),
        ('mocov1', 1_281_167, [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0003), (199, 0.0003)]),
        ('mocov2', 1_281_167, [(0, 0.03), (100, 0.015), (50, 0.03 * (0.5 + 0.125**0.5))]),
        ('mocov3_r50', 1_281_167, [(0, 0.0), (5, 4.8), (10, 9.6), (55, 4.8)]),
        ('mocov3_r50:300', 1_281_167, [(10, 4.8), (155, 2.4)]),
        ('swav', 1_281_167, [(0, 0.3), (10, 4.8), (55, (4.8 + 0.0048) / 2)]),
        ('swav:small_batch', 1_281_167, [(0, 0.6), (100, (0.6 + 0.0006) / 2)]),
        ('deepcluster', 1_281_167, [(0, 0.3), (10, 4.8), (205, (4.8 + 0.0048) / 2)]),
        ('mocov3_vit', 1_281_167, [(0, 0.0), (20, 1.2e-3), (40, 2.4e-3), (170, 1.2e-3)]),
        ('byol', 1_281_167, [(0, 0.0), (5, 1.6), (10, 3.2), (505, 1.6)]),
        ('byol:40', 1_281_167, [(10, 7.2), (25, 3.6)]),
        ('dino', 1_281_167, [(0, 0.0), (10, 1e-3), (55, 0.5 * (1e-3 + 1e-6)), (100, 1e-6)]),
        ('dino:base', 1_281_167, [(10, 2e-3), (400, 8e-6)]),
        ('dino:resnet50', 1_281_167, [(10, 0.06)]),
        ('simsiam', 1_281_167, [(0, 0.1), (50, 0.05), (25, 0.1 * (0.5 + 0.125**0.5))]),
        ('simclr', 1_281_167, [(0, 0.0), (5, 2.4), (10, 4.8), (55, 2.4)]),
        ('barlow_twins', 1_281_167, [(0, 0.0), (5, 0.8), (10, 1.6), (505, (1.6 + 0.0016) / 2), (1000, 0.0016)]),
        ('vicreg', 1_281_167, [(10, 1.6), (1000, 0.0016)]),
        ('vicreg:100', 1_281_167, [(10, 0.6), (100, 0.0006)]),
        ('nnclr', 1_281_167, [(10, 4.8), (505, 2.4)]),
        ('simclrv2', 1_281_167, [(20, 3.2), (40, 6.4), (420, 3.2)]),
    ],
)
def test_learning_rates_of_the_papers(name: str, examples: int, points: list[tuple[int, float]]) -> None:
    run = build_run(train_steps.load(name), examples)
    for epoch, rate in points:
        assert float(run.learning_rate(epoch * run.steps_per_epoch)) == pytest.approx(rate, rel=1e-5, abs=1e-9)
    assert run.steps_per_epoch == examples // run.batch_size
    if 'mocov3' in name:
        assert float(run.learning_rate(run.total_steps)) == pytest.approx(0, abs=1e-9)
