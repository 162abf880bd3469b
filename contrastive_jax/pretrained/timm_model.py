"""An encoder as a model of timm: the content of `config.json` in a folder that timm's `create_model` loads."""

from typing import Any

from contrastive_jax.data.images import crop_fraction
from contrastive_jax.errors import UserError
from contrastive_jax.models.resnet import RESNETS, ResNet
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained import state_dicts
from contrastive_jax.pretrained.encoder import Encoder

EPSILON = 1e-6  # of its ViTs
# (width, patch size) -> the architecture of timm; other ViTs are described as changes of the nearest one.
VITS = {
    (192, 16): 'vit_tiny_patch16_224', (384, 32): 'vit_small_patch32_224', (384, 16): 'vit_small_patch16_224',
    (384, 8): 'vit_small_patch8_224', (768, 32): 'vit_base_patch32_224', (768, 16): 'vit_base_patch16_224',
    (768, 8): 'vit_base_patch8_224', (1024, 32): 'vit_large_patch32_224', (1024, 16): 'vit_large_patch16_224',
}  # fmt: skip


def config(encoder: Encoder) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
      UserError: timm has no such network, or does not normalize images so.
    """
    module, size, policy = encoder.module, encoder.image_size, encoder.policy
    if isinstance(module, ResNet):
        architecture, arguments = _resnet(module)
        ends = {'first_conv': 'conv1', 'classifier': 'fc'}
    elif isinstance(module, VisionTransformer):
        architecture, arguments = _vit(module, size)
        ends = {'first_conv': 'patch_embed.proj', 'classifier': 'head'}
    else:
        raise UserError(f'timm has no {encoder.architecture["name"]} -> {state_dicts.elsewhere(encoder)}')
    if encoder.channels != 3:
        arguments = {**arguments, 'in_chans': encoder.channels}
    return {
        'architecture': architecture,
        'num_classes': 0,
        'num_features': encoder.num_features,
        'global_pool': 'avg' if isinstance(module, ResNet) else 'token',
        **({'model_args': arguments} if arguments else {}),
        'pretrained_cfg': {
            'custom_load': False,
            'input_size': [encoder.channels, size, size],
            'fixed_input_size': isinstance(module, VisionTransformer),
            'interpolation': policy.interpolation,
            'crop_pct': crop_fraction(size),
            'crop_mode': 'center',
            'mean': list(policy.mean),
            'std': list(policy.std),
            'num_classes': 0,
            **ends,
        },
    }


def _resnet(module: ResNet) -> tuple[str, dict[str, Any]]:
    """The architecture, and what differs from it.

    Raises:
      UserError: timm has no such ResNet.
    """
    if different := [*state_dicts.resnet_differences(module), *state_dicts.unlike_in_size(module)]:
        raise UserError(f"the ResNet has {', '.join(different)}, unlike timm's -> {state_dicts.SELF_CONTAINED}")
    depths, width = tuple(module.stage_sizes), module.width * module.width_multiplier
    of_block = {name: known['stage_sizes'] for name, known in RESNETS.items() if known['block'] == module.block}
    named = [name for name, sizes in of_block.items() if sizes == depths and name != 'resnet_tiny']
    arguments: dict[str, Any] = {} if named else {'layers': depths}
    if width != state_dicts.WIDTH:
        arguments['channels'] = [width * 2**stage for stage in range(state_dicts.STAGES)]
    return (named or ['resnet50' if module.block == 'bottleneck' else 'resnet18'])[0], arguments


def _vit(module: VisionTransformer, size: int) -> tuple[str, dict[str, Any]]:
    """The architecture, and all that shapes it.

    Raises:
      UserError: timm has no such ViT.
    """
    if module.stem != 'patch':
        raise UserError(f"timm has no ViT with MoCo v3's convolutional stem -> {state_dicts.SELF_CONTAINED}")
    if module.layer_norm_epsilon != EPSILON:
        raise UserError(
            f"the ViT has layer norms with eps={module.layer_norm_epsilon:g}, and timm's have {EPSILON:g} -> choose "
            'names transformers, or write a .py file'
        )
    distances = {name: abs(module.width - width) + abs(module.patch_size - p) for (width, p), name in VITS.items()}
    return min(distances, key=distances.__getitem__), {
        'img_size': size,
        'patch_size': module.patch_size,
        'embed_dim': module.width,
        'depth': module.depth,
        'num_heads': module.num_heads,
        'mlp_ratio': module.mlp_ratio,
        'qkv_bias': module.qkv_bias,
    }
