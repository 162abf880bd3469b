r"""CMC: Tian, Krishnan, Isola, "Contrastive Multiview Coding", arXiv 1906.05849: lightness against color.

    python -m contrastive_jax.main --config=configs/cmc.py --workdir=runs/cmc

Recipe: two ResNet-50 of half width, one for the lightness of an image and one for its two color channels, ImageNet-1k,
batch 128, 240 epochs; NCE with 16,384 negatives, drawn from two memory banks of all images.
Cost: not reported.
Expected, from the official repository: linear probe 68.4 % with two encoders of double width (`v3`).
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `v1`, `v2`, `v3`: encoders of half, full and double width.
  `ycbcr`: YCbCr instead of Lab; 0.5 to 1 point better according to the official repository.
  `nce`: NCE with 16,384 negatives, the default; `softmax`: cross-entropy over 4,096 negatives, as in the repository's
    table for ImageNet-100.
  `cifar10`: two ResNet-18; our own settings, not from a paper.
  `digits`: the embedded handwritten digits, minutes on a CPU. They are gray, so both encoders see the lightness: this
    tests the code and does not show what color adds.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('cmc')
    c.batch_size = 128
    c.epochs = 240.0
    c.bn_group_size = 32  # BN statistics per GPU: 4 GPUs with 32 images each

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.projector = head_config(1, 1024, 128, bias=True)  # for each encoder
    v1(c)

    c.method.num_negatives = 16384
    c.method.objective = 'nce'
    c.method.momentum = 0.5
    c.method.temperature = 0.07

    c.augment.crop_scale = (0.08, 1.0)
    c.augment.jitter, c.augment.jitter_probability = (0.0, 0.0, 0.0, 0.0), 0.0
    c.augment.grayscale = 0.0
    c.augment.blur = c.augment.solarize = (0.0,)  # one entry: one view
    lab(c)

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 0  # not scaled with the batch
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name, c.schedule.milestones = 'step', (120, 160, 200)

    return apply_variants(
        c,
        variant,
        {
            'v1': v1,
            'v2': v2,
            'v3': v3,
            'ycbcr': ycbcr,
            'nce': nce,
            'softmax': softmax,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def v1(c: ConfigDict) -> None:
    c.encoder = encoder_config('split_resnet50', width=32, stem_width=64)


def v2(c: ConfigDict) -> None:
    c.encoder = encoder_config('split_resnet50', width=64, stem_width=64)


def v3(c: ConfigDict) -> None:
    c.encoder = encoder_config('split_resnet50', width=128, stem_width=64)


def lab(c: ConfigDict) -> None:
    """Lab, normalized by the center and half the width of each channel's range."""
    c.augment.update(color_space='lab', mean=(50.0, 6.025, -6.6895), std=(50.0, 92.208, 101.1675))


def ycbcr(c: ConfigDict) -> None:
    """YCbCr with the mean and standard deviation of the official code."""
    c.augment.update(color_space='ycbcr', mean=(116.151, 121.080, 132.342), std=(109.500, 111.855, 111.964))


def nce(c: ConfigDict) -> None:
    c.method.update(objective='nce', num_negatives=16384)


def softmax(c: ConfigDict) -> None:
    c.method.update(objective='softmax', num_negatives=4096)


def cifar10(c: ConfigDict) -> None:
    """ResNet-18 for small images, the temperature of InstDis for CIFAR-10, 4,096 negatives. Not from a paper."""
    augment = {name: c.augment[name] for name in ('mean', 'std')}
    variants.cifar10(c)
    c.bn_group_size = 0
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 390, 3900, 3900
    c.encoder = encoder_config('split_resnet18', stem='cifar')
    c.method.update(num_negatives=4096, temperature=0.1)
    c.augment.update(crop_scale=(0.2, 1.0), **augment)
    c.optimizer.weight_decay = 5e-4


def digits(c: ConfigDict) -> None:
    """Cross-entropy over all images, as in the recipe of InstDis for this data."""
    variants.digits(c)
    c.epochs = 200.0  # after 100 it is hardly better than raw pixels
    c.bn_group_size = 0
    c.encoder = encoder_config('split_resnet_tiny', stem='cifar')
    c.projector = head_config(1, 128, 64, bias=True)
    c.method.update(objective='softmax', num_negatives=0, temperature=0.1)
    c.augment.update(color_space='rgb', blur=(0.0,), solarize=(0.0,))
    variants.handwriting(c)
    c.schedule.milestones = (120, 160)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.bn_group_size = 0
    c.encoder = encoder_config('split_resnet_tiny', stem='cifar', width=4, stage_sizes=(1, 1))
    c.projector = head_config(1, 16, 8, bias=True)
    c.method.num_negatives = 32
    c.augment.update(color_space='rgb', mean=(0.305, 0.305, 0.305), std=(0.376, 0.376, 0.376))
