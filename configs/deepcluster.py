r"""DeepCluster-v2, from Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(SwAV), arXiv 2006.09882.

    python -m contrastive_jax.main --config=configs/deepcluster.py --workdir=runs/deepcluster

Recipe: ResNet-50, ImageNet-1k, batch 4096, crops 2 x 160 + 4 x 96, 400 epochs.
Cost, from the official repository: 3 min 13 s for an epoch on 64 V100, about 21 h in all.
Expected, from the official repository: linear probe 74.3 %; 75.2 % with `800`, 70.2 % with `two_crops`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

One pass with the untrained network fills a memory bank with the embeddings of all images. At the start of every epoch
k-means clusters the embeddings of the previous epoch three times, with 3000 centroids each. The bank takes 1.3 GB,
split over all devices.

Variants:
  `800`: 800 epochs with crops 2 x 224 + 6 x 96.
  `two_crops`: crops 2 x 224 without multi-crop.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: solo-learn's settings.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
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
            'continue': variants.continued,
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
    """solo-learn's settings (88.9 % after 1000 epochs with their online classifier), with the LARC of the paper."""
    swav.cifar10(c)
    c.schedule.update(warmup_epochs=11.0, final=0.0006)


def digits(c: ConfigDict) -> None:
    swav.digits(c)
    c.method.num_prototypes = (60, 60, 60)
    c.optimizer.learning_rate = 4.0


def tiny(c: ConfigDict) -> None:
    swav.tiny(c)
    c.method.num_prototypes = (12, 7, 12)
