"""The recipes of the pretext tasks have the values of their papers."""

import numpy as np

from contrastive_jax.config.build import build_policy
from tests import train_steps
from tests.config.papers import check_values

NO_COLOR = {'augment.jitter': (0.0, 0.0, 0.0, 0.0), 'augment.blur': (0.0,), 'augment.solarize': (0.0,)}
SGD = {'optimizer.name': 'sgd', 'optimizer.momentum': 0.9, 'optimizer.learning_rate_batch': 0}


def test_relative_position() -> None:
    """arXiv 1505.05192, sections 3 and 3.2: 96 pixels, a gap of 48, moved by -7 to 7; fc7 and fc8 of 4096."""
    config = train_steps.load('relative_position')
    expected = {
        **NO_COLOR,
        'data.name': 'imagenet2012',
        'method.hidden_dim': 4096,
        'projector.output_dim': 4096,
        'projector.last_batch_norm': True,
        'projector.last_batch_norm_affine': False,
        'optimizer.momentum': 0.999,
    }
    check_values(config, expected)
    patches = build_policy(config).patches
    assert patches is not None and patches.tile == 96 and patches.color_drop == 1.0
    jitter = (patches.size - patches.tile) / 2
    assert (jitter, patches.stride - patches.tile) == (7, 48)
    assert config.data.image_size == patches.size + 2 * patches.stride


def test_jigsaw() -> None:
    """arXiv 1603.09246, section 4: 225 pixels, cells of 75, tiles of 64, batch 256, 350,000 steps at 0.01."""
    config = train_steps.load('jigsaw')
    expected = {
        **NO_COLOR,
        **SGD,
        'batch_size': 256,
        'data.name': 'imagenet2012',
        'data.image_size': 225,
        'method.num_permutations': 1000,
        'method.hidden_dim': 4096,
        'augment.grayscale': 0.3,
        'optimizer.learning_rate': 0.01,
    }
    check_values(config, expected)
    patches = build_policy(config).patches
    assert patches is not None
    assert (patches.size, patches.stride, patches.tile, patches.channel_shift) == (75, 75, 64, 2)
    assert abs(config.epochs * (1_281_167 // 256) - 350_000) < 500


def test_exemplar() -> None:
    """arXiv 1406.6909, sections 2 and 3: 16,000 classes of 32 pixels, rotations of 20 degrees, a layer of 512."""
    expected = {
        **SGD,
        'data.name': 'stl10',
        'data.split': 'unlabelled[:16000]',
        'data.image_size': 32,
        'projector.output_dim': 512,
        'augment.rotation': 20.0,
        'augment.shear': 0.0,
        'optimizer.learning_rate': 0.01,
    }
    check_values(train_steps.load('exemplar'), expected)
    config = train_steps.load('exemplar')
    assert config.augment.crop_scale[1] / config.augment.crop_scale[0] == (1.4 / 0.7) ** 2
    assert train_steps.load('exemplar:folder').data.split == 'train'


def test_context_encoder() -> None:
    """arXiv 1604.07379, section 4, and pathak22/context-encoder, train.lua."""
    expected = {
        **NO_COLOR,
        'batch_size': 64,
        'data.name': 'imagenet2012',
        'method.region': 'blocks',
        'optimizer.name': 'adam',
        'optimizer.learning_rate': 2e-4,
        'optimizer.b1': 0.5,
        'optimizer.b2': 0.999,
    }
    config = train_steps.load('context_encoder')
    check_values(config, expected)
    assert abs(config.epochs * (1_281_167 // 64) - 100_000) < 500
    center = {'data.image_size': 128, 'method.region': 'center', 'method.overlap': 7, 'method.overlap_weight': 10.0}
    check_values(train_steps.load('context_encoder:center'), {**expected, **center})


def test_colorization() -> None:
    """arXiv 1603.08511, sections 2 and 3.3, and richzhang/colorization, train_alexnet: solver0 to 3, train_val."""
    expected = {
        **NO_COLOR,
        'batch_size': 80,
        'data.name': 'imagenet2012',
        'augment.color_space': 'lab',
        'encoder.input_channels': 1,
        'method.stride': 8,
        'method.neighbors': 5,
        'method.sigma': 5.0,
        'method.uniform': 0.5,
        'optimizer.name': 'adam',
        'optimizer.b1': 0.9,
        'optimizer.b2': 0.999,
        'optimizer.weight_decay': 1e-3,
        'optimizer.learning_rate': 3e-5,
        'optimizer.learning_rate_batch': 0,
    }
    config = train_steps.load('colorization')
    check_values(config, expected)
    steps_per_epoch = 1_281_167 // 80
    assert abs(config.epochs * steps_per_epoch - 450_000) < 500
    milestones = [epoch * steps_per_epoch for epoch in config.schedule.milestones]
    np.testing.assert_allclose(milestones, [240_000, 300_000, 400_000], rtol=0.02)
    rates = [config.optimizer.learning_rate * factor for factor in config.schedule.factors]
    np.testing.assert_allclose(rates, [1e-5, 3e-6, 1e-6])


def test_deepcluster() -> None:
    """arXiv 1807.05520, section 3.3, and facebookresearch/deepcluster, main.py and main.sh."""
    expected = {
        **NO_COLOR,
        **SGD,
        'batch_size': 256,
        'epochs': 500.0,
        'data.name': 'imagenet2012',
        'method.num_prototypes': 10_000,
        'method.pca_dim': 256,
        'method.classifier_learning_rate': 0.05,
        'projector.hidden_dim': 4096,
        'augment.grayscale': 0.0,
        'optimizer.learning_rate': 0.05,
        'optimizer.weight_decay': 1e-5,
        'schedule.name': 'constant',
    }
    check_values(train_steps.load('deepcluster_v1'), expected)
