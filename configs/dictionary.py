r"""The three dictionaries of the MoCo paper (arXiv 1911.05722, figures 2 and 3), side by side, all else equal.

    python -m contrastive_jax.main --config=configs/dictionary.py:end_to_end  --workdir=runs/end_to_end
    python -m contrastive_jax.main --config=configs/dictionary.py:memory_bank --workdir=runs/memory_bank
    python -m contrastive_jax.main --config=configs/dictionary.py:moco        --workdir=runs/moco

ResNet-50, ImageNet-1k, 200 epochs, the recipe of MoCo v1. From the paper's figure 3, linear probe at its largest K:
end-to-end 57.3 (K = 1024), memory bank 58.0, MoCo 60.6 (K = 65536). Not run here on ImageNet.

Further variants, after the dictionary: `digits`, `cifar10`, `folder`, `tiny`, as in `moco,digits`.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config
from contrastive_jax.configs import mocov1, variants

DICTIONARIES = ('end_to_end', 'memory_bank', 'moco')


def get_config(variant: str = 'moco') -> ConfigDict:
    dictionary, _, rest = (variant or 'moco').partition(',')
    c = mocov1.get_config()
    c.unlock()
    if dictionary not in DICTIONARIES:  # a data set alone: the paper's own dictionary
        dictionary, rest = 'moco', variant
    changes = {'digits': mocov1.digits, 'cifar10': mocov1.cifar10, 'folder': variants.folder, 'tiny': mocov1.tiny}
    apply_variants(c, rest, changes).unlock()

    moco = c.method
    if dictionary != 'moco':
        c.method = base_config(dictionary).method
        c.method.temperature = moco.temperature
    if dictionary == 'memory_bank':
        c.method.num_negatives = moco.queue_size  # as many keys as the queue has
    return c.lock()
