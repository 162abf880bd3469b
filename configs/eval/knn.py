r"""Weighted kNN: how well do an image's nearest neighbours tell its class? No training, nothing to tune.

    python -m contrastive_jax.main --config=configs/eval/knn.py --config.init=runs/mine --workdir=runs/mine_knn

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv 1805.01978, section 3.4
(lemniscate.pytorch, test.py: k = 200, T = 0.07), and `:dino`: Caron et al., "Emerging Properties in Self-Supervised
Vision Transformers", arXiv 2104.14294 (dino, eval_knn.py: k = 10, 20, 100, 200; the paper's is 20), which judges the
teacher: --config.weights=target. Every training image is in the bank, and every held-out one is asked for. Not run here
on ImageNet. From the papers: InstDis 46.5 (ResNet-50), DINO 74.5 (ViT-S/16).

The features are those before the projector, but InstDis, InvaSpread and MoCo's demo on CIFAR-10 take what comes out of
theirs, a linear layer to 128 numbers: `projection`, so for a head of one layer, and with T = 0.1 `cifar10`.

Variants: `instdis` (the default), `dino`, `projection`, `cifar10`, `digits` (k = 20, as in the recipes' own `:digits`).
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants
from contrastive_jax.protocols.run import protocol_config


def get_config(variant: str = '') -> ConfigDict:
    c = protocol_config('knn')
    c.knn.k = (200,)
    c.knn.temperature = 0.07
    variants = {
        'instdis': lambda c: None,
        'dino': lambda c: c.knn.update(k=(10, 20, 100, 200)),
        'projection': lambda c: c.features.update(projector_layers=1),
        'cifar10': cifar10,
        'digits': lambda c: c.knn.update(k=(20,)),
    }
    return apply_variants(c, variant, variants)


def cifar10(c: ConfigDict) -> None:
    c.knn.temperature = 0.1
    c.features.projector_layers = 1
