r"""SimCLR v2: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", arXiv 2006.10029.

    python -m contrastive_jax.main --config=configs/simclrv2.py:r152,x3,sk,memory --workdir=runs/simclrv2

Recipe: ResNet-50, ImageNet-1k, batch 4096, 800 epochs.
Cost: not reported; at the speed of SimCLR's README (100 epochs in 6 h) 48 h on 32 TPU v3 for ResNet-50.
Expected, from the official README: linear probe 71.7 % (ResNet-50), 77.7 % (`x2,sk`), 79.8 % (`r152,x3,sk`). The
command there for 100 epochs, with the learning rate of SimCLR and ten warm-up epochs, reaches around 64.5 %.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `r101`, `r152`: the depth; `x2`, `x3`: the width; `sk`: selective kernels. They combine, as in the command above.
  `memory`: 64K more negatives from earlier batches. About one point in the paper; not in the official code, see
    methods/simclr.py.
  `cifar10`: the official command for CIFAR-10, with a head of 3 layers.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config
from contrastive_jax.configs import simclr, variants


def get_config(variant: str = '') -> ConfigDict:
    c = simclr.get_config().unlock()
    c.epochs = 800.0
    c.encoder.sk_ratio = 0.0
    c.projector = simclr.head(3, 2048, 128)

    c.augment.style = 'simclr'  # jitter multiplies the brightness

    c.optimizer.learning_rate = 0.1  # x sqrt(4096) = 6.4
    c.optimizer.weight_decay = 1e-4
    c.schedule.warmup_epochs = 40.0  # 5 % of the training

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
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def selective_kernels(c: ConfigDict) -> None:
    """Selective kernels in a ResNet-D."""
    c.encoder.sk_ratio = 0.0625


def memory(c: ConfigDict) -> None:
    """A queue of the last 16 batches of embeddings (64K in the paper), made by a moving average of the network."""
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
    """With bottleneck blocks and selective kernels, so that the tests run them."""
    simclr.tiny(c)
    c.encoder.update(block='bottleneck', stage_sizes=(1, 1), sk_ratio=0.0625)
    c.projector = simclr.head(3, 16, 8)
