r"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294.

    python -m contrastive_jax.main --config=configs/dino.py --workdir=runs/dino

Recipe: ViT-S/16 with 6 heads, ImageNet-1k, batch 512, 2 + 8 crops, 100 epochs: the "vanilla" run of the official
repository.
Cost, from the official repository: 1.75 days on 8 GPUs; `boost` 2.6 days on 16.
Expected, from the official repository, for the teacher: kNN 69.3 %, linear probe 74.0 %; `boost` 73.3 % and 76.0 %.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

The evaluation during training measures the student, which is less accurate than the teacher until the end.

Variants:
  `boost`: 300 epochs, rising teacher temperature, trained gain of the last layer.
  `base`: ViT-B/16, 400 epochs, as in VISSL; `patch8`: patches of 8 pixels, also after a size: `base,patch8`.
  `resnet50`: ResNet-50 with SGD.
  `two_crops`: 300 epochs without local crops; kNN 59.9 %, linear probe 67.8 % according to the author.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: ResNet-18; our own settings, not run yet.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('dino')
    c.batch_size = 512
    c.epochs = 100.0
    c.bn_group_size = 0  # BN statistics over the whole batch; a ViT has no BN

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('dino_small', patch_size=16, drop_path=0.1)
    # Up to the bottleneck of 256; the method adds the last layer, to method.output_dim. No BN, as in the ViT.
    c.projector = head_config(3, 2048, 256, bias=True, batch_norm=False, activation='gelu', kernel_init='trunc_normal')

    c.method.output_dim = 65536
    c.method.train_gain = False  # norm_last_layer=True in the official code
    c.method.momentum = 0.996  # rises to 1; the official code recommends 0.9995 for batches of 256
    c.method.student_temperature = 0.1
    c.method.teacher_temperature = 0.04
    c.method.warmup_teacher_temperature, c.method.teacher_warmup_epochs = 0.04, 0
    c.method.center_momentum = 0.9

    c.augment.crop_scale = (0.4, 1.0)
    c.augment.interpolation = 'bicubic'
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)
    c.augment.update(local_crops=8, local_size=96, local_scale=(0.05, 0.4), local_blur=0.5)

    c.optimizer.name, c.optimizer.mask = 'adamw', 'matrices'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 5e-4, 256
    c.optimizer.weight_decay, c.optimizer.final_weight_decay = 0.04, 0.4
    c.optimizer.clip_norm = 3.0
    c.optimizer.freeze_first, c.optimizer.freeze_epochs = ('last_layer',), 1.0
    c.schedule.name, c.schedule.warmup_epochs, c.schedule.final = 'linspace_warmup_cosine', 10.0, 1e-6

    return apply_variants(
        c,
        variant,
        {
            'boost': boost,
            'base': base,
            'patch8': lambda c: c.encoder.update(patch_size=8),
            'resnet50': resnet50,
            'two_crops': two_crops,
            'bfloat16': variants.bfloat16,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def boost(c: ConfigDict) -> None:
    """The 300-epoch ViT-S/16 run of the official repository."""
    c.batch_size, c.epochs = 1024, 300.0
    c.method.train_gain = True
    c.method.teacher_temperature, c.method.teacher_warmup_epochs = 0.07, 30


def base(c: ConfigDict) -> None:
    """ViT-B/16 as in VISSL's configs."""
    c.batch_size, c.epochs = 1024, 400.0
    c.encoder.name = 'dino_base'
    c.method.teacher_temperature, c.method.teacher_warmup_epochs = 0.07, 50
    c.optimizer.clip_norm, c.optimizer.freeze_epochs = 0.3, 3.0
    c.schedule.final = 8e-6


def resnet50(c: ConfigDict) -> None:
    """The ResNet-50 run of the official repository."""
    c.encoder = encoder_config('resnet50')
    c.augment.update(crop_scale=(0.14, 1.0), local_scale=(0.05, 0.14))
    c.optimizer.name, c.optimizer.learning_rate = 'sgd', 0.03
    c.optimizer.weight_decay, c.optimizer.final_weight_decay = 1e-4, -1.0


def two_crops(c: ConfigDict) -> None:
    """Without multi-crop, with the settings that the author gives in facebookresearch/dino, issue 122."""
    c.epochs = 300.0
    c.augment.update(crop_scale=(0.14, 1.0), local_crops=0)
    c.optimizer.clip_norm = 0.0
    c.schedule.final = 1e-5


def cifar10(c: ConfigDict) -> None:
    """ResNet-18, as in solo-learn and lightly, with four local crops. Our own settings, not run yet."""
    variants.cifar10(c)
    c.batch_size, c.epochs = 256, 200.0
    c.method.output_dim = 4096
    c.method.momentum = 0.9995
    c.augment.update(crop_scale=(0.4, 1.0), blur=(0.0, 0.0), local_crops=4, local_size=16, local_blur=0.0)
    c.optimizer.name, c.optimizer.learning_rate = 'sgd', 0.12
    c.optimizer.weight_decay, c.optimizer.final_weight_decay = 5e-4, -1.0


def digits(c: ConfigDict) -> None:
    """Two crops that rotate and shear. Local crops of 6 pixels without rotation gave less than raw pixels.

    Temperature 0.03: with the paper's 0.04 a teacher with so few outputs stays near the uniform distribution.
    """
    variants.digits(c)
    c.projector.update(hidden_dim=256, output_dim=64)
    c.method.output_dim = 512
    c.method.momentum = 0.98
    c.method.teacher_temperature = c.method.warmup_teacher_temperature = 0.03
    c.augment.update(warp=1.0, rotation=15.0, shear=0.2, local_crops=0)
    c.optimizer.learning_rate = 4e-3
    c.schedule.warmup_epochs = 5.0


def tiny(c: ConfigDict) -> None:
    vit = 'patch_size' in c.encoder
    variants.tiny(c)
    if vit:
        c.encoder = encoder_config('dino_tiny', patch_size=2, width=16, depth=2, num_heads=2, drop_path=0.1)
    c.projector.update(hidden_dim=16, output_dim=8)
    c.method.output_dim = 32
    c.augment.update(local_crops=3, local_size=4)
    c.schedule.warmup_epochs = 0.0
