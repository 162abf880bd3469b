r"""Colorization: Zhang, Isola, Efros, "Colorful Image Colorization", arXiv 1603.08511: colors from lightness.

    python -m contrastive_jax.main --config=configs/colorization.py --workdir=runs/colorization

Recipe: the color of each pixel as a class, soft targets, weights for rare colors, ImageNet-1k, 450,000 steps of Adam
with batch 80. The settings are those of the official code for AlexNet, which the paper evaluates; here it is a
ResNet-50.
Cost: not reported.
Expected: linear probe 39.6 % (ResNet-101 v2), as reported in arXiv 1807.03748.
Run here: `digits` (results/digits.jsonl), and two epochs of 10,000 images of CIFAR-10 (docs/results.md); not on
ImageNet.

The official code cuts 180 of 256 pixels; here the crop has the same share of the image and 192 pixels, a size that a
feature map can be doubled to. Training begins with a pass over the data that counts the colors.

Variants:
  `cifar10`: ResNet-18 and CIFAR-10, every second pixel; our own settings, not from a paper.
  `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `digits`: the embedded handwritten digits. They are gray, so there is one color to predict and nothing to learn: this
    tests the code alone.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants
from contrastive_jax.methods.colorization import MEAN, STD


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('colorization')
    c.batch_size = 80
    c.epochs = 28.1  # 450,000 steps
    c.bn_group_size = 0

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.data.image_size = 192
    c.encoder = encoder_config('resnet50', input_channels=1)
    c.projector = head_config(1, 2048, 2048, bias=True)
    c.method.stride = 8
    c.method.decoder_width = 512

    c.augment.crop_scale, c.augment.crop_ratio = (0.494, 0.494), (1.0, 1.0)  # (180 / 256)^2
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view
    lab(c)

    c.optimizer.name = 'adam'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 3e-5, 0  # not scaled with the batch
    c.optimizer.weight_decay = 1e-3
    # After 240,000, 300,000 and 400,000 steps.
    c.schedule.name, c.schedule.milestones = 'step', (15.0, 19.0, 25.0)
    c.schedule.factors = (1 / 3, 0.1, 1 / 30)

    return apply_variants(
        c,
        variant,
        {
            'cifar10': cifar10,
            'r18': variants.encoder('resnet18'),
            'bfloat16': variants.bfloat16,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def lab(c: ConfigDict) -> None:
    c.augment.update(color_space='lab', mean=MEAN, std=STD)


def cifar10(c: ConfigDict) -> None:
    variants.cifar10(c)
    lab(c)
    c.batch_size = 256
    c.epochs = 100.0
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 195, 1950, 1950
    c.encoder = encoder_config('resnet18', stem='cifar', input_channels=1)
    c.projector = head_config(1, 512, 512, bias=True)
    c.method.update(stride=2, decoder_width=256)
    c.augment.update(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3))
    c.optimizer.update(learning_rate=1e-3, weight_decay=0.0)
    c.schedule.update(name='cosine', factors=())


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    lab(c)
    c.epochs = 20.0  # the loss falls to the entropy of the one target, and stays there
    c.encoder = encoder_config('resnet_tiny', stem='cifar', input_channels=1)
    c.projector = head_config(1, 64, 64, bias=True)
    c.method.update(stride=1, decoder_width=64)
    c.augment.update(jitter=(0.0, 0.0, 0.0, 0.0), blur=(0.0,), solarize=(0.0,), crop_ratio=(3 / 4, 4 / 3))
    c.optimizer.update(learning_rate=1e-3, weight_decay=0.0)
    c.schedule.update(name='constant', factors=())


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    lab(c)
    c.encoder = encoder_config('resnet_tiny', stem='cifar', width=4, input_channels=1)
    c.projector = head_config(1, 8, 8, bias=True)
    c.method.update(stride=1, decoder_width=8)
