r"""The three dictionaries of the MoCo paper, with all other settings equal: He et al., "Momentum Contrast for
Unsupervised Visual Representation Learning", arXiv 1911.05722, figures 2 and 3.

    python -m contrastive_jax.main --config=configs/dictionary.py:end_to_end  --workdir=runs/end_to_end
    python -m contrastive_jax.main --config=configs/dictionary.py:memory_bank --workdir=runs/memory_bank
    python -m contrastive_jax.main --config=configs/dictionary.py:moco        --workdir=runs/moco

Recipe: that of MoCo v1 (mocov1.py): ResNet-50, ImageNet-1k, 200 epochs.
Cost, from MoCo's official repository: 53 h on 8 V100 for MoCo; not reported for the others.
Expected, from the paper (figure 3, the largest K of each): linear probe 57.3 % end-to-end (K = 1024), 58.0 % memory
bank, 60.6 % MoCo (K = 65536).
Run here: only `digits` (results/digits.jsonl); not on ImageNet.

Variants:
  `end_to_end`, `memory_bank`, `moco`: the dictionary; MoCo is the default.
  `cifar10`, `digits`, `folder`, `continue`, `tiny`: the data and the start, as in mocov1.py; for example `moco,digits`.
"""

from ml_collections import ConfigDict

from contrastive_jax.config.base import apply_variants, base_config
from contrastive_jax.configs import mocov1, variants
from contrastive_jax.errors import UserError

DICTIONARIES = ('end_to_end', 'memory_bank', 'moco')


def get_config(variant: str = '') -> ConfigDict:
    names = [name for name in variant.split(',') if name not in DICTIONARIES]
    chosen = [name for name in variant.split(',') if name in DICTIONARIES]
    if len(chosen) > 1:
        raise UserError(f'variants {" and ".join(chosen)} exclude each other -> give one dictionary')
    return apply_variants(
        mocov1.get_config().unlock(),
        ','.join([*names, *chosen]),  # the dictionary comes last, because its size depends on the data
        {
            'end_to_end': end_to_end,
            'memory_bank': memory_bank,
            'moco': lambda c: None,
            'cifar10': mocov1.cifar10,
            'digits': mocov1.digits,
            'folder': variants.folder,
            'continue': variants.continued,
            'tiny': mocov1.tiny,
        },
    )


def end_to_end(c: ConfigDict) -> None:
    """The keys of the batch, through which the gradient flows as well."""
    temperature = c.method.temperature
    c.method = base_config('end_to_end').method
    c.method.temperature = temperature


def memory_bank(c: ConfigDict) -> None:
    """Keys drawn from a memory bank of all images, as many as the queue has."""
    queue_size, temperature = c.method.queue_size, c.method.temperature
    c.method = base_config('memory_bank').method
    c.method.update(num_negatives=queue_size, temperature=temperature)
