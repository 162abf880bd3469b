r"""SimSiam: Chen, He, "Exploring Simple Siamese Representation Learning", arXiv 2011.10566.

    python -m contrastive_jax.main --config=configs/simsiam.py --workdir=runs/simsiam

Recipe: ResNet-50, ImageNet-1k, batch 512, 100 epochs.
Cost, from the official repository: 8 V100; the time is not reported.
Expected: linear probe 68.1 % (official repository); from the paper 70.0 / 70.8 / 71.3 % with `200` / `400` / `800`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `200`, `400`, `800`: more epochs; `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: the setting of the paper, 800 epochs; linear probe 91.8 %.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('simsiam')
    c.batch_size = 512
    c.epochs = 100.0
    c.bn_group_size = 0  # BN statistics over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50', zero_init_residual=True)
    c.projector = head_config(3, 2048, 2048, last_batch_norm=True)  # the official last layer has a frozen bias
    c.predictor = head_config(2, 512, 2048, last_bias=True)  # a bottleneck

    c.augment.crop_scale = (0.2, 1.0)  # as in MoCo v2
    c.augment.jitter = (0.4, 0.4, 0.4, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (0.5, 0.5)

    c.optimizer.name = 'sgd'  # weight decay on every parameter
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.05, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.optimizer.constant = ('predictor',)  # --fix-pred-lr in the official code: its learning rate does not decay
    c.schedule.name = 'cosine'  # changes once an epoch; no warm-up

    return apply_variants(
        c,
        variant,
        {
            '200': lambda c: c.update(epochs=200.0),
            '400': lambda c: c.update(epochs=400.0),
            '800': lambda c: c.update(epochs=800.0),
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
    """Appendix D of the paper: a projector of two layers, no blur."""
    variants.cifar10(c)
    c.epochs = 800.0
    c.projector.num_layers = 2
    c.augment.blur = (0.0, 0.0)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 0.03, 5e-4


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    variants.handwriting(c)
    c.projector = head_config(2, 128, 128, last_batch_norm=True)
    c.predictor = head_config(2, 32, 128, last_bias=True)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 0.2, 5e-4  # with 0.1 and 1e-4 it is below raw pixels


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(3, 16, 16, last_batch_norm=True)
    c.predictor = head_config(2, 4, 16, last_bias=True)
