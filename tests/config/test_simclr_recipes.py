"""The recipes of SimCLR v1 and v2 have the values of their papers and official code."""

import pytest

from contrastive_jax.training.build import build_run
from tests import train_steps
from tests.config.papers import check_values

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
