r"""SimCLR: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning", arXiv 2002.05709.

    python -m contrastive_jax.main --config=configs/simclr.py --workdir=runs/simclr

Recipe: ResNet-50, ImageNet-1k, batch 4096, 100 epochs: the command of the official README, with the weight decay of
the paper.
Cost, from the official README: 6 h on 32 TPU v3.
Expected, from the official README: linear probe around 64.5 %; with `long` 69.1 %, `x2,long` 74.2 %, `x4,long` 76.6 %.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `long`: 1000 epochs, the main result of the paper.
  `r18`: ResNet-18; `x2`, `x4`: ResNet-50 of 2 and 4 times the width.
  `cifar10`: the official command, 1000 epochs; linear probe 91 %.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('simclr')
    c.batch_size = 4096
    c.epochs = 100.0
    c.bn_group_size = 0  # BN statistics over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50', zero_init_residual=True, padding='simclr', bn_unbiased=False)
    c.projector = head(2, 2048, 128)

    c.method.temperature = 0.1

    c.augment.style = 'simclrv1'  # jitter adds to the brightness
    c.augment.interpolation = 'bicubic'
    c.augment.crop_scale = (0.08, 1.0)
    c.augment.jitter = (0.8, 0.8, 0.8, 0.2)
    c.augment.blur = (0.5, 0.5)
    c.augment.mean, c.augment.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # not normalized: images stay in [0, 1]

    c.optimizer.name = 'lars_simclr'
    c.optimizer.learning_rate, c.optimizer.learning_rate_scaling = 0.075, 'sqrt'  # 4.8, as with 0.3 x batch / 256
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 1e-6  # from the paper; the 1e-4 of today's README is for SimCLR v2
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 10.0

    return apply_variants(
        c,
        variant,
        {
            'long': lambda c: c.update(epochs=1000.0),
            'r18': variants.encoder('resnet18'),
            'x2': width(2),
            'x4': width(4),
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def head(num_layers: int, hidden_dim: int, output_dim: int) -> ConfigDict:
    """The official projection head: hidden layers as wide as the features, and a last BN without offset."""
    return head_config(
        num_layers,
        hidden_dim,
        output_dim,
        last_batch_norm=True,
        last_batch_norm_affine=True,
        last_batch_norm_offset=False,
        kernel_init='normal',
        bn_unbiased=False,
    )


def width(multiplier: int) -> Callable[[ConfigDict], None]:
    """A ResNet with `multiplier` times the channels, and a head of the same width."""

    def change(c: ConfigDict) -> None:
        c.encoder.width_multiplier = multiplier
        c.projector.hidden_dim *= multiplier

    return change


def cifar10(c: ConfigDict) -> None:
    """The official command: no blur, half the color jitter. (Their ResNet-18 also projects its first shortcut.)"""
    variants.cifar10(c)
    c.batch_size = 512
    c.epochs = 1000.0
    c.encoder = encoder_config('resnet18', stem='cifar', zero_init_residual=True, bn_unbiased=False)
    c.projector = head(2, 512, 128)
    c.method.temperature = 0.5
    c.augment.update(jitter=(0.4, 0.4, 0.4, 0.1), blur=(0.0, 0.0), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    c.optimizer.learning_rate, c.optimizer.learning_rate_scaling, c.optimizer.learning_rate_batch = 1.0, 'linear', 256
    c.optimizer.weight_decay = 1e-4


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    variants.handwriting(c)
    c.augment.update(style='pil', interpolation='bilinear')  # as in `digits` of the other methods
    c.projector = head(2, 128, 64)
    c.method.temperature = 0.2
    c.optimizer.update(name='sgd', learning_rate=0.12, learning_rate_scaling='linear', weight_decay=1e-4)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head(2, 16, 8)
    c.schedule.warmup_epochs = 0.0
