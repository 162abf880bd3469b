r"""Barlow Twins: Zbontar, Jing, Misra, LeCun, Deny, "Self-Supervised Learning via Redundancy Reduction", 2103.03230.

    python -m contrastive_jax.main --config=configs/barlow_twins.py --workdir=runs/barlow_twins

Recipe: ResNet-50, ImageNet-1k, batch 2048, 1000 epochs.
Cost, from the official repository: 7 days on 16 V100.
Expected, from the official repository: linear probe 73.3 %; from the paper 71.4 % with `300`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `300`: fewer epochs; `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: the settings of lightly's benchmark, whose kNN reaches about 82 % after 200 epochs.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('barlow_twins')
    c.batch_size = 2048
    c.epochs = 1000.0
    c.bn_group_size = 0  # BN statistics over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50', zero_init_residual=True)
    c.projector = head_config(3, 8192, 8192)

    c.method.off_diagonal = 0.0051

    c.augment.crop_scale = (0.08, 1.0)  # those of BYOL, with PIL
    c.augment.interpolation = 'bicubic'
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)

    c.optimizer.name = 'lars'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.2, 256
    # 0.0048 for biases and norms. The official gradient is ours divided by the number of GPUs, because no gradient
    # passes through its all_reduce. LARS cancels this for the weights; for the others their rate was smaller in effect.
    c.optimizer.bias_rate_factor = 0.024
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-6
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 10.0
    c.schedule.final = 0.0016  # a thousandth of 0.2 x 2048 / 256

    return apply_variants(
        c,
        variant,
        {
            '300': lambda c: c.update(epochs=300.0),
            'bfloat16': variants.bfloat16,
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def cifar10(c: ConfigDict) -> None:
    """As in lightly's benchmark: a projector of two layers, SGD, no blur, no solarization."""
    variants.cifar10(c)
    c.batch_size = 512
    c.epochs = 200.0
    c.projector = head_config(2, 2048, 2048)
    c.method.off_diagonal = 0.005
    c.augment.update(interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1), blur=(0.0, 0.0), solarize=(0.0, 0.0))
    c.optimizer.update(name='sgd', learning_rate=0.06, learning_rate_batch=128, bias_rate_factor=1.0, weight_decay=5e-4)
    c.schedule.update(name='cosine', warmup_epochs=0.0, final=0.0)
    c.eval.update(knn_k=200, knn_temperature=0.1)


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    variants.handwriting(c)
    c.augment.interpolation = 'bilinear'
    c.projector = head_config(3, 256, 256)
    c.optimizer.update(learning_rate=6.0, bias_rate_factor=1.0)
    c.schedule.update(warmup_epochs=5.0, final=0.0)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(3, 16, 16)
    c.schedule.warmup_epochs = 0.0
