r"""Denoising autoencoder: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", 2008.

    python -m contrastive_jax.main --config=configs/denoising.py --workdir=runs/denoising

Recipe: MNIST, a quarter of the pixels of an image is set to 0, cross-entropy. The paper trains up to three layers
of fully connected units one after the other, with tied weights; here it is a ResNet-18 with a decoder, trained whole.
Cost: not reported.
Expected: no linear probe in the paper, which fine-tunes all layers.
Run here: only `digits` (results/digits.jsonl); not on MNIST.

Size of the images, optimizer and length are our choice: the paper chooses its own on validation images and does not
list them.

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
    c = base_config('denoising')
    c.batch_size = 256
    c.epochs = 100.0
    c.bn_group_size = 0

    c.data.source, c.data.name = 'tfds', 'mnist'
    c.data.image_size = 32
    c.encoder = encoder_config('resnet18', stem='cifar')
    c.projector = head_config(1, 512, 512, bias=True)
    c.method.corruption = 0.25
    c.method.decoder_width = 256

    c.augment.crop_scale, c.augment.crop_ratio = (1.0, 1.0), (1.0, 1.0)  # the paper has no augmentation
    c.augment.flip = 0.0
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view
    c.augment.mean, c.augment.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the cross-entropy needs pixels in [0, 1]

    c.optimizer.name = 'adam'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-3, 0.0
    c.schedule.name = 'cosine'

    return apply_variants(
        c,
        variant,
        {
            'bfloat16': variants.bfloat16,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.projector = head_config(1, 64, 64, bias=True)
    c.method.decoder_width = 64
    c.augment.update(crop_scale=(1.0, 1.0), jitter=(0.0, 0.0, 0.0, 0.0), blur=(0.0,), solarize=(0.0,))
    c.augment.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(1, 8, 8, bias=True)
    c.method.decoder_width = 8
