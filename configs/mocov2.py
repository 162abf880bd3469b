r"""MoCo v2: Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297.

    python -m contrastive_jax.main --config=configs/mocov2.py --workdir=runs/mocov2

ResNet-50, ImageNet-1k, 200 epochs (`:long`: 800). From the official repository: linear probe 67.7 (200 epochs; five
runs: 67.5 +- 0.1), 71.1 (800); 53 h on 8 V100. Not run here on ImageNet.

Variants: `digits` (embedded, minutes on a CPU), `cifar10` (the official demo, asymmetric; `cifar10,symmetric`),
`folder` (your images: --config.data.path=...), `tiny` (seconds; what the tests run), and the sizes `r18`, `long`.
The official demo on CIFAR-10 reaches kNN 82.6 / 86.3 / 88.7 after 200 / 400 / 800 epochs, and symmetric 85.3 / 88.5 /
89.7, whose linear probe is 90.7 (from its notebook).
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('moco')
    c.batch_size = 256
    c.epochs = 200.0
    c.bn_group_size = 32  # the images of a GPU: 8 GPUs, not synchronised

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(2, 2048, 128, bias=True, batch_norm=False)

    c.method.queue_size = 65536
    c.method.momentum = 0.999
    c.method.temperature = 0.2

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (0.5, 0.5)

    c.optimizer.name = 'sgd'  # weight decay on every parameter
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name = 'cosine'  # per epoch

    return apply_variants(
        c,
        variant,
        {
            'long': lambda c: c.update(epochs=800.0),
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'symmetric': variants.symmetric,
            'digits': digits,
            'folder': variants.folder,
            'tiny': tiny,
        },
    )


def cifar10(c: ConfigDict) -> None:
    """The official demo, facebookresearch/moco branch colab-notebook; its head is linear, as in v1."""
    variants.cifar10(c)
    c.batch_size = 512
    c.bn_group_size = 64  # 8 splits
    c.projector = head_config(1, 512, 128, bias=True)
    c.method.update(queue_size=4096, temperature=0.1, momentum=0.99)
    c.augment.update(crop_scale=(0.08, 1.0), blur=(0.0, 0.0))
    c.optimizer.weight_decay = 5e-4
    c.eval.update(knn_k=200, knn_temperature=0.1)


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.bn_group_size = 32
    c.projector = head_config(2, 128, 64, bias=True, batch_norm=False)
    c.method.update(queue_size=1024, momentum=0.99)
    c.optimizer.learning_rate = 0.12


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.bn_group_size = 8
    c.projector = head_config(2, 16, 8, bias=True, batch_norm=False)
    c.method.queue_size = 64
