r"""Distillation: trains a student to match the class probabilities of a fine-tuned teacher, without labels.

    python -m contrastive_jax.main --config=configs/eval/distill.py --config.teacher=runs/tuned \
        --config.init=runs/mine --workdir=runs/student

Paper: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners" (SimCLR v2), arXiv 2006.10029,
section 2.
Cost: like supervised training for 400 epochs, and a forward pass of the teacher for every image.
Expected, from the paper: ResNet-50 73.9 % (1 % of the labels) and 77.5 % (10 %), with a teacher of 152 layers and 3
times the width.
Run here: only on the embedded digits; not on ImageNet.

The loss is the cross-entropy between the class probabilities of teacher and student, both at temperature T, times T² as
in the official notebook. The teacher is the workdir of a finished fine-tuning (configs/eval/finetune.py), in evaluation
mode. The student starts as the encoder of the run that --config.init names, or with new weights in the architecture of
that run: --config.distill.scratch=True. Images are cropped and flipped at random.

The official code has no command for distillation; the settings are those that the paper reports: 400 epochs, and as in
pre-training batch 4096, LARS with learning rate 0.1 x sqrt(batch), weight decay 1e-4 and the cosine schedule.

Variants:
  `self`: a teacher of the student's own architecture, T = 0.1; the default.
  `big_to_small`: a smaller student that starts with new weights, T = 1.
  `digits`: the embedded digits, minutes on a CPU.
  `tiny`: for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants
from contrastive_jax.protocols.run import protocol_config


def get_config(variant: str = '') -> ConfigDict:
    c = protocol_config('distill')
    c.batch_size, c.epochs = 4096, 400.0
    c.distill.temperature = 0.1
    c.optimizer.name = 'lars_simclr'
    c.optimizer.learning_rate, c.optimizer.learning_rate_scaling = 0.1, 'sqrt'  # x sqrt(4096) = 6.4
    c.optimizer.weight_decay = 1e-4
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 20.0  # 5 % of the training
    return apply_variants(
        c, variant, {'self': lambda c: None, 'big_to_small': big_to_small, 'digits': digits, 'tiny': tiny}
    )


def big_to_small(c: ConfigDict) -> None:
    c.distill.update(temperature=1.0, scratch=True)


def digits(c: ConfigDict) -> None:
    """Small batches, few epochs, SGD. No flips: a mirrored 2 is not a 2."""
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
