r"""The linear probe: how far does one linear layer get on the frozen encoder?

    python -m contrastive_jax.main --config=configs/eval/linear.py:mocov2 --config.init=runs/mine --workdir=runs/probe

The encoder stays in evaluation mode, its BN statistics included; random crops and flips. The protocol of each method's
authors (ImageNet, from the official codes) goes by its name:

`mocov2` (v1 too, and the default): SGD, learning rate 30, batch 256, 100 epochs, x 0.1 at 60 and 80. `mocov3_r50`,
`mocov3_vit`: SGD, 0.1 and 3 x batch / 256, batch 1024, 90 epochs, cosine. `simsiam`: LARC, 0.1 x batch / 256, batch
4096, 90 epochs, cosine. `simclr`: Nesterov, 0.1 x batch / 256, batch 4096, 90 epochs, cosine, from zeros. `byol`:
Nesterov, 0.2 x batch / 256, batch 1024, 80 epochs, cosine. `swav`: SGD, 0.3, batch 256, 100 epochs, cosine, weight
decay 1e-6. `dino`: SGD, 0.001 x batch / 256, batch 1024, 100 epochs, cosine, on the class tokens of a ViT-S's last four
blocks; `dino_base`: on that of a ViT-B's last block and the mean of its patch tokens; `dino_resnet50`: on a ResNet's
features. `cmc`: SGD, 30, batch 256, 60 epochs, x 0.2 at 30, 40 and 50; `cmc_v3`: 50, for double width.

`sweep` trains fourteen learning rates at once and keeps the one that is best on a tenth of the training images, on
which no classifier is trained. `digits`: the sweep on the embedded digits, in less than a minute; `tiny`: what the
tests run. Not run here on ImageNet.
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
            'swav': swav,
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
    """A rate at batch 256, half a cosine."""
    c.batch_size, c.epochs = batch, epochs
    c.optimizer.update(learning_rates=(rate,), learning_rate_batch=256)
    c.schedule.name = name


def simsiam(c: ConfigDict) -> None:
    cosine(c, 0.1, 4096)
    c.optimizer.name = 'larc'


def simclr(c: ConfigDict) -> None:
    cosine(c, 0.1, 4096, name='cosine_per_step')
    c.optimizer.update(nesterov=True, weight_decays=(1e-6,))  # the paper has no weight decay, the official code this
    c.linear.init_std = 0.0


def byol(c: ConfigDict) -> None:
    cosine(c, 0.2, 1024, epochs=80.0, name='cosine_per_step')
    c.optimizer.nesterov = True


def swav(c: ConfigDict) -> None:
    c.optimizer.update(learning_rates=(0.3,), weight_decays=(1e-6,))
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
    """A mirrored 2 is no 2."""
    sweep(c)
    c.batch_size, c.epochs = 128, 30.0
    c.augment.update(crop_scale=(0.5, 1.0), flip=0.0)
    c.log_every_steps = 50


def tiny(c: ConfigDict) -> None:
    c.batch_size, c.epochs = 16, 0.03
    c.optimizer.update(learning_rates=(0.1, 1.0), weight_decays=(0.0, 1e-4))
    c.log_every_steps = 1
