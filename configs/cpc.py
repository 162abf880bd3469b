r"""CPC v2: Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding", arXiv 1905.09272.

    python -m contrastive_jax.main --config=configs/cpc.py --workdir=runs/cpc

ResNet-161 with layer norm on a 6x6 grid of patches of 80 px, ImageNet-1k, 200 epochs; `:r50` has a ResNet-50. `:v1` is
van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748: a ResNet-101
without norm on a 7x7 grid, downwards only. From the papers: linear probe 71.5 (ResNet-161), 63.8 (ResNet-50), 48.7
(v1). Not run here on ImageNet.

Variants: `v1`, `r50`, `cifar10`, `stl10`, `digits` (minutes on a CPU), `folder` (your images: --config.data.path=...),
`tiny` (seconds; what the tests run), `bfloat16`; the paper first, as in `v1,cifar10`. Measured on digits (one run on a
CPU): kNN 93.3, linear probe 95.0; of the untrained encoder 80.8 and 84.7.

No official code exists, and the papers do not settle all of it: methods/cpc.py, augment/patches.py and the comments
below say what was chosen. Left out are elastic deformations, AutoAugment's tone curves and the averaging of weights.
The probe of both papers is trained on the mean over the grid, which is what is evaluated here too.
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
    c.projector = head_config(1, 64, 64, bias=True, batch_norm=False)  # targets; the hidden width is not used

    c.method.directions = ('down', 'up', 'right', 'left')
    c.method.offsets = (3,)  # the first patch that shares no pixel with those of the context
    c.method.scale = 0.1
    c.method.candidates = 'global'
    c.method.context_blocks, c.method.context_dim = 5, 256

    # 260 of 300 px at random: here a crop of that share of the area, resized to 260.
    c.augment.crop_scale, c.augment.crop_ratio = (0.75, 0.75), (1.0, 1.0)
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0  # of each patch instead
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # a single view
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
            'tiny': tiny,
        },
    )


def v1(c: ConfigDict) -> None:
    """arXiv 1807.03748, section 3.2."""
    c.encoder = encoder_config('cpc_resnet101', norm='none')
    c.projector = head_config(1, 1024, 1024, bias=False, batch_norm=False)  # with the predictors: the paper's W
    # The paper's figure 4 predicts from the second row below on, and the text up to five rows.
    c.method.update(directions=('down',), offsets=(2, 3, 4, 5), scale=1.0)
    c.augment.crop_scale = (0.73, 0.73)  # 256 of 300 px
    c.augment.grayscale = 0.25  # the paper: 'converted to greyscale'; how often is v2's
    c.augment.patches = patches_config(c.encoder)
    grid(c, image=256, patch=64, stride=32)
    c.augment.patches.crop = 60  # put back into the middle of 64
    c.optimizer.update(learning_rate=2e-4, b1=0.9)


def r50(c: ConfigDict) -> None:
    c.encoder.name = 'cpc_resnet50'


def cifar10(c: ConfigDict) -> None:
    """The grid of lightning-bolts' CPC: 7x7 patches of 8 px that overlap by half."""
    norm = c.encoder.norm
    variants.cifar10(c)
    c.encoder = encoder_config('cpc_small', stem='cifar', norm=norm)
    c.method.offsets = (2, 3, 4)
    grid(c, image=32, patch=8, stride=4)
    c.augment.crop_scale = (0.6, 1.0)


def stl10(c: ConfigDict) -> None:
    """The grid of lightning-bolts' CPC: 7x7 patches of 16 px out of 64, of STL-10's 100,000 unlabelled images."""
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
    """The sizes of an image and of its overlapping patches, for encoder and augmentation."""
    c.data.image_size = image
    c.encoder.update(patch_size=patch, patch_stride=stride)
    crop = c.augment.patches.crop * patch // c.augment.patches.size  # the same share
    c.augment.patches.update(size=patch, stride=stride, crop=crop)
