"""The recipes of BYOL, SimSiam, Barlow Twins, VICReg and NNCLR have the values of their papers and official code."""

import pytest

from contrastive_jax.training.build import build_run
from tests import train_steps
from tests.config.papers import IMAGENET, check_values

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
