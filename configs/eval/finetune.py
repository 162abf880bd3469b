r"""Fine-tuning: the whole network is trained on, with all labels or a few of each class.

    python -m contrastive_jax.main --config=configs/eval/finetune.py:swav_1 --config.init=runs/mine --workdir=runs/tuned

`swav_1` and `swav_10` (the default): SwAV's protocol with 1 and 10 % of the labels, from its official code
(eval_semisup.py): SGD, batch 256, 20 epochs, x 0.2 at 12 and 16, no weight decay; learning rates of encoder and
classifier 0.02 and 5 with 1 %, 0.01 and 0.2 with 10 %. Batch norm is over the whole batch, where the official one is
over that of a GPU. From the paper, ResNet-50 of 800 epochs: 53.9 and 70.2. Not run here on ImageNet.

The labels are those of a class-balanced part of the training images; the lists of images of the papers are TFDS's
`imagenet2012_subset/1pct` and `/10pct`: --config.data.source=tfds --config.data.name=... --config.finetune.labels=1.0.

Variants also: `full` (all labels, 10 %'s rates), `digits` (a tenth of the embedded digits), `tiny` (the tests').
"""

from ml_collections import ConfigDict

from contrastive_jax import recipe
from contrastive_jax.evaluate import protocols


def get_config(variant: str = '') -> ConfigDict:
    c = protocols.base('finetune')
    return recipe.apply_variants(
        c,
        variant,
        {
            'swav_10': lambda c: None,
            'swav_1': swav_1,
            'full': lambda c: c.finetune.update(labels=1.0),
            'digits': digits,
            'tiny': tiny,
        },
    )


def swav_1(c: ConfigDict) -> None:
    c.finetune.labels = 0.01
    c.optimizer.update(learning_rate=0.02, classifier_learning_rate=5.0)


def digits(c: ConfigDict) -> None:
    """A mirrored 2 is no 2."""
    c.batch_size, c.epochs = 32, 50.0
    c.schedule.milestones = (30, 40)
    c.augment.update(crop_scale=(0.5, 1.0), flip=0.0)
    c.log_every_steps = 40


def tiny(c: ConfigDict) -> None:
    c.batch_size, c.epochs = 16, 0.5
    c.log_every_steps = 1
