r"""Weighted kNN: classifies images by their nearest neighbors among the training images. Nothing is trained.

    python -m contrastive_jax.main --config=configs/eval/knn.py --config.init=runs/mine --workdir=runs/mine_knn

Papers: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (InstDis), 1805.01978,
section 3.4 (lemniscate.pytorch, test.py: k = 200, T = 0.07); Caron et al., "Emerging Properties in Self-Supervised
Vision Transformers" (DINO), 2104.14294 (dino, eval_knn.py: k = 10, 20, 100 and 200; the paper reports 20).
Cost: one forward pass of the encoder for every training and test image.
Expected, from the papers: InstDis 46.5 % (ResNet-50), DINO 74.5 % (ViT-S/16).
Run here: only `digits`, for every recipe (results/digits.jsonl); not on ImageNet.

The bank holds every training image; every test image is classified. The features are those before the projector.
InstDis, InvaSpread and MoCo's CIFAR-10 demo use the output of their projector, a linear layer to 128 dimensions: the
variants `projection` and `cifar10` do so too, for projectors of one layer. DINO evaluates the teacher:
--config.weights=target.

Variants:
  `instdis`: k = 200, T = 0.07, the default.
  `dino`: k = 10, 20, 100 and 200.
  `projection`: k = 200, T = 0.07, on the output of a projector of one layer.
  `cifar10`: the same with T = 0.1.
  `digits`: k = 20, as the variant of this name in the recipes.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants
from contrastive_jax.protocols.run import protocol_config


def get_config(variant: str = '') -> ConfigDict:
    c = protocol_config('knn')
    c.knn.k = (200,)
    c.knn.temperature = 0.07
    return apply_variants(
        c,
        variant,
        {
            'instdis': lambda c: None,
            'dino': lambda c: c.knn.update(k=(10, 20, 100, 200)),
            'projection': lambda c: c.features.update(projector_layers=1),
            'cifar10': cifar10,
            'digits': lambda c: c.knn.update(k=(20,)),
        },
    )


def cifar10(c: ConfigDict) -> None:
    c.knn.temperature = 0.1
    c.features.projector_layers = 1
