r"""Exemplar: Dosovitskiy et al., "Discriminative Unsupervised Feature Learning with Exemplar CNNs", arXiv 1406.6909.

    python -m contrastive_jax.main --config=configs/exemplar.py --workdir=runs/exemplar

Recipe: 16,000 unlabeled images of STL-10, each a class of its own, 32 pixels, SGD with a momentum of 0.9. The paper's
network has three convolutions and a layer of 512 outputs (64c5-128c5-256c5-512f); here it is a ResNet-18, and the layer
of 512 outputs is the projector.
Cost: not reported.
Expected, from the paper: an SVM on pooled feature maps reaches 74.2 % on STL-10; no linear probe of this network.
Run here: only `digits` (results/digits.jsonl); not on STL-10.

The paper takes one patch of 32 pixels out of each image and translates, scales and rotates it, and changes its contrast
and color. Here a crop stands for translation and scale (a factor of two between the smallest and the largest side, as
in the paper), a warp for the rotation by up to 20 degrees, and the color jitter for contrast and color; its strengths
are our choice. The paper lowers the rate by hand; ours falls on a cosine.

Variants:
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('exemplar')
    c.batch_size = 128  # our choice
    c.epochs = 150.0  # our choice: as many views of an image as the largest number in the paper
    c.bn_group_size = 0  # the paper has no batch norm

    c.data.source, c.data.name, c.data.split = 'tfds', 'stl10', 'unlabelled[:16000]'
    c.data.image_size = 32
    c.encoder = encoder_config('resnet18', stem='cifar')
    c.projector = head_config(1, 512, 512, bias=True)

    c.augment.crop_scale, c.augment.crop_ratio = (0.25, 1.0), (1.0, 1.0)
    c.augment.flip = 0.0  # the paper has none
    c.augment.warp, c.augment.rotation, c.augment.shear = 1.0, 20.0, 0.0
    c.augment.jitter, c.augment.jitter_probability = (0.4, 0.4, 0.4, 0.1), 1.0
    c.augment.grayscale = 0.0
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate, c.optimizer.momentum = 0.01, 0.9
    c.optimizer.weight_decay = 5e-4  # our choice
    c.schedule.name = 'cosine'

    return apply_variants(
        c,
        variant,
        {
            'bfloat16': variants.bfloat16,
            'digits': digits,
            'folder': folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.data.split = 'train'
    c.projector = head_config(1, 128, 128, bias=True)
    c.augment.blur = c.augment.solarize = (0.0,)
    c.optimizer.learning_rate = 0.1


def folder(c: ConfigDict) -> None:
    """Your images; all of them are classes."""
    variants.folder(c)
    c.data.split = 'train'


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.data.split = 'train'
    c.projector = head_config(1, 8, 8, bias=True)
