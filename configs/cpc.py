r"""CPC v2: Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding", arXiv 1905.09272.

    python -m contrastive_jax.main --config=configs/cpc.py --workdir=runs/cpc

Recipe: ResNet-161 with layer normalization on a 6x6 grid of 80-pixel patches, ImageNet-1k, batch 512, 200 epochs.
`v1` is van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748: ResNet-101
without normalization on a 7x7 grid, which predicts downwards only.
Cost: not reported.
Expected, from the papers: linear probe 71.5 % (ResNet-161), 63.8 % (`r50`), 48.7 % (`v1`).
Run here: only `digits` (one run on a CPU): kNN 93.3 %, linear probe 95.0 %; untrained encoder 80.8 % and 84.7 %. Not
run on ImageNet.

There is no official code, and the papers leave details open: methods/cpc.py, augment/patches.py and the comments below
say what we chose. Elastic deformations, AutoAugment's tone curves and weight averaging are left out. As in both papers,
the features that are evaluated are the mean over the grid.

Variants; the paper comes first, as in `v1,cifar10`:
  `v1`: the first paper; `r50`: ResNet-50.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`, `stl10`: 7x7 patches of a small ResNet, the grids of lightning-bolts' CPC.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config, patches_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('cpc')
    c.batch_size = 512
    c.epochs = 200.0

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.data.image_size = 260
    c.encoder = encoder_config('cpc_resnet161', patch_size=80, patch_stride=36, norm='layer')
    c.projector = head_config(1, 64, 64, bias=True, batch_norm=False)  # makes the targets; the hidden width is unused

    c.method.directions = ('down', 'up', 'right', 'left')
    c.method.offsets = (3,)  # the nearest row whose patches share no pixel with those of the context
    c.method.scale = 0.1
    c.method.candidates = 'global'
    c.method.context_blocks, c.method.context_dim = 5, 256

    # The paper cuts 260 pixels out of 300 at random. Here: a crop with that share of the area, resized to 260.
    c.augment.crop_scale, c.augment.crop_ratio = (0.75, 0.75), (1.0, 1.0)
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0  # applied to each patch instead
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view
    c.augment.patches = patches_config(
        c.encoder,
        flip=0.5,
        warp=0.2,
        jitter=(0.4, 0.4, 0.4, 0.2),
        jitter_probability=0.8,
        grayscale=0.25,
        color_drop=0.2,  # our choice: the paper gives no probability
    )

    c.optimizer.name = 'adam'
    c.optimizer.learning_rate, c.optimizer.weight_decay = 4e-4, 0.0
    c.optimizer.b1, c.optimizer.b2 = 0.8, 0.999
    c.schedule.name = 'constant'

    return apply_variants(
        c,
        variant,
        {
            'v1': v1,
            'r50': r50,
            'bfloat16': variants.bfloat16,
            'cifar10': cifar10,
            'stl10': stl10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def v1(c: ConfigDict) -> None:
    """arXiv 1807.03748, section 3.2."""
    c.encoder = encoder_config('cpc_resnet101', norm='none')
    c.projector = head_config(1, 1024, 1024, bias=False, batch_norm=False)  # times a predictor: the paper's W
    # Figure 4 of the paper predicts from the second row below on, the text names up to five rows.
    c.method.update(directions=('down',), offsets=(2, 3, 4, 5), scale=1.0)
    c.augment.crop_scale = (0.73, 0.73)  # 256 of 300 pixels
    c.augment.grayscale = 0.25  # the paper gives no probability; this is that of v2
    c.augment.patches = patches_config(c.encoder)
    grid(c, image=256, patch=64, stride=32)
    c.augment.patches.crop = 60  # a random 60x60 part, placed in the middle of a black 64x64 patch
    c.optimizer.update(learning_rate=2e-4, b1=0.9)


def r50(c: ConfigDict) -> None:
    c.encoder.name = 'cpc_resnet50'


def cifar10(c: ConfigDict) -> None:
    """The grid of lightning-bolts' CPC: 7x7 patches of 8 pixels that overlap by half."""
    norm = c.encoder.norm
    variants.cifar10(c)
    c.encoder = encoder_config('cpc_small', stem='cifar', norm=norm)
    c.method.offsets = (2, 3, 4)
    grid(c, image=32, patch=8, stride=4)
    c.augment.crop_scale = (0.6, 1.0)


def stl10(c: ConfigDict) -> None:
    """The grid of lightning-bolts' CPC, 7x7 patches of 16 pixels out of 64, on STL-10's 100,000 unlabeled images."""
    norm = c.encoder.norm
    c.data.update(source='tfds', name='stl10', split='unlabelled')
    c.encoder = encoder_config('cpc_small', stem='cifar', norm=norm)
    c.method.offsets = (2, 3, 4)
    grid(c, image=64, patch=16, stride=8)
    c.augment.crop_scale = (0.3, 1.0)


def digits(c: ConfigDict) -> None:
    norm = c.encoder.norm
    variants.digits(c)
    c.encoder = encoder_config('cpc_tiny', stem='cifar', norm=norm)
    c.projector.output_dim = 32
    c.method.update(offsets=(2,), context_blocks=2, context_dim=64)
    grid(c, image=8, patch=4, stride=2)  # 3x3 patches
    c.augment.update(crop_scale=(0.8, 1.0), blur=(0.0,), solarize=(0.0,))
    c.augment.patches.update(crop=0, flip=0.0, warp=0.0, jitter=(0.4, 0.4, 0.0, 0.0), grayscale=0.0, color_drop=0.0)
    c.optimizer.learning_rate = 2e-3


def tiny(c: ConfigDict) -> None:
    norm = c.encoder.norm
    variants.tiny(c)
    c.encoder = encoder_config('cpc_tiny', stem='cifar', norm=norm, bottlenecks=(2, 4, 8), channels=(8, 8, 16))
    c.method.update(offsets=(2,), context_blocks=1, context_dim=8)
    grid(c, image=8, patch=4, stride=2)
    c.projector.output_dim = 8


def grid(c: ConfigDict, image: int, patch: int, stride: int) -> None:
    """Sets the sizes of images and of their overlapping patches, in pixels, for encoder and augmentation."""
    c.data.image_size = image
    c.encoder.update(patch_size=patch, patch_stride=stride)
    crop = c.augment.patches.crop * patch // c.augment.patches.size  # the same part of a patch
    c.augment.patches.update(size=patch, stride=stride, crop=crop)
