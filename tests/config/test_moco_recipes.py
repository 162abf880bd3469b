"""The recipes of MoCo v1, v2 and v3 have the values of their papers and official code."""

from typing import Any

import pytest

from contrastive_jax.config.build import build_network
from contrastive_jax.training.build import build_run
from tests import train_steps
from tests.config.papers import IMAGENET, check_values

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
