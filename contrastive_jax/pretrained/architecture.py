"""Which encoder a state dict is of, told by its names and shapes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from contrastive_jax.errors import UserError
from contrastive_jax.models.resnet import RESNETS
from contrastive_jax.models.vit import VITS, sincos_position

POSITION = 'pos_embed'
SK_RATIO = 0.0625  # of SimCLR v2, the only one with selective kernels
CROP = {'imagenet': 224, 'cifar': 32}  # what ResNets with that stem are trained on; nothing depends on it

State = Mapping[str, np.ndarray]


def describe(state: State, heads_of: str) -> dict[str, Any]:
    """The section `encoder` that a state dict, without head, belongs to.

    Args:
      state: arrays by torchvision's or timm's names, or those of one of CMC's halves.
      heads_of: 'vit' or 'dino': whose ViTs these are; their small one has 12 heads there and 6 here. '': unknown.

    Raises:
      UserError: it is neither a ResNet nor a ViT, or a ViT whose number of heads is not known.
    """
    if 'conv1.weight' in state:
        return _resnet(state)
    if 'cls_token' in state:
        return _vit(state, heads_of)
    raise UserError('it is neither a ResNet nor a ViT -> name the encoder with --encoder')


def image_size(config: Mapping[str, Any], state: State) -> int:
    """Height and width of the images that it was trained on, as far as the weights tell."""
    if POSITION in state and state[POSITION].ndim == 3:
        return math.isqrt(state[POSITION].shape[1] - 1) * config.get('patch_size', 16)
    return CROP.get(config.get('stem', ''), 224)


def check_position(position: np.ndarray) -> str:
    """'' if these are the fixed sin-cos positions of MoCo v3, else what is wrong."""
    if position.ndim != 3 or position.shape[0] != 1 or math.isqrt(position.shape[1] - 1) ** 2 != position.shape[1] - 1:
        return f'its {POSITION} has shape {list(position.shape)}, not that of a square grid'
    if position.shape[2] % 4:
        return f'its {POSITION} has {position.shape[2]} channels, which sin-cos positions cannot have'
    side = math.isqrt(position.shape[1] - 1)
    error = np.abs(position[0] - sincos_position(side, side, position.shape[2])).max()
    return '' if error < 1e-4 else f'its {POSITION} differs from sin-cos positions by up to {error:.2g}'


def _resnet(state: State) -> dict[str, Any]:
    block = 'bottleneck' if 'layer1.0.conv3.weight' in state else 'basic'
    blocks = {match.groups() for name in state if (match := re.match(r'layer(\d+)\.(\d+)\.', name))}
    stages = sorted({int(stage) for stage, _ in blocks})
    sizes = tuple(sum(int(stage) == n for stage, _ in blocks) for n in stages)
    last = state.get('conv3.weight', state['conv1.weight'])  # of the stem; ResNet-D's has three
    stem, width = last.shape[0], state.get('layer1.0.conv1.weight', last).shape[0]

    config: dict[str, Any] = {'name': 'resnet50' if block == 'bottleneck' else 'resnet18'}
    names = [name for name, fields in RESNETS.items() if (fields['stage_sizes'], fields['block']) == (sizes, block)]
    if named := [name for name in names if RESNETS[name].get('width', 64) == width] or names[:1]:
        config['name'] = named[0]
    known = RESNETS[config['name']]
    if sizes != known['stage_sizes']:
        config['stage_sizes'] = list(sizes)
    base = known.get('width', 64)
    if width > base and width % base == 0:
        config['width_multiplier'] = width // base
    elif width != base:
        config['width'] = width
    if stem != width:
        config['stem_width'] = stem
    if any('.sk2.' in name for name in state):
        config['sk_ratio'] = SK_RATIO
    cifar = 'conv3.weight' not in state and state['conv1.weight'].shape[-1] == 3
    return {**config, 'stem': 'cifar' if cifar else 'imagenet'}


def _vit(state: State, heads_of: str) -> dict[str, Any]:
    width = state['cls_token'].shape[-1]
    depth = len({name.split('.')[1] for name in state if name.startswith('blocks.')})
    conv = 'patch_embed.proj.0.weight' in state
    fixed = POSITION not in state or not check_position(state[POSITION])
    heads_of = heads_of or ('' if fixed else 'dino')
    if not heads_of:
        raise UserError(
            'its positions are those of MoCo v3, whose ViT-S has 12 heads, but nothing says whose it is -> give '
            '--encoder=vit_small (MoCo v3) or, with 6 heads, --encoder=vit_small,num_heads=6'
        )
    stem = 'conv' if conv else 'patch'
    kind = {'width': width, 'depth': depth, 'stem': stem}
    for name, fields in VITS.items():
        if name.startswith(heads_of) and all(fields.get(field, 'patch') == value for field, value in kind.items()):
            return {'name': name, 'patch_size': 16 if conv else state['patch_embed.proj.weight'].shape[-1]}
    raise UserError(
        f'it is a ViT of width {width} and depth {depth}, whose number of heads weights do not tell -> give it, e.g. '
        f'--encoder={heads_of}_small,width={width},depth={depth},num_heads=...'
    )
