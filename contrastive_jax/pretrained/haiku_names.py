"""Maps the names of BYOL's checkpoints to torchvision's. They are those of the Haiku ResNet in `utils/networks.py`.

A convolution is named like 'res_net50/~/block_group_0/~/block_2/~/conv_1', and its array has the same layout as ours.
A running statistic has three arrays: 'average', which is used, and 'hidden' and 'counter', from which it is computed.
"""

import re
from collections.abc import Mapping

import numpy as np

KINDS = {'conv': 'conv', 'batchnorm': 'bn'}
SHORTCUT = {'conv': 'downsample.0', 'batchnorm': 'downsample.1'}
LEAVES = {
    'w': 'weight',
    'scale': 'weight',
    'offset': 'bias',
    '~/mean_ema/average': 'running_mean',
    '~/var_ema/average': 'running_var',
}
BLOCK = re.compile(r'(?:.*/)?block_group_(\d+)/~/block_(\d+)/~/(?:(shortcut)_)?(conv|batchnorm)(?:_(\d+))?')
STEM = re.compile(r'(?:.*/)?initial_(conv|batchnorm)(?:_1)?')


def from_haiku(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames arrays 'params/MODULE/LEAF' and 'state/MODULE/LEAF' to torchvision's names, and changes to its layout.

    Names that are not of a ResNet are unchanged.
    """
    return {_torch_name(name): _torch_array(name, x) for name, x in state.items()}


def _torch_name(name: str) -> str:
    for leaf, theirs in LEAVES.items():
        module = _module(name.removesuffix(f'/{leaf}')) if name.endswith(f'/{leaf}') else ''
        if module:
            return f'{module}.{theirs}'
    return name


def _module(name: str) -> str:
    if match := STEM.fullmatch(name):
        return f'{KINDS[match[1]]}1'
    if not (match := BLOCK.fullmatch(name)):
        return ''
    group, block, shortcut, kind, layer = match.groups()
    if bool(shortcut) == bool(layer):
        return ''
    return f'layer{int(group) + 1}.{block}.' + (SHORTCUT[kind] if shortcut else f'{KINDS[kind]}{int(layer) + 1}')


def _torch_array(name: str, x: np.ndarray) -> np.ndarray:
    if name.endswith('/w'):
        return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x
    return x.reshape(-1) if x.shape[:-1] == (1, 1, 1) else x  # batch norm: [1, 1, 1, C]
