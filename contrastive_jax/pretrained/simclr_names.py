"""Maps the names of SimCLR's checkpoints to torchvision's.

TensorFlow numbers layers in the order in which the authors' `resnet.py` creates them: 'conv2d', 'conv2d_1', ... and
'batch_normalization', ... These are the stem, then for each block the projection of the shortcut, which only the first
block of a stage has, and the convolutions of the block, each with a batch norm. A selective kernel is three
convolutions, of which the last one, for the mixing weights, has no norm; such a ResNet has three convolutions in its
stem. The sequence of kernel sizes determines the ResNet, because on no line of BLOCKS one of the two sequences is a
prefix of the other.
"""

import re
from collections.abc import Mapping

import numpy as np

from contrastive_jax.errors import UserError

SELECTIVE = ('sk2.conv', 'sk2.reduce_conv', 'sk2.mix_conv')
# The kernel sizes of a block without projection, those of a block with projection, and the names of its convolutions.
BLOCKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ('131', '1131', ('conv1', 'conv2', 'conv3')),
    ('13111', '113111', ('conv1', *SELECTIVE, 'conv3')),
    ('33', '133', ('conv1', 'conv2')),
)
LEAVES = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
NORMS = {'downsample.0': 'downsample.1', 'sk2.conv': 'sk2.bn', 'sk2.reduce_conv': 'sk2.reduce_bn'}


def from_simclr(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames arrays 'conv2d_1/kernel', 'batch_normalization_1/gamma', ... to torchvision's names and layout.

    Other names are unchanged.

    Raises:
      UserError: the convolutions do not form a ResNet of SimCLR.
    """
    count = sum(bool(re.fullmatch(r'conv2d(_\d+)?/kernel', name)) for name in state)
    kernels = [f'{_numbered("conv2d", i)}/kernel' for i in range(count)]
    if missing := [name for name in kernels if name not in state]:
        raise UserError(f'{missing[0]} is missing')
    modules = _modules([state[name].shape for name in kernels])
    arrays = {f'{module}.weight': state[name] for module, name in zip(modules, kernels, strict=True)}
    theirs = dict(zip(arrays, kernels, strict=True))
    norms = [_norm(module) for module in modules if not module.endswith('mix_conv')]
    for i, norm in enumerate(norms):
        theirs |= {f'{norm}.{ours}': f'{_numbered("batch_normalization", i)}/{leaf}' for leaf, ours in LEAVES.items()}
    found = {ours: state[name] for ours, name in theirs.items() if name in state}
    rest = {name: x for name, x in state.items() if name not in theirs.values()}
    return {**{ours: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for ours, x in found.items()}, **rest}


def _numbered(kind: str, i: int) -> str:
    return f'{kind}_{i}' if i else kind


def _norm(module: str) -> str:
    """The batch norm that follows a convolution."""
    for layer, norm in NORMS.items():
        if module.endswith(layer):
            return module.removesuffix(layer) + norm
    return module.replace('conv', 'bn')


def _modules(shapes: list[tuple[int, ...]]) -> list[str]:
    """torchvision's names of the convolutions, in the order in which they are created."""
    sizes = ''.join(str(shape[0]) if len(shape) == 4 and shape[0] < 10 else '?' for shape in shapes)
    for plain, projecting, layers in BLOCKS:
        if match := re.fullmatch(f'(7|333|3)((?:{projecting}(?:{plain})*)+)', sizes):
            names = [f'conv{i + 1}' for i in range(len(match[1]))]
            stage = block = 0
            for word in re.findall(f'{projecting}|{plain}', match[2]):
                stage, block = (stage + 1, 0) if word == projecting else (stage, block + 1)
                own = ('downsample.0', *layers) if word == projecting else layers
                names += [f'layer{stage}.{block}.{layer}' for layer in own]
            return names
    raise UserError(f'its {len(shapes)} convolutions, with kernel sizes {sizes}, do not form a ResNet of SimCLR')
