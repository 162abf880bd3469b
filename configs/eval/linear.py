r"""Linear probe: trains a linear classifier with SGD on the features of a frozen encoder.

    python -m contrastive_jax.main --config=configs/eval/linear.py:mocov2 --config.init=runs/mine --workdir=runs/probe

Papers: each variant is the protocol of a method's authors for ImageNet, from their official code.
Cost: one forward pass of the encoder per image and epoch, and the training of one linear layer.
Expected: the linear probe that the docstring of the recipe reports.
Run here: only on the embedded digits; not on ImageNet.

The encoder is in evaluation mode, with its running BN statistics. Training images are randomly cropped and flipped. "x
batch / 256" means that the learning rate grows with the batch size.

Variants:
  `mocov2`: SGD, learning rate 30, batch 256, 100 epochs, x 0.1 after 60 and 80. The default; also for MoCo v1.
  `mocov3_r50`: SGD, 0.1 x batch / 256, batch 1024, 90 epochs, cosine.
  `mocov3_vit`: the same with 3 x batch / 256.
  `simsiam`: LARC, 0.1 x batch / 256, batch 4096, 90 epochs, cosine.
  `simclr`: SGD with Nesterov momentum, 0.1 x batch / 256, batch 4096, 90 epochs, cosine; the classifier starts at zero.
  `byol`: SGD with Nesterov momentum, 0.2 x batch / 256, batch 1024, 80 epochs, cosine.
  `swav`: SGD, 0.3, batch 256, 100 epochs, cosine, weight decay 1e-6.
  `barlow_twins`, `vicreg`: the same with 0.1 and 0.02.
  `dino`: SGD, 0.001 x batch / 256, batch 1024, 100 epochs, cosine; on the class tokens of the last four blocks, for
    ViT-S. `dino_base`: on the class token of the last block and the mean of its patch tokens, for ViT-B.
    `dino_resnet50`: on the features of a ResNet.
  `cmc`: SGD, 30, batch 256, 60 epochs, x 0.2 after 30, 40 and 50. `cmc_v3`: 50, for encoders of double width.
  `sweep`: trains fourteen learning rates at once and keeps the one with the best accuracy on a tenth of the training
    images, which no classifier is trained on.
  `digits`: the sweep for the embedded digits, less than a minute on a CPU.
  `tiny`: for tests.
"""

from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants
from contrastive_jax.protocols.run import protocol_config


def get_config(variant: str = '') -> ConfigDict:
    c = protocol_config('linear')
    return apply_variants(
        c,
        variant,
        {
            'mocov2': lambda c: None,
            'mocov3_r50': lambda c: cosine(c, 0.1, 1024),
            'mocov3_vit': lambda c: cosine(c, 3.0, 1024),
            'simsiam': simsiam,
            'simclr': simclr,
            'byol': byol,
            'swav': lambda c: small_rate(c, 0.3),
            'barlow_twins': lambda c: small_rate(c, 0.1),
            'vicreg': lambda c: small_rate(c, 0.02),
            'dino': lambda c: dino(c, last_blocks=4),
            'dino_base': lambda c: dino(c, last_blocks=1, average_pool=True),
            'dino_resnet50': dino,
            'cmc': cmc,
            'cmc_v3': cmc_v3,
            'sweep': sweep,
            'digits': digits,
            'tiny': tiny,
        },
    )


def cosine(c: ConfigDict, rate: float, batch: int, epochs: float = 90.0, name: str = 'cosine') -> None:
    """A learning rate for batch 256 that is scaled with the batch, and a cosine schedule."""
    c.batch_size, c.epochs = batch, epochs
    c.optimizer.update(learning_rates=(rate,), learning_rate_batch=256)
    c.schedule.name = name


def simsiam(c: ConfigDict) -> None:
    cosine(c, 0.1, 4096)
    c.optimizer.name = 'larc'


def simclr(c: ConfigDict) -> None:
    cosine(c, 0.1, 4096, name='cosine_per_step')
    c.optimizer.update(nesterov=True, weight_decays=(1e-6,))  # from the official code; the paper has no weight decay
    c.linear.init_std = 0.0


def byol(c: ConfigDict) -> None:
    cosine(c, 0.2, 1024, epochs=80.0, name='cosine_per_step')
    c.optimizer.nesterov = True


def small_rate(c: ConfigDict, rate: float) -> None:
    c.optimizer.update(learning_rates=(rate,), weight_decays=(1e-6,))
    c.schedule.name = 'cosine'


def dino(c: ConfigDict, **features: Any) -> None:
    cosine(c, 0.001, 1024, epochs=100.0)
    c.features.update(features)


def cmc(c: ConfigDict) -> None:
    c.epochs = 60.0
    c.schedule.update(milestones=(30, 40, 50), factor=0.2)


def cmc_v3(c: ConfigDict) -> None:
    cmc(c)
    c.optimizer.learning_rates = (50.0,)


def sweep(c: ConfigDict) -> None:
    c.optimizer.learning_rates = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0)
    c.schedule.name = 'cosine'


def digits(c: ConfigDict) -> None:
    """The sweep in few epochs. No flips: a mirrored 2 is not a 2."""
    sweep(c)
    c.batch_size, c.epochs = 128, 30.0
    c.augment.update(crop_scale=(0.5, 1.0), flip=0.0)
    c.log_every_steps = 50


def tiny(c: ConfigDict) -> None:
    c.batch_size, c.epochs = 16, 0.03
    c.optimizer.update(learning_rates=(0.1, 1.0), weight_decays=(0.0, 1e-4))
    c.log_every_steps = 1
