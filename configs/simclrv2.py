r"""SimCLR v2: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", arXiv 2006.10029.

    python -m contrastive_jax.main --config=configs/simclrv2.py:r152,x3,sk,memory --workdir=runs/simclrv2

ResNet-50, ImageNet-1k, batch 4096, 800 epochs. The paper's other networks are put together from a depth (`r101`,
`r152`), a width (`x2`, `x3`) and selective kernels (`sk`). `memory` adds 64K negatives of earlier batches, worth about
one point in the paper; the official code lacks it, see methods/simclr.py. From the official README, linear probe: 71.7
(ResNet-50), 77.7 (`x2,sk`), 79.8 (`r152,x3,sk`); its command for 100 epochs, with the learning rate of SimCLR and ten
epochs of warm-up, reaches around 64.5. Not run here on ImageNet.

Further variants: `digits` (embedded, minutes on a CPU), `cifar10`, `folder` (your images), `tiny` (what the tests run).
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config
from contrastive_jax.configs import simclr, variants


def get_config(variant: str = '') -> ConfigDict:
    c = simclr.get_config().unlock()
    c.epochs = 800.0
    c.encoder.sk_ratio = 0.0
    c.projector = simclr.head(3, 2048, 128)

    c.augment.style = 'simclr'  # brightness is multiplied

    c.optimizer.learning_rate = 0.1  # 6.4
    c.optimizer.weight_decay = 1e-4
    c.schedule.warmup_epochs = 40.0  # 5 %

    return apply_variants(
        c,
        variant,
        {
            'r101': variants.encoder('resnet101'),
            'r152': variants.encoder('resnet152'),
            'x2': simclr.width(2),
            'x3': simclr.width(3),
            'sk': selective_kernels,
            'memory': memory,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'tiny': tiny,
        },
    )


def selective_kernels(c: ConfigDict) -> None:
    """Selective kernels in a ResNet-D."""
    c.encoder.sk_ratio = 0.0625


def memory(c: ConfigDict) -> None:
    """A memory of the last 16 batches of views, which are 64K in the paper, from a network that moves slowly."""
    queue_size, temperature = 16 * c.batch_size, c.method.temperature
    c.method = base_config('simclr_memory').method
    c.method.update(queue_size=queue_size, momentum=0.999, temperature=temperature)


def cifar10(c: ConfigDict) -> None:
    """The official command for CIFAR-10, with a head of 3 layers."""
    simclr.cifar10(c)
    c.projector = simclr.head(3, 512, 128)


def digits(c: ConfigDict) -> None:
    simclr.digits(c)
    c.projector = simclr.head(3, 128, 64)


def tiny(c: ConfigDict) -> None:
    """Bottlenecks, so that there are kernels to select."""
    simclr.tiny(c)
    c.encoder.update(block='bottleneck', stage_sizes=(1, 1), sk_ratio=0.0625)
    c.projector = simclr.head(3, 16, 8)
