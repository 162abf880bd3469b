r"""DeepCluster: Caron et al., "Deep Clustering for Unsupervised Learning of Visual Features", arXiv 1807.05520.

    python -m contrastive_jax.main --config=configs/deepcluster_v1.py --workdir=runs/deepcluster_v1

Recipe: 10,000 clusters of the whitened features, every epoch; ImageNet-1k, batch 256, 500 epochs, a constant learning
rate. The paper trains an AlexNet on Sobel-filtered images; here it is a ResNet-50 on RGB, and the two hidden layers of
4096 are a projector of two layers, whose output is smaller (our choice), so that the bank of all features is.
Cost, from the paper: 12 days on a P100 (AlexNet).
Expected, from the paper: linear probe 41.0 % (AlexNet, conv3).
Run here: only `digits`, 60 epochs (results/digits.jsonl); not on ImageNet.

Variants:
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
    c = base_config('deepcluster_v1')
    c.batch_size = 256
    c.epochs = 500.0  # 200 in the official code
    c.bn_group_size = 0

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(2, 4096, 512, bias=True, batch_norm=False)  # 512 is our choice

    c.method.num_prototypes = 10_000
    c.method.pca_dim = 256
    c.method.kmeans_iterations = 20  # the default of faiss's Clustering in the official code
    c.method.classifier_learning_rate = 0.05

    c.augment.crop_scale = (0.08, 1.0)
    c.augment.jitter, c.augment.grayscale = (0.0, 0.0, 0.0, 0.0), 0.0
    c.augment.blur, c.augment.solarize = (0.0,), (0.0,)  # one entry: one view

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate = 0.05
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-5
    c.schedule.name = 'constant'

    return apply_variants(
        c,
        variant,
        {
            'r18': variants.encoder('resnet18'),
            'bfloat16': variants.bfloat16,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def digits(c: ConfigDict) -> None:
    """A classifier has 11 steps to learn its clusters: its rate is higher, and its inputs are normalized."""
    variants.digits(c)
    c.epochs = 60.0
    c.projector = head_config(2, 128, 64, bias=True, last_batch_norm=True)
    c.method.update(num_prototypes=32, pca_dim=32, classifier_learning_rate=0.5)
    c.augment.update(jitter=(0.0, 0.0, 0.0, 0.0), blur=(0.0,), solarize=(0.0,))


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(2, 8, 8, bias=True, batch_norm=False)
    c.method.update(num_prototypes=6, pca_dim=4, kmeans_iterations=2)
