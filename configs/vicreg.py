r"""VICReg: Bardes, Ponce, LeCun, "Variance-Invariance-Covariance Regularization", arXiv 2105.04906.

    python -m contrastive_jax.main --config=configs/vicreg.py --workdir=runs/vicreg

Recipe: ResNet-50, ImageNet-1k, batch 2048, 1000 epochs.
Cost, from the official repository: 32 GPUs; the time is not reported.
Expected, from the official repository: linear probe 73.2 %; 75.5 % with `r50x2`, 77.3 % with `r200x2`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `100`: 100 epochs on one machine, with the official learning rate and batch size for that length.
  `r50x2`, `r200x2`: the wider and deeper ResNets of the paper; `r18`: ResNet-18.
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
    c = base_config('vicreg')
    c.batch_size = 2048
    c.epochs = 1000.0
    c.bn_group_size = 0  # BN statistics over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50', zero_init_residual=True)
    c.projector = expander(8192)

    c.method.invariance, c.method.variance, c.method.covariance = 25.0, 25.0, 1.0

    c.augment.crop_scale = (0.08, 1.0)  # those of BYOL, with PIL
    c.augment.interpolation = 'bicubic'
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)

    c.optimizer.name = 'lars'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.2, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-6
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 10.0
    c.schedule.final = 0.0016  # a thousandth of 0.2 x 2048 / 256

    return apply_variants(
        c,
        variant,
        {
            '100': epochs100,
            'r50x2': lambda c: c.encoder.update(width_multiplier=2),
            'r200x2': lambda c: c.encoder.update(name='resnet200', width_multiplier=2),
            'bfloat16': variants.bfloat16,
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def expander(dim: int) -> ConfigDict:
    """The official projector: hidden layers with bias and batch norm, a last layer without either."""
    return head_config(3, dim, dim, bias=True, last_bias=False)


def epochs100(c: ConfigDict) -> None:
    """The command of the official README for one machine."""
    c.epochs = 100.0
    c.batch_size = 512
    c.optimizer.learning_rate = 0.3
    c.schedule.final = 0.0006


def cifar10(c: ConfigDict) -> None:
    """solo-learn's settings (92.1 % after 1000 epochs with their online classifier), with the LARS of the paper."""
    variants.cifar10(c)
    c.batch_size = 256
    c.projector = head_config(3, 2048, 2048, bias=True)
    c.method.variance = 50.0  # theirs is 25, and the terms of both views are added, not averaged
    c.augment.update(crop_scale=(0.2, 1.0), blur=(0.0, 0.0), solarize=(0.1, 0.1))
    c.optimizer.update(learning_rate=0.3, weight_decay=1e-4)
    c.schedule.final = 0.0


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    variants.handwriting(c)
    c.augment.interpolation = 'bilinear'
    c.projector = expander(256)
    c.optimizer.learning_rate = 2.0
    c.schedule.update(warmup_epochs=5.0, final=0.0)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = expander(16)
    c.schedule.warmup_epochs = 0.0
