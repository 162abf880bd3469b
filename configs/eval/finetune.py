r"""Fine-tuning: trains the whole network with a classifier, on all labels or on a few of each class.

    python -m contrastive_jax.main --config=configs/eval/finetune.py:swav_1 --config.init=runs/mine --workdir=runs/tuned

Papers: SwAV (arXiv 2006.09882), SimCLR (2002.05709), SimCLR v2 (2006.10029) and MoCo v3 (2104.02057), see below.
Cost: like supervised training for the given number of epochs.
Expected, from the papers: the accuracies below, for ResNet-50 unless another network is named.
Run here: only on the embedded digits; not on ImageNet.

Training images are only cropped and flipped at random. BN statistics are over the whole batch. The labels used are
those of a class-balanced part of the training images. The images that the papers used are TFDS's
imagenet2012_subset/1pct and /10pct: --config.data.source=tfds --config.data.name=... --config.finetune.labels=1.0.

Variants:
  `swav_1`, `swav_10` (the default): 1 and 10 % of the labels; 53.9 and 70.2 %. From the official code
    (eval_semisup.py): SGD, batch 256, 20 epochs, x 0.2 after 12 and 16, no weight decay; learning rates of encoder and
    classifier 0.02 and 5 for 1 %, 0.01 and 0.2 for 10 %. BN statistics are synchronized there, too.
  `simclr_1`, `simclr_10`: 1 and 10 % of the labels; 48.3 and 65.6 %. From appendix B.5 of the paper: SGD with Nesterov
    momentum, 0.05 x batch / 256, batch 4096, 60 and 30 epochs, no weight decay. Cosine schedule and a classifier that
    starts at zero are those of the official code.
  `simclrv2_1`, `simclrv2_10`, `simclrv2_100`: 1, 10 and 100 % of the labels; 57.9, 68.4 and 76.3 %. With 1 and 10 % the
    first layer of the projector stays, with its BN and ReLU. LARS, 0.005 x sqrt(batch), batch 1024, 60 epochs for 1 %
    and 30 otherwise, cosine, no weight decay, a classifier that starts at zero. From the official README for 1 %, from
    the paper for the others.
  `large`: learning rate 0.002, for wider networks and selective kernels, as in `simclrv2_1,large`.
  `mocov3_vit`: all labels, ViT-B; 83.2 %. DeiT's protocol with the values of open-mmlab/mmselfsup: AdamW, 5e-4 x
    batch / 512, batch 512, 150 epochs, 5 warm-up epochs, cosine to 1e-5, weight decay 0.05 on kernels only, label
    smoothing, mixup, CutMix, drop path, gradient clipping. DeiT's RandAugment, random erasing and repeated
    augmentation, and mmselfsup's weight averaging, are left out.
  `mocov3_cifar10`, `mocov3_cifar100`, `mocov3_flowers`, `mocov3_pets`: transfer of ViT-B to other data, from
    transfer/README.md and datasets.py of the official repository; 98.9, 90.5, 97.7 and 93.2 %. DeiT's trainer with
    3e-4 x batch / 512, batch 8 x 128, 100 epochs, 3 warm-up epochs; crops from 5 % of the area and flips alone: its
    RandAugment and random erasing are not in these data sets' transforms, whatever --reprob says. Test images, also
    those of CIFAR, are resized to 256 pixels and cropped to 224. The 2,040 images of flowers are train + validation,
    one step an epoch; the training images of pets are TFDS's train. The learning rate changes at every step here, once
    an epoch there.
  `full`: all labels with the learning rates of 10 %.
  `digits`: a tenth of the labels of the embedded digits; `digits_simclrv2`: the same with a layer of the projector and
    LARS.
  `tiny`: for tests.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants
from contrastive_jax.protocols.run import protocol_config


def get_config(variant: str = '') -> ConfigDict:
    c = protocol_config('finetune')
    return apply_variants(
        c,
        variant,
        {
            'swav_10': lambda c: None,
            'swav_1': swav_1,
            'simclr_1': lambda c: simclr(c, 0.01, epochs=60.0),
            'simclr_10': lambda c: simclr(c, 0.1, epochs=30.0),
            'simclrv2_1': lambda c: simclrv2(c, 0.01, epochs=60.0),
            'simclrv2_10': lambda c: simclrv2(c, 0.1, epochs=30.0),
            'simclrv2_100': lambda c: simclrv2(c, 1.0, epochs=30.0, projector_layers=0),
            'large': lambda c: c.optimizer.update(learning_rate=0.002, classifier_learning_rate=0.002),
            'mocov3_vit': mocov3_vit,
            'mocov3_cifar10': transfer('cifar10'),
            'mocov3_cifar100': transfer('cifar100', mixup=0.5),
            'mocov3_flowers': transfer('oxford_flowers102', 'train+validation', 0.3, mixup=0.0, cutmix=0.0),
            'mocov3_pets': transfer('oxford_iiit_pet', cutmix=0.0, drop_path=0.0),
            'full': lambda c: c.finetune.update(labels=1.0),
            'digits': digits,
            'digits_simclrv2': digits_simclrv2,
            'tiny': tiny,
        },
    )


def swav_1(c: ConfigDict) -> None:
    c.finetune.labels = 0.01
    c.optimizer.update(learning_rate=0.02, classifier_learning_rate=5.0)


def simclr(c: ConfigDict, labels: float, epochs: float) -> None:
    c.batch_size, c.epochs = 4096, epochs
    c.finetune.update(labels=labels, init_std=0.0)
    c.optimizer.update(learning_rate=0.05, classifier_learning_rate=0.05, learning_rate_batch=256, nesterov=True)
    c.schedule.name = 'cosine_per_step'


def simclrv2(c: ConfigDict, labels: float, epochs: float, projector_layers: int = 1) -> None:
    c.batch_size, c.epochs = 1024, epochs
    c.finetune.update(labels=labels, init_std=0.0, projector_layers=projector_layers)
    c.optimizer.update(name='lars_simclr', learning_rate=0.005, classifier_learning_rate=0.005)
    c.optimizer.learning_rate_scaling = 'sqrt'  # x sqrt(1024) = 0.16
    c.schedule.name = 'cosine_per_step'


def mocov3_vit(c: ConfigDict) -> None:
    c.batch_size, c.epochs = 512, 150.0
    c.finetune.update(labels=1.0, init_std=0.02, label_smoothing=0.1, mixup=0.8, cutmix=1.0, drop_path=0.1)
    c.optimizer.update(name='adamw', learning_rate=5e-4, classifier_learning_rate=5e-4, learning_rate_batch=512)
    c.optimizer.update(weight_decay=0.05, clip_norm=5.0)
    c.schedule.update(name='cosine_per_step', warmup_epochs=5.0, warmup_start=5e-7, final=1e-5)


def transfer(
    data: str,
    split: str = 'train',
    weight_decay: float = 0.1,
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    drop_path: float = 0.1,
) -> Callable[[ConfigDict], None]:
    """MoCo v3's transfer to a data set of TFDS; the defaults are those of DeiT."""

    def change(c: ConfigDict) -> None:
        mocov3_vit(c)
        c.batch_size, c.epochs = 1024, 100.0
        c.data.update(source='tfds', name=data, split=split)
        c.augment.crop_scale = (0.05, 1.0)
        c.finetune.update(mixup=mixup, cutmix=cutmix, drop_path=drop_path)
        c.optimizer.update(learning_rate=3e-4, classifier_learning_rate=3e-4, weight_decay=weight_decay, clip_norm=0.0)
        c.schedule.update(warmup_epochs=3.0, warmup_start=1e-6)

    return change


def digits(c: ConfigDict) -> None:
    """Small batches, few epochs. No flips: a mirrored 2 is not a 2."""
    c.batch_size, c.epochs = 32, 50.0
    c.schedule.milestones = (30, 40)
    c.augment.update(crop_scale=(0.5, 1.0), flip=0.0)
    c.log_every_steps = 40


def digits_simclrv2(c: ConfigDict) -> None:
    simclrv2(c, 0.1, 50.0)
    digits(c)


def tiny(c: ConfigDict) -> None:
    c.batch_size, c.epochs = 16, 0.5
    c.log_every_steps = 1
