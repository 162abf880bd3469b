r"""InstDis: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 1805.01978.

    python -m contrastive_jax.main --config=configs/instdis.py --workdir=runs/instdis

Recipe: ResNet-18, ImageNet-1k, batch 256, 200 epochs; NCE with 4,096 negatives, drawn from a memory bank of all images.
Cost: not reported.
Expected, from the official repository: nearest neighbor (k = 1, on the 128-dimensional embedding) 41.0 %, ResNet-50
46.8 %. ResNet-50 with the softmax over 65,536 negatives: linear probe 58.5 %.
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

--config.method.proximal=30.0 adds the proximal term of the paper, which the official code does not have.

Variants:
  `r18`, `r50`: the size of the ResNet.
  `softmax`: cross-entropy over 65,536 negatives instead of NCE.
  `cifar10`: cross-entropy over all 50,000 images, as in the official README; kNN 80.4 % in the paper.
  `digits`: the embedded handwritten digits, minutes on a CPU.
  `folder`: your images, --config.data.path=FOLDER; sizes and lengths fit them and the machine.
  `continue`: from weights that exist, --config.init=PATH: a tenth of the learning rate, a quarter of the length.
  `tiny`: two steps in seconds, for tests.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config, encoder_config, head_config
from contrastive_jax.configs import variants


def get_config(variant: str = '') -> ConfigDict:
    c = base_config('instdis')
    c.batch_size = 256
    c.epochs = 200.0
    c.bn_group_size = 0  # BN is per GPU in the official code, which does not say on how many

    c.data.source, c.data.name = 'tfds', 'imagenet2012'
    c.encoder = encoder_config('resnet18')
    c.projector = head_config(1, 512, 128, bias=True)

    c.method.num_negatives = 4096
    c.method.objective = 'nce'
    c.method.momentum = 0.5
    c.method.temperature = 0.07

    c.augment.crop_scale = (0.2, 1.0)
    c.augment.jitter = (0.4, 0.4, 0.4, 0.4)
    c.augment.jitter_probability = 1.0
    c.augment.grayscale = 0.2
    c.augment.grayscale_first = True
    c.augment.blur = c.augment.solarize = (0.0,)  # one entry: one view

    c.optimizer.name = 'sgd'
    c.optimizer.learning_rate, c.optimizer.learning_rate_batch = 0.03, 0  # not scaled with the batch
    c.optimizer.momentum, c.optimizer.weight_decay = 0.9, 1e-4
    c.schedule.name, c.schedule.milestones = 'step', (120, 160)

    return apply_variants(
        c,
        variant,
        {
            'r18': variants.encoder('resnet18'),
            'r50': variants.encoder('resnet50'),
            'softmax': softmax,
            'cifar10': cifar10,
            'digits': digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': tiny,
        },
    )


def softmax(c: ConfigDict) -> None:
    """Cross-entropy instead of NCE: the version that later papers compare with."""
    c.method.update(objective='softmax', num_negatives=65536)


def cifar10(c: ConfigDict) -> None:
    """The official cifar.py with --nce-k 0: cross-entropy over all images."""
    variants.cifar10(c)
    c.batch_size = 128
    c.log_every_steps, c.eval_every_steps, c.checkpoint_every_steps = 390, 3900, 3900
    c.method.update(objective='softmax', num_negatives=0, temperature=0.1)
    c.augment.update(grayscale_first=False, flip=0.0)
    c.optimizer.weight_decay = 5e-4
    c.eval.update(knn_k=200, knn_temperature=0.1)


def digits(c: ConfigDict) -> None:
    """Cross-entropy over all images, as for CIFAR-10. Why not NCE: docs/results.md, "NCE on few images"."""
    variants.digits(c)
    c.epochs = 200.0  # after 100 it is hardly better than raw pixels
    c.augment.blur = c.augment.solarize = (0.0,)
    variants.handwriting(c)
    c.projector = head_config(1, 128, 64, bias=True)
    c.method.update(objective='softmax', num_negatives=0, temperature=0.1)
    c.schedule.milestones = (120, 160)


def tiny(c: ConfigDict) -> None:
    variants.tiny(c)
    c.projector = head_config(1, 16, 8, bias=True)
    if c.method.num_negatives:
        c.method.num_negatives = 32
