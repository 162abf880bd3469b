r"""MoCo v3, ViT: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", arXiv 2104.02057.

    python -m contrastive_jax.main --config=configs/mocov3_vit.py --workdir=runs/mocov3_vit

Recipe: ViT-S/16 with 12 heads, ImageNet-1k, batch 4096, 300 epochs.
Cost, from the official repository: 32 V100 (ViT-S) or 64 (ViT-B); the time is not reported.
Expected, from the official repository: linear probe 73.2 % (ViT-S), 76.7 % (ViT-B); fine-tuned 81.4 % and 83.2 %.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `small` (the default), `base`, `large`: the size of the ViT; `conv_small`, `conv_base`: with a convolutional stem.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: patches of 4 pixels; our own settings.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants

FREEZE_PATCH_PROJECTION = ('encoder/patch_embed',)  # stays at its random initialization: training is more stable


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('mocov3')
    c.batch_size = 4096
    c.epochs = 300.0
    c.bn_group_size = 0  # BN statistics of the heads over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('vit_small', patch_size=16)
    c.projector = head_config(3, 4096, 256, last_batch_norm=True)
    c.predictor = head_config(2, 4096, 256, last_batch_norm=True)

    c.method.temperature = 0.2
    c.method.momentum = 0.99  # rises to 1

    c.augment.crop_scale = (0.08, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)

    c.optimizer.name = 'adamw'  # weight decay on every trained parameter
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 1.5e-4, 256
    c.optimizer.weight_decay = 0.1
    c.optimizer.freeze = FREEZE_PATCH_PROJECTION
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 40.0

    return apply_variants(
        c,
        variant,
        {
            'small': size('vit_small'),
            'base': size('vit_base'),
            'large': size('vit_large'),
            'conv_small': size('vit_conv_small'),
            'conv_base': size('vit_conv_base'),
            'bfloat16': variants.bfloat16,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def size(name: str) -> Callable[[ConfigDict], None]:
    """Another ViT. A convolutional stem is trained; it does not need freezing."""

    def change(c: ConfigDict) -> None:
        c.encoder.name = name
        c.optimizer.freeze = () if 'conv' in name else FREEZE_PATCH_PROJECTION

    return change


def cifar10(c: ConfigDict) -> None:
    """Patches of 4 pixels, 64 tokens. Our own settings."""
    variants.cifar10(c)
    c.batch_size = 512
    c.encoder = encoder_config('vit_tiny', patch_size=4)
    c.augment.update(crop_scale=(0.2, 1.0), blur=(0.0, 0.0))
    c.optimizer.learning_rate = 5e-4


def digits(c: ConfigDict) -> None:
    """Views that rotate and shear, without blur, and 200 epochs: after 100 it is below raw pixels."""
    variants.digits(c)
    c.epochs = 200.0
    c.augment.update(warp=1.0, rotation=15.0, shear=0.2)
    c.encoder = encoder_config('vit_tiny', patch_size=2, width=64, depth=4, num_heads=4)
    c.projector = head_config(3, 256, 64, last_batch_norm=True)
    c.predictor = head_config(2, 256, 64, last_batch_norm=True)
    c.optimizer.learning_rate = 2e-3
    c.schedule.warmup_epochs = 10.0


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.encoder = encoder_config('vit_tiny', patch_size=4, width=16, depth=2, num_heads=2)
    c.projector = head_config(3, 16, 8, last_batch_norm=True)
    c.predictor = head_config(2, 16, 8, last_batch_norm=True)
    c.schedule.warmup_epochs = 0.0
