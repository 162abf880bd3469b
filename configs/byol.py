r"""BYOL: Grill et al., "Bootstrap your own latent", arXiv 2006.07733.

    python -m contrastive_jax.main --config=configs/byol.py --workdir=runs/byol

Recipe: ResNet-50, ImageNet-1k, batch 4096, 1000 epochs. The initial weights are drawn as in PyTorch, not as in Haiku.
Cost, from the official repository: about 8 h on 512 TPU v3.
Expected, from the official repository: linear probe 74.4 %; 79.6 % with `r200x2`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `40`, `100`, `300`: fewer epochs, with the official learning rate, weight decay and momentum for that length.
  `r50x2`, `r50x4`, `r200x2`: the wider and deeper ResNets of the paper; `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `imagenette`: the authors' small setup, ResNet-18 on ten classes; 92.3 % with their online classifier.
  `cifar10`: the settings of lightly's benchmark, whose kNN reaches 86.8 % after 200 epochs; its momentum is constant.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config import base
from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('byol')
    c.batch_size = 4096
    c.epochs = 1000.0
    c.bn_group_size = 0  # BN statistics over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50', padding='same', bn_unbiased=False)  # as in Haiku
    c.projector = head(4096, 256)
    c.predictor = head(4096, 256)

    c.method.momentum = 0.996  # rises to 1

    c.augment.style = 'byol'  # the official JAX operations: crops without antialiasing, additive brightness, HSV
    c.augment.crop_scale = (0.08, 1.0)
    c.augment.interpolation = 'bicubic'
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)

    c.optimizer.name = 'lars'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.2, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1.5e-6
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 10.0

    return apply_variants(
        c,
        variant,
        {
            '40': preset(40, learning_rate=0.45, weight_decay=1e-6, momentum=0.97),
            '100': preset(100, learning_rate=0.45, weight_decay=1e-6, momentum=0.99),
            '300': preset(300, learning_rate=0.3, weight_decay=1e-6, momentum=0.99),
            'r50x2': lambda c: c.encoder.update(width_multiplier=2),
            'r50x4': lambda c: c.encoder.update(width_multiplier=4),
            'r200x2': lambda c: c.encoder.update(name='resnet200', width_multiplier=2),
            'bfloat16': variants.bfloat16,
            'r18': variants.encoder('resnet18'),
            'imagenette': imagenette,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def head(hidden_dim: int, output_dim: int) -> ConfigDict:
    return head_config(2, hidden_dim, output_dim, bias=True, last_bias=False, bn_unbiased=False)


def preset(epochs: int, *, learning_rate: float, weight_decay: float, momentum: float) -> base.Change:
    """Another training length: the presets of the official byol/configs/byol.py."""

    def change(c: ConfigDict) -> None:
        c.epochs = float(epochs)
        c.optimizer.update(learning_rate=learning_rate, weight_decay=weight_decay)
        c.method.momentum = momentum

    return change


def imagenette(c: ConfigDict) -> None:
    """The small setup of the official README: ten classes of ImageNet at 128 pixels, about four hours on a V100."""
    c.data.update(name='imagenette/160px-v2', eval_split='validation', image_size=128)
    c.encoder.name = 'resnet18'
    c.batch_size = 256
    c.optimizer.update(learning_rate=2.0, weight_decay=1e-6)


def cifar10(c: ConfigDict) -> None:
    """As in lightly's benchmark: smaller heads, SGD, PIL's image operations, no blur, no solarization.

    Its loss is a quarter of BYOL's: half the sum of two negative cosines, not the sum of two squared distances. With a
    quarter of its learning rate, 0.06, and four times its weight decay, 5e-4, the steps of SGD are the same.
    """
    variants.cifar10(c)
    c.batch_size = 512
    c.epochs = 200.0
    c.projector, c.predictor = head(1024, 256), head(1024, 256)
    c.method.momentum = 0.99
    c.augment.update(style='pil', interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1))
    c.augment.update(blur=(0.0, 0.0), solarize=(0.0, 0.0))
    c.optimizer.update(name='sgd', learning_rate=0.015, learning_rate_batch=128, weight_decay=2e-3)
    c.schedule.warmup_epochs = 0.0


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.epochs = 200.0  # after 100 it is hardly better than raw pixels
    variants.handwriting(c)
    c.augment.style = 'pil'
    c.projector, c.predictor = head(256, 64), head(256, 64)
    c.method.momentum = 0.97
    c.optimizer.update(name='sgd', learning_rate=0.1, weight_decay=1e-4)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector, c.predictor = head(16, 8), head(16, 8)
    c.schedule.warmup_epochs = 0.0
