"""Maps our parameter paths to the names in torchvision and timm, which DINO and MoCo v3 follow, and to Detectron2's.

The names are computed from our paths, one for each array of an encoder, so that both directions use one table.
"""

import re
from collections.abc import Iterable

import numpy as np

LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}

# Replacements in the path of our modules, joined with dots; applied in this order.
MODULES: tuple[tuple[str, str], ...] = (
    (r'^l\.', 'l_to_ab.'),  # CMC's halves
    (r'^ab\.', 'ab_to_l.'),
    (r'\b(layer\d+|blocks)_(\d+)', r'\1.\2'),
    (r'\bdownsample_conv$', 'downsample.0'),
    (r'\bdownsample_bn$', 'downsample.1'),
    (r'\bmlp_(fc\d)$', r'mlp.\1'),
)
STEM_LAYERS = {'conv': 0, 'bn': 1}  # MoCo v3's convolutional stem is a Sequential: (convolution, norm, ReLU) x 4
COUNTER = 'num_batches_tracked'  # torch's count of batches, which neither torch's evaluation nor ours uses


def torch_names(paths: Iterable[str]) -> dict[str, str]:
    """Maps each of our paths, such as 'params/layer1_0/conv1/kernel', to its name in a state dict.

    That name is 'layer1.0.conv1.weight' here. All paths of an encoder are needed to know its stem.
    """
    paths = list(paths)
    conv_stem = 'params/patch_embed/conv_0/kernel' in paths
    return {path: _torch_name(path, conv_stem) for path in paths}


def _torch_name(path: str, conv_stem: bool) -> str:
    _, *modules, leaf = path.split('/')
    module = '.'.join(modules)
    for pattern, replacement in MODULES:
        module = re.sub(pattern, replacement, module)
    if conv_stem and modules[:1] == ['patch_embed']:
        kind, _, i = modules[1].partition('_')
        module = f'patch_embed.proj.{3 * int(i) + STEM_LAYERS[kind] if i else 12}'
    return f'{module}.{LEAVES.get(leaf, leaf)}' if module else leaf


def from_torch(path: str, x: np.ndarray) -> np.ndarray:
    """torch's array layout to ours: convolutions OIHW -> HWIO, linear layers [out, in] -> [in, out]."""
    if not path.endswith('/kernel'):
        return x
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def to_torch(path: str, x: np.ndarray) -> np.ndarray:
    """Our array layout to torch's: convolutions HWIO -> OIHW, linear layers [in, out] -> [out, in]."""
    if not path.endswith('/kernel'):
        return x
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T


def detectron2_name(name: str) -> str:
    """torchvision's name of a ResNet's array to Detectron2's, as in MoCo's `convert-pretrain-to-detectron2.py`."""
    name = name if name.startswith('layer') else f'stem.{name}'
    name = re.sub(r'^layer(\d)', lambda match: f'res{int(match[1]) + 1}', name)
    name = re.sub(r'\bbn(\d)', r'conv\1.norm', name)
    return name.replace('downsample.0', 'shortcut').replace('downsample.1', 'shortcut.norm')
