r"""InvaSpread: Ye, Zhang, Yuen, Chang, "Unsupervised Embedding Learning via Invariant and Spreading Instance Feature",
arXiv 1904.03436.

    python -m contrastive_jax.main --config=configs/invaspread.py --workdir=runs/invaspread

Recipe: ResNet-18, CIFAR-10, two views of 128 images, 301 epochs: the setting of the paper.
Cost: not reported.
Expected, from the paper: kNN (k = 200) 83.6 %; STL-10 81.6 %.
Run here: only `digits` (results/digits.jsonl); not at full length on CIFAR-10.

The learning rate of the first epochs is multiplied by 0.1, 0.05 and 0.01 from epoch 120, 160 and 200 on, as in the
official code.

Variants:
  `cifar10`: the default.
  `stl10`: 96 pixels, the 5,000 labeled training images and the 100,000 without labels; the bank of kNN is the labeled.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('invaspread')
    cifar10(c)
    c.batch_size = 128
    c.epochs = 301.0
    c.bn_group_size = 0  # BN statistics over both views of the whole batch

    c.projector = head_config(1, 512, 128, bias=True)

    c.method.temperature = 0.1

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.4)
    c.augment.jitter_probability = 1.0
    c.augment.grayscale = 0.2
    c.augment.blur = c.augment.solarize = (0.0, 0.0)

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 0  # not scaled with the batch
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 5e-4
    c.schedule.name = 'step'
    c.schedule.milestones, c.schedule.factors = (120, 160, 200), (0.1, 0.05, 0.01)

    c.eval.knn_temperature = 0.1

    return apply_variants(
        c,
        variant,
        {
            'cifar10': cifar10,
            'stl10': stl10,
            'digits': digits,
            'folder': folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def cifar10(c: ConfigDict) -> None:
    variants.cifar10(c)
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 390, 3900, 3900


def stl10(c: ConfigDict) -> None:
    """Mean and deviation are those of CIFAR-10, as in the official code."""
    c.data.update(name='stl10', split='train+unlabelled', image_size=96)
    c.eval.max_train = 105_000  # all, because the labeled ones are the first


def digits(c: ConfigDict) -> None:
    variants.digits(c)
    c.epochs = 200.0  # after 100 it is hardly better than raw pixels
    variants.handwriting(c)
    c.projector = head_config(1, 128, 64, bias=True)
    c.schedule.milestones, c.schedule.factors = (120, 160), ()


def folder(c: ConfigDict) -> None:
    variants.folder(c)
    c.data.image_size = 224
    c.encoder = encoder_config('resnet18')
    c.augment.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(1, 16, 8, bias=True)
