"""The numbers that `contrastive_jax.reproduce` is held to: what is trained, how it is judged, and what others got.

The settings are those of configs/, whose files name the papers; what differs from them stands here. Accuracies are in
percent, tolerances in points. Ours passes if it is at most the tolerance below the reference: more is no failure.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Number:
    """One measurement, and what it should come to.

    Attributes:
      protocol: of configs/eval/, as 'linear:mocov2'.
      metric: what it writes, without 'eval/': 'top1', 'knn20_top1'.
      reference: top-1 accuracy in percent.
      tolerance: points that ours may lie below it.
      source: where the reference is from.
      changes: fields of the protocol's config, where the reference was measured otherwise.
    """

    protocol: str
    metric: str
    reference: float
    tolerance: float
    source: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reference:
    """One training, and the numbers measured on its encoder.

    Attributes:
      config: of configs/, as 'mocov2:cifar10'.
      numbers: all of them must be met.
      cost: rough time, and on what.
      changes: fields of the config, such as the length of the training.
      gain: points of kNN accuracy by which training has to improve the untrained encoder; 0: not asked for.
    """

    config: str
    numbers: tuple[Number, ...]
    cost: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gain: float = 0.0


# Number of training and of held-out images: the references mean these data sets, whole.
IMAGES = {'digits': (1437, 360), 'cifar10': (50_000, 10_000), 'imagenet2012': (1_281_167, 50_000)}


OURS = 'our own, 2 CPU cores'
REPOSITORY = 'official repository'
PAPER = 'the paper'


def digits(config: str, reference: float, *, runs: str = 'n = 1', gain: float = 5.0) -> Reference:
    """Embedded data and no paper's number: the reference is what we measured ourselves, with jax 0.10.2 and seed 0.

    An image is 0.28 points. The tolerance is for another machine's rounding: MoCo v2 was 95.3 on one, 93.3 on another.
    """
    number = Number('knn:digits', 'knn20_top1', reference, 3.0, f'{OURS}, {runs}')
    return Reference(config, (number,), '1 to 3 min on 2 CPU cores', gain=gain)


def moco_demo(config: str, epochs: float, reference: float, *more: Number) -> Reference:
    """The demo on CIFAR-10 of MoCo's authors; 26 s an epoch on a V100, twice that if symmetric."""
    number = Number('knn:cifar10', 'knn200_top1', reference, 1.0, 'official notebook')
    hours = epochs * 26 / 3600 * (2 if 'symmetric' in config else 1)
    return Reference(config, (number, *more), f'{hours:.0f} h on a V100', {'epochs': epochs})


def linear(protocol: str, reference: float, source: str = REPOSITORY, **more: Any) -> Number:
    """A linear probe as the method's authors train it. On ImageNet MoCo v1's five runs differ by 0.2."""
    return Number(f'linear:{protocol}', 'linear_top1', reference, more.pop('tolerance', 0.5), source, **more)


def teacher(knn: float, probe: float) -> tuple[Number, Number]:
    """DINO judges the teacher."""
    changes = {'weights': 'target'}
    return (
        Number('knn:dino', 'knn20_top1', knn, 0.5, REPOSITORY, changes),
        linear('dino', probe, changes=changes),
    )


# The official command for CIFAR-10.
SIMCLR_CIFAR10 = {'batch_size': 512, 'epochs': 100.0, 'optimizer.weight_decays': (0.0,)}
# The command of SimCLR's README, which has moved on to SimCLR v2's head, colours and weight decay.
SIMCLR_README = {'epochs': 100.0, 'optimizer.learning_rate': 0.075, 'schedule.warmup_epochs': 10.0}

REFERENCES = {
    # Handwritten digits, for every method
    'mocov2_digits': digits('mocov2:digits', 94.3, runs='n = 2: 95.3, 93.3'),
    'mocov1_digits': digits('mocov1:digits', 95.6),
    'simsiam_digits': digits('simsiam:digits', 92.2),
    'instdis_digits': digits('instdis:digits', 95.0),
    'invaspread_digits': digits('invaspread:digits', 95.6),
    'simclr_digits': digits('simclr:digits', 95.8),
    'simclrv2_digits': digits('simclrv2:digits', 95.8),
    'simclrv2_memory_digits': digits('simclrv2:digits,memory', 97.5),
    'byol_digits': digits('byol:digits', 93.6),
    'mocov3_r50_digits': digits('mocov3_r50:digits', 94.7),
    'mocov3_vit_digits': digits('mocov3_vit:digits', 89.2, gain=20.0),
    'cpc_digits': digits('cpc:digits', 93.3),
    'cmc_digits': digits('cmc:digits', 92.2),
    'swav_digits': digits('swav:digits', 95.6),
    'deepcluster_digits': digits('deepcluster:digits', 95.8),
    'dino_digits': digits('dino:digits', 91.1),
    'end_to_end_digits': digits('dictionary:end_to_end,digits', 95.6),
    'memory_bank_digits': digits('dictionary:memory_bank,digits', 95.0),
    # CIFAR-10
    'mocov2_cifar10': moco_demo('mocov2:cifar10', 200.0, 82.6),
    'mocov2_cifar10_400': moco_demo('mocov2:cifar10', 400.0, 86.3),
    'mocov2_cifar10_800': moco_demo('mocov2:cifar10', 800.0, 88.7),
    'mocov2_cifar10_symmetric': moco_demo('mocov2:cifar10,symmetric', 200.0, 85.3),
    'mocov2_cifar10_symmetric_400': moco_demo('mocov2:cifar10,symmetric', 400.0, 88.5),
    'mocov2_cifar10_symmetric_800': moco_demo(
        'mocov2:cifar10,symmetric', 800.0, 89.7, linear('mocov2', 90.7, 'official notebook', tolerance=1.0)
    ),
    'simclr_cifar10': Reference(
        'simclr:cifar10',
        (linear('simclr', 91.0, f'{REPOSITORY}: around 91', tolerance=1.0, changes=SIMCLR_CIFAR10),),
        '1000 epochs',
    ),
    'instdis_cifar10': Reference(
        'instdis:cifar10', (Number('knn:cifar10', 'knn200_top1', 80.4, 1.0, PAPER),), '200 epochs'
    ),
    'invaspread_cifar10': Reference(
        'invaspread', (Number('knn:cifar10', 'knn200_top1', 83.6, 1.0, PAPER),), '301 epochs'
    ),
    # ImageNet
    'mocov1_imagenet': Reference('mocov1', (linear('mocov2', 60.6),), '53 h on 8 V100'),
    'mocov2_imagenet': Reference('mocov2', (linear('mocov2', 67.7),), '53 h on 8 V100'),
    'mocov2_imagenet_800': Reference('mocov2:long', (linear('mocov2', 71.1),), '9 days on 8 V100'),
    'mocov3_r50_imagenet': Reference('mocov3_r50', (linear('mocov3_r50', 68.9),), '100 epochs, 16 V100'),
    'mocov3_r50_imagenet_300': Reference('mocov3_r50:300', (linear('mocov3_r50', 72.8),), '300 epochs, 16 V100'),
    'mocov3_r50_imagenet_1000': Reference('mocov3_r50:1000', (linear('mocov3_r50', 74.6),), '1000 epochs, 16 V100'),
    'mocov3_vit_small_imagenet': Reference('mocov3_vit:small', (linear('mocov3_vit', 73.2),), '300 epochs, 32 V100'),
    'mocov3_vit_base_imagenet': Reference('mocov3_vit:base', (linear('mocov3_vit', 76.7),), '300 epochs, 64 V100'),
    'end_to_end_imagenet': Reference(
        'dictionary:end_to_end', (linear('mocov2', 57.3, PAPER),), '200 epochs, 8 V100', {'batch_size': 1024}
    ),
    'memory_bank_imagenet': Reference('dictionary:memory_bank', (linear('mocov2', 58.0, PAPER),), '200 epochs, 8 V100'),
    'simclr_imagenet': Reference('simclr:long', (linear('simclr', 69.1),), '60 h on 32 TPU v3'),
    'simclr_imagenet_100': Reference(
        'simclrv2',
        (linear('simclr', 64.5, f'{REPOSITORY}: around 64.5', tolerance=1.0),),
        '6 h on 32 TPU v3',
        SIMCLR_README,
    ),
    'simclrv2_imagenet': Reference('simclrv2', (linear('simclr', 71.7),), '48 h on 32 TPU v3'),
    'byol_imagenet': Reference('byol', (linear('byol', 74.4),), '8 h on 512 TPU v3'),
    'simsiam_imagenet': Reference('simsiam', (linear('simsiam', 68.1),), '100 epochs, 8 V100'),
    'simsiam_imagenet_800': Reference('simsiam:800', (linear('simsiam', 71.3, PAPER),), '800 epochs, 8 V100'),
    'swav_imagenet': Reference('swav', (linear('swav', 72.1),), '6 h on 64 V100'),
    'swav_imagenet_200': Reference('swav:200', (linear('swav', 73.9),), '12 h on 64 V100'),
    'swav_imagenet_400': Reference('swav:400', (linear('swav', 74.6),), '25 h on 64 V100'),
    'swav_imagenet_800': Reference('swav:800', (linear('swav', 75.3),), '49 h on 64 V100'),
    'swav_small_batch_imagenet': Reference('swav:small_batch', (linear('swav', 72.7),), '7 days on 4 V100'),
    'deepcluster_imagenet': Reference('deepcluster', (linear('swav', 74.3),), '22 h on 64 V100'),
    'deepcluster_imagenet_800': Reference('deepcluster:800', (linear('swav', 75.2),), '800 epochs, 64 V100'),
    'dino_imagenet': Reference('dino', teacher(69.3, 74.0), '42 h on 8 V100'),
    'dino_imagenet_300': Reference('dino:boost', teacher(73.3, 76.0), '62 h on 16 V100'),
    'cmc_imagenet': Reference('cmc:v3', (linear('cmc_v3', 68.4),), '240 epochs'),
}
