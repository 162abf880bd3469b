"""Changes that several recipes share: small data sets and small encoders. This is not a recipe itself."""

import math
from collections.abc import Callable

from ml_collections import ConfigDict

from contrastive_jax.config.base import encoder_config
from contrastive_jax.config.choose import CONTINUED, FIELDS


def cifar10(c: ConfigDict) -> None:
    """CIFAR-10 from TFDS, or from a file with --config.data.source=npz --config.data.path=cifar10.npz."""
    c.data.update(source='tfds', name='cifar10', image_size=32)
    c.encoder = encoder_config('resnet18', stem='cifar')
    c.augment.update(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 97, 970, 970  # an epoch has 97 batches of 512


def digits(c: ConfigDict) -> None:
    """scikit-learn's handwritten digits, gray 8x8 images. No flips (a mirrored 2 is not a 2), little jitter."""
    c.batch_size = 128
    c.epochs = 100.0
    c.data.update(source='digits', name='digits', image_size=8)
    c.encoder = encoder_config('resnet_tiny', stem='cifar')
    c.augment.update(
        crop_scale=(0.5, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.0, 0.0), grayscale=0.0,
        blur=(0.0, 0.0), solarize=(0.0, 0.0), mean=(0.305, 0.305, 0.305), std=(0.376, 0.376, 0.376),
    )  # fmt: skip
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 55, 275, 275
    c.eval.update(knn_k=20)


def handwriting(c: ConfigDict) -> None:
    """Rotates and shears the views, as handwriting differs in slant, and blurs them, as it differs in stroke width."""
    c.augment.update(warp=1.0, rotation=15.0, shear=0.2, blur=tuple(0.5 for _ in c.augment.blur), blur_sigma=(0.1, 1.0))


def folder(c: ConfigDict) -> None:
    """Your images, --config.data.path=FOLDER: one folder per class, or all files in one folder.

    Sizes and lengths are chosen by the data and the machine when the run begins: config/choose.py.
    """
    c.data.update(source='folder', name='', path='')
    c.auto.update(fields=FIELDS, reference_batch=c.batch_size)


def continued(c: ConfigDict) -> None:
    """From weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.

    The rate warms up in a twentieth of that length and then falls on half a cosine, also in recipes whose rate falls in
    steps or stays: the new heads and the optimizer's state need the warm-up. A length in steps, as in `tiny`, stays.
    """
    c.auto.continues = True
    for section, name in ((c.optimizer, 'learning_rate'), (c.schedule, 'warmup_start'), (c.schedule, 'final')):
        section[name] = float(f'{0.1 * section[name]:.6g}')
    if 'warmup' not in c.schedule.name:
        c.schedule.name = 'warmup_cosine'
    c.schedule.warmup_epochs = 0.0
    if c.steps:
        return
    c.epochs *= CONTINUED
    c.schedule.warmup_epochs = c.epochs / 20
    for name in ('teacher_warmup_epochs', 'queue_from_epoch'):  # phases of the training
        if c.method.get(name):
            c.method[name] = math.ceil(c.method[name] * CONTINUED)
    for name in ('eval_every_steps', 'checkpoint_every_steps'):  # as many in the shorter training
        c[name] = math.ceil(c[name] * CONTINUED)


def tiny(c: ConfigDict) -> None:
    """Two steps in seconds, for tests."""
    c.batch_size = 16
    c.steps = 2
    c.auto.update(fields=(), reference_batch=0)  # nothing is chosen
    c.data.update(source='digits', name='digits', image_size=8)
    c.encoder = encoder_config('resnet_tiny', stem='cifar', width=4)
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 1, 2, 2
    c.eval.update(knn_k=5, max_train=64, max_test=32, batch_size=32)


def bfloat16(c: ConfigDict) -> None:
    """Computes in bfloat16; parameters, BN statistics and losses stay float32."""
    c.dtype = 'bfloat16'


def symmetric(c: ConfigDict) -> None:
    """Both views serve as queries and as keys; an epoch then takes about twice as long."""
    c.method.symmetric = True


def encoder(name: str) -> Callable[[ConfigDict], None]:
    """Another ResNet. A hidden layer of the projector that is as wide as the features stays so."""
    features = {'resnet18': 512, 'resnet34': 512}.get(name, 2048)

    def change(c: ConfigDict) -> None:
        if c.projector.hidden_dim == 2048:
            c.projector.hidden_dim = features
        c.encoder.name = name

    return change
