r"""NNCLR: Dwibedi, Aytar, Tompson, Sermanet, Zisserman, "With a Little Help from My Friends", arXiv 2104.14548.

    python -m contrastive_jax.main --config=configs/nnclr.py --workdir=runs/nnclr

Recipe: ResNet-50, ImageNet-1k, batch 4096, 1000 epochs. There is no official code: what the paper leaves open is as in
BYOL, whose optimizer and augmentation it shares.
Cost: not reported.
Expected, from the paper: linear probe 75.4 %.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `r18`: ResNet-18.
  `bfloat16`: computes in bfloat16; parameters, BN statistics and losses stay float32.
  `cifar10`: the settings of lightly's benchmark, with the loss of the paper.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('nnclr')
    c.batch_size = 4096
    c.epochs = 1000.0
    c.bn_group_size = 0  # BN statistics over the whole batch

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = projector(3, 2048, 256)
    c.predictor = head_config(2, 4096, 256, last_bias=True)

    c.method.queue_size = 98304  # 24 batches
    c.method.temperature = 0.1

    c.augment.crop_scale = (0.08, 1.0)  # those of BYOL, with PIL
    c.augment.interpolation = 'bicubic'
    c.augment.jitter = (0.4, 0.4, 0.2, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (1.0, 0.1)
    c.augment.solarize = (0.0, 0.2)

    c.optimizer.name = 'lars'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.3, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-6
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 10.0

    return apply_variants(
        c,
        variant,
        {
            'bfloat16': variants.bfloat16,
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def projector(num_layers: int, hidden_dim: int, output_dim: int) -> ConfigDict:
    """Batch norm with scale and offset follows every layer, also the last one."""
    return head_config(num_layers, hidden_dim, output_dim, last_batch_norm=True, last_batch_norm_affine=True)


def cifar10(c: ConfigDict) -> None:
    """As in lightly's benchmark: a projector of two layers, a short queue, SGD, no blur, no solarization."""
    variants.cifar10(c)
    c.batch_size = 512
    c.epochs = 200.0
    c.projector = projector(2, 2048, 256)
    c.method.queue_size = 8192
    c.augment.update(interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1), blur=(0.0, 0.0), solarize=(0.0, 0.0))
    c.optimizer.update(name='sgd', learning_rate=0.06, learning_rate_batch=128, weight_decay=5e-4)
    c.schedule.update(name='cosine', warmup_epochs=0.0)
    c.eval.update(knn_k=200, knn_temperature=0.1)


def digits(c: ConfigDict) -> None:
    """A queue of eight batches, most of the data."""
    variants.digits(c)
    variants.handwriting(c)
    c.augment.interpolation = 'bilinear'
    c.projector = projector(2, 128, 64)
    c.predictor = head_config(2, 256, 64, last_bias=True)
    c.method.queue_size = 1024
    c.optimizer.update(name='sgd', learning_rate=0.5, weight_decay=1e-4)
    c.schedule.warmup_epochs = 5.0


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = projector(2, 16, 8)
    c.predictor = head_config(2, 16, 8, last_bias=True)
    c.method.queue_size = 64
    c.schedule.warmup_epochs = 0.0
