r"""MoCo v1: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv 1911.05722.

    python -m contrastive_jax.main --config=configs/mocov1.py --workdir=runs/mocov1

ResNet-50, ImageNet-1k, 200 epochs. From the paper: linear probe 60.6 (five runs: 60.8 +- 0.2); 53 h on 8 V100. Not run
here on ImageNet.

Variants: `digits`, `cifar10`, `symmetric`, `folder`, `tiny`, `r18`; see configs/mocov2.py.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('moco')
    c.batch_size = 256  # with 128: learning_rate 0.015, which the linear scaling below gives
    c.epochs = 200.0
    c.bn_group_size = 32  # the images of a GPU: 8 GPUs, not synchronised

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(1, 2048, 128, bias=True)  # one linear layer; the hidden width is not used

    c.method.queue_size = 65536
    c.method.momentum = 0.999
    c.method.temperature = 0.07

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.4)
    c.augment.jitter_probability = 1.0
    c.augment.grayscale = 0.2
    c.augment.grayscale_first = True
    c.augment.blur = (0.0, 0.0)

    c.optimizer.name = 'sgd'  # weight decay on every parameter
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name, c.schedule.milestones, c.schedule.factor = 'step', (120, 160), 0.1

    return apply_variants(
        c,
        variant,
        {
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'symmetric': variants.symmetric,
            'digits': digits,
            'folder': variants.folder,
            'tiny': tiny,
        },
    )


def cifar10(c: ConfigDict) -> None:
    """The sizes of the official CIFAR demo, with v1's temperature, augmentation and schedule."""
    variants.cifar10(c)
    c.batch_size = 512
    c.bn_group_size = 64  # 8 splits
    c.method.update(queue_size=4096, momentum=0.99)
    c.optimizer.weight_decay = 5e-4


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.method.update(queue_size=1024, momentum=0.99)
    c.optimizer.learning_rate = 0.12
    c.schedule.milestones = (60, 80)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.bn_group_size = 8
    c.projector.output_dim = 8
    c.method.queue_size = 64
