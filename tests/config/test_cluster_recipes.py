"""The recipes of DINO, SwAV and DeepCluster-v2 have the values of their papers and official code."""

from typing import Any

from contrastive_jax.config.build import build_network
from tests import train_steps
from tests.config.papers import IMAGENET, check_values


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
