"""The recipes of `benchmarks.curves`: those of CIFAR-10 in `configs/`, at the size that one core trains in minutes.

Both sides read these numbers. The network is a ResNet with one block a stage and 8 channels at first, or for MoCo v3 a
ViT of width 64 with 4 blocks. Images are cropped to 16 pixels. All methods crop and jitter as PIL and torchvision do,
without blur, so that one augmentation with different strengths serves all of them.
"""

import dataclasses
import importlib
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.base import encoder_config, head_config

WIDTH = 8  # channels of the first stage of the ResNet
FEATURES = 64  # of the ResNet and of the ViT


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained, and on what.

    Attributes:
      train_images: the first images of the training split, which the kNN and the probe also use.
      test_images: the first images of the test split.
      image_size: the height and width of a view, in pixels.
      batch_size: images of a step.
      epochs: length of the training.
      points: number of evaluations, evenly spaced; the last one is at the end.
    """

    train_images: int = 4096
    test_images: int = 2000
    image_size: int = 16
    batch_size: int = 64
    epochs: int = 6
    points: int = 3

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.train_images // self.batch_size

    def problem(self) -> str:
        """What is wrong with these sizes, in one line; '' if nothing is."""
        if small := [name for name, value in dataclasses.asdict(self).items() if value < 1]:
            return f'--{small[0]} is below 1 -> give a larger number'
        if self.epochs % self.points:
            return f'--epochs {self.epochs} is no multiple of --points {self.points} -> change one of them'
        if self.batch_size % 8 or self.batch_size > self.train_images:
            return f'--batch_size {self.batch_size} is no multiple of 8, or above --train_images -> change it'
        return ''


def mocov2(c: ConfigDict) -> None:
    """The head of MoCo v2 with the queue of the demo, shorter: it must not hold all images."""
    c.bn_group_size = c.batch_size // 8
    c.projector = head_config(2, FEATURES, 64, bias=True, batch_norm=False)
    c.method.queue_size = 8 * c.batch_size
    c.optimizer.update(learning_rate=0.06, learning_rate_batch=64)


def simclr(c: ConfigDict) -> None:
    """LARS with the learning rate inside the momentum buffer."""
    c.projector.update(hidden_dim=FEATURES, output_dim=64)
    c.schedule.warmup_epochs = 1.0


def byol(c: ConfigDict) -> None:
    for head in (c.projector, c.predictor):
        head.update(hidden_dim=256, output_dim=64)
    c.method.momentum = 0.97  # as in the official preset for the shortest training
    c.optimizer.update(learning_rate=0.03, learning_rate_batch=64)


def simsiam(c: ConfigDict) -> None:
    c.projector.update(hidden_dim=256, output_dim=256)
    c.predictor.update(hidden_dim=64, output_dim=256)
    c.optimizer.update(learning_rate=0.06, learning_rate_batch=64)


def dino(c: ConfigDict) -> None:
    """Two crops, as the author proposes without multi-crop; a teacher that follows faster, as the training is short."""
    c.projector.update(hidden_dim=256, output_dim=64)
    c.method.update(output_dim=512, momentum=0.98, teacher_temperature=0.03, warmup_teacher_temperature=0.03)
    c.augment.update(local_crops=0, crop_scale=(0.2, 1.0))
    c.optimizer.update(learning_rate=0.2, learning_rate_batch=64, weight_decay=1e-4)
    c.schedule.warmup_epochs = 1.0


def swav(c: ConfigDict) -> None:
    """Fewer prototypes than examples of a batch, so that no queue is needed; sharper codes, which are not uniform."""
    c.projector.update(hidden_dim=FEATURES, output_dim=64)
    c.method.update(num_prototypes=60, queue_size=0, epsilon=0.03)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.1)
    c.optimizer.update(freeze_epochs=1.0)
    c.schedule.warmup_epochs = 1.0


def mocov3_vit(c: ConfigDict) -> None:
    """AdamW, and a frozen random patch projection."""
    c.encoder = encoder_config('vit_tiny', patch_size=4, width=64, depth=4, num_heads=4)
    c.projector.update(hidden_dim=256, output_dim=64)
    c.predictor.update(hidden_dim=256, output_dim=64)
    c.optimizer.learning_rate = 4e-3
    c.schedule.warmup_epochs = 1.0


def barlow_twins(c: ConfigDict) -> None:
    c.projector.update(hidden_dim=256, output_dim=256)
    c.optimizer.update(learning_rate=0.06, learning_rate_batch=64)


def vicreg(c: ConfigDict) -> None:
    """LARS with the learning rate outside the momentum buffer."""
    c.projector.update(hidden_dim=256, output_dim=256)
    c.optimizer.update(learning_rate=2.0, learning_rate_batch=64)
    c.schedule.warmup_epochs = 1.0


def nnclr(c: ConfigDict) -> None:
    """A queue of eight batches, as for MoCo v2."""
    c.projector.update(hidden_dim=256, output_dim=64)
    c.predictor.update(hidden_dim=256, output_dim=64)
    c.method.queue_size = 8 * c.batch_size
    c.optimizer.update(learning_rate=0.06, learning_rate_batch=64)


# In the order in which they are trained.
METHODS: dict[str, Any] = {
    'mocov2': mocov2, 'simclr': simclr, 'byol': byol, 'simsiam': simsiam, 'dino': dino, 'swav': swav,
    'mocov3_vit': mocov3_vit, 'barlow_twins': barlow_twins, 'vicreg': vicreg, 'nnclr': nnclr,
}  # fmt: skip


def recipe(method: str, size: Size, seed: int) -> ConfigDict:
    """The config of a training.

    Args:
      method: a key of `METHODS`.
      size: how much is trained; the images are set by `benchmarks.curves`.
      seed: the seed of weights, order and augmentation.
    """
    c = importlib.import_module(f'contrastive_jax.configs.{method}').get_config('cifar10')
    c = c.copy_and_resolve_references().unlock()
    c.batch_size, c.epochs, c.seed = size.batch_size, float(size.epochs), seed
    c.data.image_size = size.image_size
    zero_init = c.encoder.get('zero_init_residual', False)
    c.encoder = encoder_config('resnet_tiny', stem='cifar', width=WIDTH, zero_init_residual=zero_init)
    c.augment.update(style='pil', interpolation='bilinear', blur=(0.0, 0.0), local_blur=0.0)
    c.augment.crop_scale = (max(0.2, c.augment.crop_scale[0]), 1.0)  # smaller crops need longer trainings
    METHODS[method](c)
    between = size.epochs // size.points * size.steps_per_epoch
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = size.steps_per_epoch, between, between
    c.auto.fields = ()
    c.eval.update(evaluators=('knn', 'probe', 'signals'), knn_k=20, max_test=size.test_images)
    return c.lock()
