r"""MoCo v1: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv 1911.05722.

    python -m contrastive_jax.main --config=configs/mocov1.py --workdir=runs/mocov1

Recipe: ResNet-50, ImageNet-1k, batch 256, 200 epochs.
Cost, from the official repository: 53 h on 8 V100.
Expected, from the official repository: linear probe 60.6 % (five runs: 60.8 +- 0.2).
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `r18`: ResNet-18.
  `symmetric`: both views serve as queries and as keys.
  `cifar10`: the sizes of the official CIFAR-10 demo.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('moco')
    c.batch_size = 256  # the official code has learning rate 0.015 for 128, as the linear scaling below gives
    c.epochs = 200.0
    c.bn_group_size = 32  # BN statistics per GPU: 8 GPUs with 32 images each

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(1, 2048, 128, bias=True)  # one linear layer, so the hidden width is unused

    c.method.queue_size = 65536
    c.method.momentum = 0.999
    c.method.temperature = 0.07

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.4)
    c.augment.jitter_probability = 1.0
    c.augment.grayscale = 0.2
    c.augment.grayscale_first = True
    c.augment.blur = (0.0, 0.0)

    c.optimizer.name = 'sgd'  # weight decay on every parameter
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name, c.schedule.milestones, c.schedule.factor = 'step', (120, 160), 0.1

    return apply_variants(
        c,
        variant,
        {
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'symmetric': variants.symmetric,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def cifar10(c: ConfigDict) -> None:
    """The sizes of the official CIFAR-10 demo, with the temperature, augmentation and schedule of v1."""
    variants.cifar10(c)
    c.batch_size = 512
    c.bn_group_size = 64  # the demo splits a batch of 512 into 8 groups
    c.method.update(queue_size=4096, momentum=0.99)
    c.optimizer.weight_decay = 5e-4


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    variants.handwriting(c)
    c.method.update(queue_size=1024, momentum=0.99)
    c.optimizer.learning_rate = 0.12
    c.schedule.milestones = (60, 80)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.bn_group_size = 8
    c.projector.output_dim = 8
    c.method.queue_size = 64
