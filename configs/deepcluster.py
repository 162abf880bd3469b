r"""DeepCluster-v2: of Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
arXiv 2006.09882, beside SwAV.

    python -m contrastive_jax.main --config=configs/deepcluster.py --workdir=runs/deepcluster

ResNet-50, ImageNet-1k, batch 4096, 2 x 160 + 4 x 96 crops, 400 epochs. From the official repository: linear probe 74.3;
3 min 13 s an epoch on 64 V100. `:800` (2 x 224 + 6 x 96) 75.2; `:two_crops` (2 x 224, 400 epochs) 70.2. Not run here on
ImageNet.

Before training, the untrained network sees the data once; then, at the start of every epoch, the embeddings of the last
one are clustered, three times with 3000 centroids. They are 1.3 GB, shared by all devices.

Further variants: `bfloat16`, `cifar10` (solo-learn's sizes), `digits`, `folder`, `tiny`.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config
from contrastive_jax.configs import swav, variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('deepcluster')
    swav.large_batch(c)
    c.epochs = 400.0
    c.data.image_size = 160
    c.method.num_prototypes = (3000, 3000, 3000)
    c.method.temperature = 0.1
    c.method.kmeans_iterations = 10
    c.augment.crop_scale = (0.08, 1.0)
    c.augment.local_crops = 4
    return apply_variants(
        c,
        variant,
        {
            '800': epochs800,
            'two_crops': two_crops,
            'bfloat16': variants.bfloat16,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'tiny': tiny,
        },
    )


def epochs800(c: ConfigDict) -> None:
    c.epochs = 800.0
    c.data.image_size = 224
    c.augment.update(crop_scale=(0.14, 1.0), local_crops=6)


def two_crops(c: ConfigDict) -> None:
    """Without multi-crop."""
    c.data.image_size = 224
    swav.two_crops(c)


def cifar10(c: ConfigDict) -> None:
    """solo-learn's sizes for CIFAR-10 (their online accuracy after 1000 epochs: 88.9), with the paper's LARC."""
    swav.cifar10(c)
    c.schedule.update(warmup_epochs=11.0, final=0.0006)


def digits(c: ConfigDict) -> None:
    swav.digits(c)
    c.method.num_prototypes = (60, 60, 60)
    c.optimizer.learning_rate = 4.0


def tiny(c: ConfigDict) -> None:
    swav.tiny(c)
    c.method.num_prototypes = (12, 7, 12)
