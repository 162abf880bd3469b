r"""InstDis: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 1805.01978.

    python -m contrastive_jax.main --config=configs/instdis.py --workdir=runs/instdis

ResNet-18, ImageNet-1k, 200 epochs, NCE with 4,096 negatives out of a bank of all images. From the official repository:
nearest neighbour (k = 1, on the 128 features) 41.0, ResNet-50 46.8; with the softmax and 65,536 negatives a linear
probe of ResNet-50 reaches 58.5. Not run here on ImageNet.

Variants: the sizes `r18` and `r50`, `softmax` (the softmax over 65,536 negatives), `cifar10` (the softmax over all
50,000 images, as the repository's README has it; from the paper: kNN 80.4), `digits` (embedded, minutes on a CPU),
`folder` (your images: --config.data.path=...), `tiny` (seconds; what the tests run). --config.method.proximal=30.0 adds
the paper's proximal term, which the official code has not.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('instdis')
    c.batch_size = 256
    c.epochs = 200.0
    c.bn_group_size = 0  # the number of GPUs, over which it is not synchronised, is not said

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet18')
    c.projector = head_config(1, 512, 128, bias=True)

    c.method.num_negatives = 4096
    c.method.objective = 'nce'
    c.method.momentum = 0.5
    c.method.temperature = 0.07

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.4)
    c.augment.jitter_probability = 1.0
    c.augment.grayscale = 0.2
    c.augment.grayscale_first = True
    c.augment.blur = c.augment.solarize = (0.0,)  # one view

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 0  # not scaled
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name, c.schedule.milestones = 'step', (120, 160)

    return apply_variants(
        c,
        variant,
        {
            'r18': variants.encoder('resnet18'),
            'r50': variants.encoder('resnet50'),
            'softmax': softmax,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'tiny': tiny,
        },
    )


def softmax(c: ConfigDict) -> None:
    """What later work compares with."""
    c.method.update(objective='softmax', num_negatives=65536)


def cifar10(c: ConfigDict) -> None:
    """The official cifar.py with `--nce-k 0`."""
    variants.cifar10(c)
    c.batch_size = 128
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 390, 3900, 3900
    c.method.update(objective='softmax', num_negatives=0, temperature=0.1)
    c.augment.update(grayscale_first=False, flip=0.0)
    c.optimizer.weight_decay = 5e-4
    c.eval.update(knn_k=200, knn_temperature=0.1)


def digits(c: ConfigDict) -> None:
    """The softmax over all images, as for CIFAR-10. With NCE they collapsed here: an epoch of 11 steps is short."""
    variants.digits(c)
    c.augment.blur = c.augment.solarize = (0.0,)
    c.projector = head_config(1, 128, 64, bias=True)
    c.method.update(objective='softmax', num_negatives=0, temperature=0.1)
    c.schedule.milestones = (60, 80)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(1, 16, 8, bias=True)
    if c.method.num_negatives:
        c.method.num_negatives = 32
