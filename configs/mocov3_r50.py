r"""MoCo v3, ResNet-50: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2104.02057.

    python -m contrastive_jax.main --config=configs/mocov3_r50.py --workdir=runs/mocov3_r50

Recipe: ResNet-50, ImageNet-1k, batch 4096, 100 epochs.
Cost, from the official repository: 16 V100; the time is not reported.
Expected, from the official repository: linear probe 68.9 %; 72.8 % with `300`, 74.6 % with `1000`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `300`, `1000`: more epochs, with the official learning rate, weight decay and momentum for that length.
  `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: solo-learn's settings.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('mocov3')
    c.batch_size = 4096
    c.epochs = 100.0
    c.bn_group_size = 0  # BN statistics over the whole batch

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
            'continue': variants.continued,
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
    """solo-learn's settings (93.1 % after 1000 epochs with their online classifier), with the LARS of the paper."""
    variants.cifar10(c)
    c.batch_size = 256
    c.epochs = 200.0
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 195, 1950, 1950
    c.method.temperature = 0.2
    c.augment.update(crop_scale=(0.08, 1.0), blur=(0.0, 0.0))
    c.optimizer.learning_rate = 0.3


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.epochs = 200.0  # after 100 it is hardly better than raw pixels
    variants.handwriting(c)
    c.projector = head_config(2, 256, 64, last_batch_norm=True)
    c.predictor = head_config(2, 256, 64)
    c.method.temperature = 0.2
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = 'sgd', 0.1, 1e-4


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(2, 16, 8, last_batch_norm=True)
    c.predictor = head_config(2, 16, 8)
    c.schedule.warmup_epochs = 0.0
