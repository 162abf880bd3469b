"""Writes an encoder as a PyTorch module: a Python file of its own, which needs torch alone, and its weights beside it.

It is for networks that torchvision and timm do not have, and whose state dict is of no use without a class. The code is
put together from the files in `torch_code`; the shape of the network is a JSON in it. The class takes images and holds
the input normalization.
"""

import json
import string
import sys
from pathlib import Path
from typing import Any

import contrastive_jax
from contrastive_jax.errors import UserError
from contrastive_jax.models.cpc import CPCEncoder
from contrastive_jax.models.resnet import PADDINGS, ResNet
from contrastive_jax.models.split import Split
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained import encoder_file, writers
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.state_dicts import state_dict
from contrastive_jax.workdir.atomic import write_atomically

CODE = Path(__file__).with_name('torch_code')
# The fields of our modules that shape a network.
VIT = ('width', 'depth', 'num_heads', 'mlp_ratio', 'qkv_bias', 'layer_norm_epsilon', 'patch_size', 'stem', 'position',
       'bn_epsilon', 'bn_momentum')  # fmt: skip
CPC = ('stage_sizes', 'bottlenecks', 'channels', 'patch_size', 'patch_stride', 'stem', 'norm')


def weights_of(path: Path) -> Path:
    """The file of weights that belongs to a Python file."""
    return path.with_name(f'{path.stem}_weights.pth')


def check_name(path: Path) -> None:
    """Raises UserError if Python cannot import a file of this name."""
    if not path.stem.isidentifier():
        raise UserError(f'{path.name} cannot be imported by Python -> name it with letters, digits and _ only')
    if path.stem in (*sys.stdlib_module_names, 'torch', 'numpy'):
        raise UserError(f'{path.name} would hide the module {path.stem} of Python or torch -> choose another name')


def write(path: Path, encoder: Encoder) -> list[str]:
    """Writes the Python file and the file of weights.

    Args:
      path: the Python file; the weights are put beside it, see `weights_of`.
      encoder: as it was loaded, or for another image size.

    Returns:
      What a user of the files must know, line by line.

    Raises:
      UserError: Python cannot import such a file, or the encoder is a class of the user's own.
      OSError: a file cannot be written.
    """
    check_name(path)
    text, weights, metadata = code(path, encoder), weights_of(path), encoder_file.beside_other_names(encoder)
    write_atomically(weights, lambda temporary: writers.write_torch(temporary, state_dict(encoder), metadata))
    write_atomically(path, text.encode())
    return [f'the weights are in {weights.name}: keep both in one folder, and `import {path.stem}`']


def code(path: Path, encoder: Encoder) -> str:
    """The content of the Python file.

    Raises:
      UserError: the encoder is a class of the user's own.
    """
    kind, parts, config = _network(encoder)
    policy = encoder.policy
    config |= {'image_size': encoder.image_size, 'mean': list(policy.mean), 'std': list(policy.std)}
    config |= {'encoder': encoder.architecture, 'source': encoder.source}
    channels, fixed = encoder.channels, isinstance(encoder.module, VisionTransformer)
    size = str(encoder.image_size) if fixed else 'H'
    values = {
        'module': path.stem,
        'weights': weights_of(path).name,
        'network': kind,
        'channels': channels,
        'features': encoder.num_features,
        'images': f'uint8[n, {channels}, {size}, {size if fixed else "W"}]',
        'colors': 'RGB' if channels == 3 else f'of {channels} channels',
        'sizes': f'It has positions for {encoder.image_size} x {encoder.image_size} pixels.'
        if fixed
        else f'It was trained with {encoder.image_size} x {encoder.image_size} pixels.',
        'config': '{\n' + ',\n'.join(f'  {json.dumps(key)}: {json.dumps(x)}' for key, x in config.items()) + '\n}',
        'version': contrastive_jax.__version__,
    }
    files = ('begin', f'color_{policy.color_space}', *parts, 'end')
    return ''.join(string.Template((CODE / f'{file}.py.txt').read_text('utf-8')).substitute(values) for file in files)


def _network(encoder: Encoder) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """The class of the network, the files that hold it, and the values that shape it.

    Raises:
      UserError: the encoder is a class of the user's own.
    """
    module = encoder.module
    if isinstance(module, Split) and isinstance(module.l, ResNet):
        return 'Split', ('resnet', 'split'), _resnet(module.l)
    if isinstance(module, ResNet):
        return 'ResNet', ('resnet',), _resnet(module)
    if isinstance(module, VisionTransformer):
        tokens = 1 + (encoder.image_size // module.patch_size) ** 2
        return 'ViT', ('vit',), {**{name: getattr(module, name) for name in VIT}, 'tokens': tokens}
    if isinstance(module, CPCEncoder):
        return 'CPC', ('cpc',), {name: getattr(module, name) for name in CPC}
    raise UserError(
        f'{encoder.architecture["name"]} is a class of your own, which has no code for PyTorch here -> write a '
        '.jaxexport file, which needs jax alone'
    )


def _resnet(module: ResNet) -> dict[str, Any]:
    padding, pool = PADDINGS[module.padding]
    return {
        'block': module.block,
        'stage_sizes': module.stage_sizes,
        'width': module.width * module.width_multiplier,
        'input_channels': module.input_channels,
        'stem': module.stem_convolutions(),
        'stem_relu': module.stem_relu,
        'pool': pool if module.stem_pools else '',
        'padding': padding,
        'sk_ratio': module.sk_ratio,
        'bn_epsilon': module.bn_epsilon,
        'bn_momentum': module.bn_momentum,
    }
