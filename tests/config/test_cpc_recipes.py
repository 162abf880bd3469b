"""The recipes of CPC v1 and v2 have the values of their papers."""

from contrastive_jax.config.build import build_policy
from tests import train_steps
from tests.config.papers import check_values

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
