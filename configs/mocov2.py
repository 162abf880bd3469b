r"""MoCo v2: Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297.

    python -m contrastive_jax.main --config=configs/mocov2.py --workdir=runs/mocov2

Recipe: ResNet-50, ImageNet-1k, batch 256, 200 epochs.
Cost, from the official repository: 53 h on 8 V100.
Expected, from the official repository: linear probe 67.7 % (five runs: 67.5 +- 0.1); 71.1 % with `long`.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `long`: 800 epochs; `r18`: ResNet-18.
  `symmetric`: both views serve as queries and as keys.
  `cifar10`: the official demo. Its notebook reports kNN 82.6 / 86.3 / 88.7 % after 200 / 400 / 800 epochs, and with
    `cifar10,symmetric` 85.3 / 88.5 / 89.7 %; the linear probe of the last is 90.7 %.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('moco')
    c.batch_size = 256
    c.epochs = 200.0
    c.bn_group_size = 32  # BN statistics per GPU: 8 GPUs with 32 images each

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet50')
    c.projector = head_config(2, 2048, 128, bias=True, batch_norm=False)

    c.method.queue_size = 65536
    c.method.momentum = 0.999
    c.method.temperature = 0.2

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.1)
    c.augment.jitter_probability = 0.8
    c.augment.grayscale = 0.2
    c.augment.blur = (0.5, 0.5)

    c.optimizer.name = 'sgd'  # weight decay on every parameter
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 256
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name = 'cosine'  # changes once an epoch

    return apply_variants(
        c,
        variant,
        {
            'long': lambda c: c.update(epochs=800.0),
            'r18': variants.encoder('resnet18'),
            'cifar10': cifar10,
            'symmetric': variants.symmetric,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def cifar10(c: ConfigDict) -> None:
    """The official demo (facebookresearch/moco, branch colab-notebook); its head is linear, as in v1."""
    variants.cifar10(c)
    c.batch_size = 512
    c.bn_group_size = 64  # the demo splits a batch of 512 into 8 groups
    c.projector = head_config(1, 512, 128, bias=True)
    c.method.update(queue_size=4096, temperature=0.1, momentum=0.99)
    c.augment.update(crop_scale=(0.08, 1.0), blur=(0.0, 0.0))
    c.optimizer.weight_decay = 5e-4
    c.eval.update(knn_k=200, knn_temperature=0.1)


def digits(c: ConfigDict) -> None:
    """A queue of two batches: a larger one often holds an earlier key of the query's own image."""
    variants.digits(c)
    variants.handwriting(c)
    c.bn_group_size = 32
    c.projector = head_config(2, 128, 64, bias=True, batch_norm=False)
    c.method.update(queue_size=256, momentum=0.99, temperature=0.1)
    c.optimizer.learning_rate = 0.5
    c.schedule.name, c.schedule.warmup_epochs = 'warmup_cosine', 5.0


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.bn_group_size = 8
    c.projector = head_config(2, 16, 8, bias=True, batch_norm=False)
    c.method.queue_size = 64
