r"""Distillation: a student learns what a fine-tuned teacher says of images, of which none needs a label.

    python -m contrastive_jax.main --config=configs/eval/distill.py --config.teacher=runs/tuned \
        --config.init=runs/mine --workdir=runs/student

Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners" (SimCLR v2), arXiv 2006.10029, section 2:
cross-entropy of the student's class probabilities to the teacher's, both at temperature T. The teacher is the workdir
of a finished fine-tuning (configs/eval/finetune.py), in evaluation mode; the student begins as the encoder of the run
that --config.init names, or with new weights in its architecture: --config.distill.scratch=True. Random crops and
flips.

`self` (the default): a teacher of the student's own architecture, T = 0.1. `big_to_small`: a smaller student, T = 1,
from scratch. The settings are those that the paper reports, and not from its code, which has no command for it: 400
epochs, with the batch of 4096, LARS, learning rate 0.1 x sqrt(batch), weight decay 1e-4 and schedule of pre-training.
The loss has the factor T² of the official notebook. From the paper, ResNet-50 with 1 and 10 % of the labels: 73.9 and
77.5, by a teacher of 152 layers, 3 x as wide. Not run here on ImageNet.

Variants also: `digits` (the embedded digits, in minutes on a CPU), `tiny` (the tests').
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants
from contrastive_jax.protocols.run import protocol_config


def get_config(variant: str = '') -> ConfigDict:
    c = protocol_config('distill')
    c.batch_size, c.epochs = 4096, 400.0
    c.distill.temperature = 0.1
    c.optimizer.name = 'lars_simclr'
    c.optimizer.learning_rate, c.optimizer.learning_rate_scaling = 0.1, 'sqrt'  # 6.4
    c.optimizer.weight_decay = 1e-4
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 20.0  # 5 %
    return apply_variants(
        c, variant, {'self': lambda c: None, 'big_to_small': big_to_small, 'digits': digits, 'tiny': tiny}
    )


def big_to_small(c: ConfigDict) -> None:
    c.distill.update(temperature=1.0, scratch=True)


def digits(c: ConfigDict) -> None:
    """A mirrored 2 is no 2."""
    c.batch_size, c.epochs = 128, 50.0
    c.augment.update(crop_scale=(0.5, 1.0), flip=0.0)
    c.optimizer.update(name='sgd', learning_rate=0.1, learning_rate_scaling='linear')
    c.schedule.warmup_epochs = 5.0
    c.log_every_steps = 50


def tiny(c: ConfigDict) -> None:
    c.batch_size, c.epochs = 16, 0.04
    c.optimizer.update(name='sgd', learning_rate=0.1, learning_rate_scaling='linear')
    c.schedule.warmup_epochs = 0.0
    c.log_every_steps = 1
