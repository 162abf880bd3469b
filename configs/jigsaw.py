r"""Jigsaw: Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", 1603.09246.

    python -m contrastive_jax.main --config=configs/jigsaw.py --workdir=runs/jigsaw

Recipe: 3 x 3 tiles of 64 pixels, each out of a cell of 75 pixels, 1,000 permutations, ImageNet-1k, batch 256, 350,000
steps. The paper trains an AlexNet on each tile, without batch norm; here it is a ResNet-50, and fc6 is the projector.
Cost, from the paper: 59.5 hours on a Titan X.
Expected: linear probe 38.1 % (AlexNet), as reported in arXiv 1807.03748.
Run here: only `digits`, 40 epochs (results/digits.jsonl); not on ImageNet.

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
    c = base_config('jigsaw')
    c.batch_size = 256
    c.epochs = 70.0  # 350,000 steps
    c.bn_group_size = 0  # the paper has no batch norm

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.data.image_size = 225  # three cells of 75 pixels
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(1, 512, 512, bias=True)  # fc6
    c.method.num_permutations = 1000
    c.method.hidden_dim = 4096  # fc7

    # The paper cuts 225 pixels out of the central square of 256 at random.
    c.augment.crop_scale, c.augment.crop_ratio = (0.77, 0.77), (1.0, 1.0)
    c.augment.flip = 0.0  # the paper has none
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.3
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view
    c.augment.patches = tiles_config(75, 75, 64, channel_shift=2)

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate = 0.01
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 5e-4  # those of Caffe's AlexNet; the paper names none
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
    c.epochs = 40.0
    c.data.image_size = 18
    c.projector = head_config(1, 64, 64, bias=True)
    c.method.update(num_permutations=200, hidden_dim=128)
    c.augment.update(crop_scale=(0.8, 1.0), jitter=(0.0, 0.0, 0.0, 0.0), blur=(0.0,), solarize=(0.0,))
    c.augment.patches = tiles_config(6, 6, 5)
    c.optimizer.learning_rate = 0.03
    c.schedule.name = 'cosine'


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.data.image_size = 15
    c.projector = head_config(1, 8, 8, bias=True)
    c.method.update(num_permutations=5, hidden_dim=8)
    c.augment.patches.update(size=5, stride=5, tile=4, channel_shift=1)
