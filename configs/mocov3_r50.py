r"""MoCo v3, ResNet-50: "An Empirical Study of Training Self-Supervised Vision Transformers", arXiv 2104.02057.

    python -m contrastive_jax.main --config=configs/mocov3_r50.py --workdir=runs/mocov3_r50

ImageNet-1k, batch 4096, 100 epochs; `:300` and `:1000` change learning rate, weight decay and momentum with the length.
From the official repository: linear probe 68.9 / 72.8 / 74.6 (100 / 300 / 1000 epochs) on 16 V100. Not run here on
ImageNet.

Variants: `300`, `1000`, `cifar10`, `digits`, `folder`, `tiny`, `r18`, and `bfloat16`.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('mocov3')
    c.batch_size = 4096
    c.epochs = 100.0
    c.bn_group_size = 0  # synchronised

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50', zero_init_residual=True)
    c.projector = head_config(2, 4096, 256, last_batch_norm=True)
    c.predictor = head_config(2, 4096, 256)

    c.method.temperature = 1.0
    c.method.momentum = 0.99  # rises to 1

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)

    c.optimizer.name = 'lars'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.6, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-6
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 10.0

    return apply_variants(
        c,
        variant,
        {
            '300': epochs300,
            '1000': epochs1000,
            'bfloat16': variants.bfloat16,
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'tiny': tiny,
        },
    )


def epochs300(c: ConfigDict) -> None:
    c.epochs = 300.0
    c.optimizer.learning_rate = 0.3


def epochs1000(c: ConfigDict) -> None:
    epochs300(c)
    c.epochs = 1000.0
    c.optimizer.weight_decay = 1.5e-6
    c.method.momentum = 0.996


def cifar10(c: ConfigDict) -> None:
    """solo-learn's sizes for CIFAR-10 (their online accuracy after 1000 epochs: 93.1), with the paper's LARS."""
    variants.cifar10(c)
    c.batch_size = 512
    c.epochs = 200.0
    c.method.temperature = 0.2
    c.augment.update(crop_scale=(0.08, 1.0), blur=(0.0, 0.0))
    c.optimizer.learning_rate = 0.3


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.projector = head_config(2, 256, 64, last_batch_norm=True)
    c.predictor = head_config(2, 256, 64)
    c.method.temperature = 0.2
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = 'sgd', 0.1, 1e-4


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(2, 16, 8, last_batch_norm=True)
    c.predictor = head_config(2, 16, 8)
    c.schedule.warmup_epochs = 0.0
