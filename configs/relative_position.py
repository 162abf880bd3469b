r"""Relative position: Doersch, Gupta, Efros, "Unsupervised Visual Representation Learning by Context Prediction", 2015.

arXiv 1505.05192.

    python -m contrastive_jax.main --config=configs/relative_position.py --workdir=runs/relative_position

Recipe: pairs of 96-pixel patches with a gap of 48 pixels and a jitter of 7, colors dropped, ImageNet-1k, batch norm,
momentum 0.999. The paper trains an AlexNet; here it is a ResNet-50, and fc6 is the projector.
Cost, from the paper: 4 weeks on a K40.
Expected: linear probe 30.4 % (AlexNet) and 36.2 % (ResNet-101 v2), both as reported in arXiv 1807.03748.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

The paper gives no learning rate, weight decay, batch size or number of epochs: ours are marked below. Left out are
patches that are first reduced to as few as 100 pixels, and the Gaussian noise in dropped channels.

Variants:
  `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config, tiles_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('relative_position')
    c.batch_size = 256  # our choice
    c.epochs = 100.0  # our choice
    c.bn_group_size = 0

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.data.image_size = 398  # three cells of 110 pixels, 144 pixels apart
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(1, 4096, 4096, last_batch_norm=True)  # fc6; BN without scale and shift
    c.method.hidden_dim = 4096  # fc7 and fc8

    # The paper takes patches out of images of 150,000 to 450,000 pixels. 398 x 398 are 158,404.
    c.augment.crop_scale, c.augment.crop_ratio = (0.35, 1.0), (1.0, 1.0)
    c.augment.flip = 0.0  # the paper has none
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view
    c.augment.patches = tiles_config(110, 144, 96, color_drop=1.0)  # 96 pixels, moved by up to 7

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate = 1e-4  # our choice; with this momentum steps are 1000 times as long
    c.optimizer.momentum, c.optimizer.weight_decay = 0.999, 1e-4  # the weight decay is our choice
    c.schedule.name = 'constant'

    return apply_variants(
        c,
        variant,
        {
            'r18': variants.encoder('resnet18'),
            'bfloat16': variants.bfloat16,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.data.image_size = 16
    c.projector = head_config(1, 64, 64, last_batch_norm=True)
    c.method.hidden_dim = 128
    c.augment.update(crop_scale=(0.8, 1.0), jitter=(0.0, 0.0, 0.0, 0.0), blur=(0.0,), solarize=(0.0,))
    c.augment.patches = tiles_config(6, 5, 5)
    c.optimizer.update(learning_rate=0.03, momentum=0.9)
    c.schedule.name = 'cosine'


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.data.image_size = 16
    c.projector = head_config(1, 8, 8, last_batch_norm=True)
    c.method.hidden_dim = 8
    c.augment.patches.update(size=6, stride=5, tile=5)
