r"""Context encoder: Pathak et al., "Context Encoders: Feature Learning by Inpainting", arXiv 1604.07379.

    python -m contrastive_jax.main --config=configs/context_encoder.py --workdir=runs/context_encoder

Recipe: random blocks are cut out of an image and predicted by squared error, ImageNet-1k, 100,000 steps of Adam. The
paper trains an AlexNet; here it is a ResNet-50. Its adversarial loss is left out: methods/context_encoder.py.
Cost, from the paper: 14 hours on a Titan X.
Expected: linear probe 21.0 % (AlexNet, conv3), as reported in arXiv 1611.09842.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `center`: the central square of images of 128 pixels, as in the paper's pictures and the official code.
  `r18`: ResNet-18.
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
    c = base_config('context_encoder')
    c.batch_size = 64  # that of the official code
    c.epochs = 5.0  # 100,000 steps
    c.bn_group_size = 0

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(1, 2048, 2048, bias=True)
    c.method.region = 'blocks'
    c.method.decoder_width = 512

    c.augment.crop_scale = (0.2, 1.0)  # our choice: the paper does not say how images are cropped
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view

    c.optimizer.name = 'adam'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 2e-4, 0.0  # those of the official code
    c.optimizer.b1, c.optimizer.b2 = 0.5, 0.999
    c.schedule.name = 'constant'

    return apply_variants(
        c,
        variant,
        {
            'center': center,
            'r18': variants.encoder('resnet18'),
            'bfloat16': variants.bfloat16,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def center(c: ConfigDict) -> None:
    """An overlap of 7 pixels, with ten times the weight."""
    c.data.image_size = 128
    c.method.update(region='center', overlap=7, overlap_weight=10.0)


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.projector = head_config(1, 64, 64, bias=True)
    c.method.decoder_width = 64
    c.augment.update(jitter=(0.0, 0.0, 0.0, 0.0), blur=(0.0,), solarize=(0.0,))
    c.optimizer.learning_rate = 1e-3


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(1, 8, 8, bias=True)
    c.method.update(overlap=1, decoder_width=8)
