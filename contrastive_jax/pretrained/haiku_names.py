"""BYOL's networks, under torchvision's names: Haiku's ResNet, as the authors' `utils/networks.py` arranges it.

A ResNet is there 'res_net50/~/block_group_0/~/block_2/~/conv_1', and its arrays are laid out as ours. A running
statistic has three: 'average', which is used, and 'hidden' and 'counter', of which it was made.
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
    """Arrays by 'params/MODULE/LEAF' and 'state/MODULE/LEAF', as torchvision has them. Others keep their names."""
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
    return x.reshape(-1) if x.shape[:-1] == (1, 1, 1) else x  # a batch norm's: [1, 1, 1, C]
