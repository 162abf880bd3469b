"""Detects which encoder a state dict belongs to, from its names and shapes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from contrastive_jax.errors import UserError
from contrastive_jax.models.patch_embed import CONV_STEM_STRIDE
from contrastive_jax.models.positions import sincos_position
from contrastive_jax.models.resnet import RESNETS, ResNet
from contrastive_jax.models.split import Split
from contrastive_jax.models.vit import VITS, VisionTransformer

POSITION = 'pos_embed'
FIRST = ('conv1.weight', 'patch_embed.proj.weight', 'patch_embed.proj.0.weight')  # convolutions of images
SK_RATIO = 0.0625  # SimCLR v2's; no other published encoder has selective kernels
PATCH = 16  # the patch size of a ViT for which a config gives none
HEAD_WIDTHS = (64, 32)  # the usual channels of a head, width / num_heads, first what is more usual
CROP = {'imagenet': 224, 'cifar': 32}  # stem of a ResNet -> the usual image size; its weights do not record the size

State = Mapping[str, np.ndarray]


def describe(state: State, heads_of: str) -> dict[str, Any]:
    """The section `encoder` of a config that a state dict without head belongs to.

    Args:
      state: arrays by torchvision's or timm's names, or those of one of CMC's halves.
      heads_of: whose ViTs these are, which decides the number of attention heads: 'vit' (MoCo v3, whose small ViT has
        12 heads) or 'dino' (whose small ViT has 6). '': unknown.

    Raises:
      UserError: it is neither a ResNet nor a ViT, or a ViT whose number of heads is not known.
    """
    if 'conv1.weight' in state:
        return _resnet(state)
    if 'cls_token' in state:
        return _vit(state, heads_of)
    raise UserError('it is neither a ResNet nor a ViT -> name the encoder, such as encoder=resnet50')


def text(config: Mapping[str, Any]) -> str:
    """A section `encoder` as the text that the argument `encoder` takes: 'vit_small,num_heads=6'; lists are 3x4x6x3."""
    values = {field: x for field, x in config.items() if field != 'name' and x is not None}
    parts = (f'{field}={"x".join(map(str, x)) if isinstance(x, list | tuple) else x}' for field, x in values.items())
    return ','.join([str(config['name']), *parts])


def assumptions(module: nn.Module) -> str:
    """What the features of an encoder depend on and its weights do not tell, and the options for something else."""
    if isinstance(module, VisionTransformer):
        return (
            f'{module.num_heads} heads, GELU, layer norm eps {module.layer_norm_epsilon:g}, features of the class '
            'token -> otherwise encoder=NAME,num_heads=...,layer_norm_epsilon=...'
        )
    encoder = module.l if isinstance(module, Split) else module
    if not isinstance(encoder, ResNet):
        return 'nothing'
    _, kernel_size, stride, padding = encoder.stem_convolutions()[0]
    padding = kernel_size // 2 if padding == 'symmetric' else padding
    padding = encoder.padding if encoder.padding != 'torch' and encoder.stem_padding is None else padding
    hint = ' (solo-learn pads by 2)' if encoder.stem == 'cifar' and padding == 1 else ''
    return (
        f'the stem has stride {stride}, padding {padding}{hint}, {"a" if encoder.stem_relu else "no"} ReLU and '
        f'{"a" if encoder.stem_pools else "no"} max-pooling; ReLU, '
        f'stride in the 3x3 convolutions, average pooling, batch norm eps {encoder.bn_epsilon:g} -> otherwise '
        '--stem_stride, --stem_padding, --stem_pool, or encoder=NAME,bn_epsilon=...'
    )


def channels(state: State) -> int:
    """The number of channels of the images: the inputs of the first convolution; 3 if there is none of a known name."""
    first = next((state[name] for name in FIRST if name in state), None)
    return first.shape[1] if first is not None and first.ndim == 4 else 3


def image_size(config: Mapping[str, Any], state: State) -> int:
    """Height and width of the images that it was trained on, or the usual size, if the weights do not record it."""
    patch = config.get('patch_size', PATCH)
    if POSITION in state and state[POSITION].ndim == 3:
        return math.isqrt(state[POSITION].shape[1] - 1) * patch
    if 'cls_token' in state:
        return max(round(224 / patch), 1) * patch
    return CROP.get(config.get('stem', ''), 224)


def check_position(position: np.ndarray) -> str:
    """Compares positions with the fixed sin-cos positions of MoCo v3; returns '' or how they differ."""
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
    last = state.get('conv3.weight', state['conv1.weight'])  # the last convolution of the stem; ResNet-D has three
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
    kind = {'width': width, 'depth': depth, 'stem': 'conv' if conv else 'patch'}
    patch = CONV_STEM_STRIDE if conv else state['patch_embed.proj.weight'].shape[-1]
    names = [
        name
        for name, fields in VITS.items()
        if name.startswith(heads_of) and all(fields.get(field, 'patch') == value for field, value in kind.items())
    ]
    if len({VITS[name]['num_heads'] for name in names}) == 1:
        return {'name': names[0], 'patch_size': patch, **_options(state, width)}
    if names:
        small = {'name': 'vit_small', **({} if patch == PATCH else {'patch_size': patch}), **_options(state, width)}
        raise UserError(
            'it has the positions of MoCo v3, whose ViT-S has 12 heads, but may be another ViT with 6 heads -> give '
            f'encoder={text(small)} (MoCo v3) or, with 6 heads, encoder={text({**small, "num_heads": 6})}'
        )
    given = {'width': width, 'depth': depth, **({'stem': 'conv'} if conv else {'patch_size': patch})}
    heads = next((width // each for each in HEAD_WIDTHS if width % each == 0), 1)
    named = {'name': f'{heads_of or "vit"}_small', **given, **_options(state, width), 'num_heads': heads}
    raise UserError(
        f'it is a ViT of width {width} and depth {depth}, and weights do not record its number of heads -> give '
        f'encoder={text(named)} if it has {heads}, and otherwise the same with its own num_heads'
    )


def _options(state: State, width: int) -> dict[str, Any]:
    """The fields of a ViT's blocks that its shapes tell, where they are not the usual ones."""
    hidden = state['blocks.0.mlp.fc1.weight'].shape[0] if 'blocks.0.mlp.fc1.weight' in state else 4 * width
    biased = 'blocks.0.attn.qkv.bias' in state or 'blocks.0.attn.qkv.weight' not in state
    return {**({} if hidden == 4 * width else {'mlp_ratio': hidden / width}), **({} if biased else {'qkv_bias': False})}
