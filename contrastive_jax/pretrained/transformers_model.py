"""An encoder as a model of transformers: `config.json`, `preprocessor_config.json` and the names of its weights."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from contrastive_jax.data.images import crop_fraction
from contrastive_jax.errors import UserError
from contrastive_jax.models.resnet import BLOCKS, ResNet
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained import state_dicts
from contrastive_jax.pretrained.encoder import Encoder

RESAMPLING = {'bilinear': 2, 'bicubic': 3}  # Pillow's numbers, which transformers saves

# torchvision's and timm's names -> those of transformers: (regular expression, replacement), applied in this order.
RESNET_NAMES: tuple[tuple[str, str], ...] = (
    (r'^conv1\.', 'embedder.embedder.convolution.'),
    (r'^bn1\.', 'embedder.embedder.normalization.'),
    *((rf'^layer{n + 1}\.(\d+)\.', rf'encoder.stages.{n}.layers.\1.') for n in range(8)),
    *((rf'\.conv{n + 1}\.', f'.layer.{n}.convolution.') for n in range(3)),
    *((rf'\.bn{n + 1}\.', f'.layer.{n}.normalization.') for n in range(3)),
    (r'\.downsample\.0\.', '.shortcut.convolution.'),
    (r'\.downsample\.1\.', '.shortcut.normalization.'),
)
VIT_NAMES: tuple[tuple[str, str], ...] = (
    (r'^patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
    (r'^pos_embed$', 'embeddings.position_embeddings'),
    (r'^cls_token$', 'embeddings.cls_token'),
    (r'^norm\.', 'layernorm.'),
    (r'^blocks\.', 'encoder.layer.'),
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
    (r'\.attn\.(query|key|value)\.', r'.attention.attention.\1.'),
    (r'\.attn\.proj\.', '.attention.output.dense.'),
    (r'\.mlp\.fc1\.', '.intermediate.dense.'),
    (r'\.mlp\.fc2\.', '.output.dense.'),
)


def config(encoder: Encoder) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
      UserError: transformers has no such network.
    """
    module = encoder.module
    if isinstance(module, ResNet):
        if different := state_dicts.resnet_differences(module):
            raise UserError(
                f'the ResNet has {", ".join(different)}, unlike those of transformers -> {state_dicts.SELF_CONTAINED}'
            )
        expansion, (stem, *_) = BLOCKS[module.block][-1][2], module.stem_convolutions()[0]
        width = module.width * module.width_multiplier * expansion
        return {
            'model_type': 'resnet',
            'architectures': ['ResNetModel'],
            'num_channels': encoder.channels,
            'embedding_size': stem,
            'hidden_sizes': [width * 2**stage for stage in range(len(module.stage_sizes))],
            'depths': list(module.stage_sizes),
            'layer_type': module.block,
            'hidden_act': 'relu',
            'downsample_in_first_stage': False,
            'downsample_in_bottleneck': False,
        }
    if isinstance(module, VisionTransformer) and module.stem == 'patch':
        return {
            'model_type': 'vit',
            'architectures': ['ViTModel'],
            'num_channels': encoder.channels,
            'image_size': encoder.image_size,
            'patch_size': module.patch_size,
            'hidden_size': module.width,
            'num_hidden_layers': module.depth,
            'num_attention_heads': module.num_heads,
            'intermediate_size': int(module.width * module.mlp_ratio),
            'qkv_bias': module.qkv_bias,
            'layer_norm_eps': module.layer_norm_epsilon,
            'hidden_act': 'gelu',
            'pooler_act': 'linear',
        }
    name = "ViT with MoCo v3's convolutional stem" if isinstance(module, VisionTransformer) else ''
    name = name or encoder.architecture['name']
    raise UserError(f'transformers has no {name} -> {state_dicts.elsewhere(encoder)}')


def preprocessor(encoder: Encoder) -> dict[str, Any]:
    """The content of `preprocessor_config.json`, for `AutoImageProcessor`."""
    size, policy = encoder.image_size, encoder.policy
    return {
        'image_processor_type': 'BitImageProcessor',  # resizes the short side, and crops the center
        'do_convert_rgb': encoder.channels == 3,
        'do_resize': True,
        'size': {'shortest_edge': round(size / crop_fraction(size))},
        'resample': RESAMPLING[policy.interpolation],
        'do_center_crop': True,
        'crop_size': {'height': size, 'width': size},
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(policy.mean),
        'image_std': list(policy.std),
    }


def rename(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under the names of transformers.

    A ViT gets a pooler that returns the class token unchanged: without one, transformers makes one with random weights.

    Args:
      state: the arrays by torchvision's or timm's names.
    """
    if 'cls_token' not in state:
        return {_rename(name, RESNET_NAMES): x for name, x in state.items()}
    renamed = {}
    for name, x in state.items():
        if '.attn.qkv.' in name:
            for part, values in zip(('query', 'key', 'value'), np.split(x, 3), strict=True):
                renamed[_rename(name.replace('qkv', part), VIT_NAMES)] = values
        else:
            renamed[_rename(name, VIT_NAMES)] = x
    width = state['cls_token'].shape[-1]
    identity = {'pooler.dense.weight': np.eye(width), 'pooler.dense.bias': np.zeros(width)}
    return renamed | {name: x.astype(np.float32) for name, x in identity.items()}


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name
