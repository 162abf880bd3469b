"""Refuses networks that are near a supported one, by the name of what makes them different.

Some differences have arrays of their own, such as squeeze-and-excitation, and are found by names and shapes. Others
have none, such as blur pooling: they are known only from the name of the architecture, which many trainers save beside
the weights.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

SUPPORTED = (
    "torchvision's ResNets (basic or bottleneck blocks, any depth and width) and timm's plain ViTs with a class token"
)

# (a regular expression on an array's name after the prefix, what the network has)
ARRAYS: tuple[tuple[str, str], ...] = (
    (r'layer\d+\.\d+\.se\..*', 'squeeze-and-excitation or channel attention (SE, ECA) in its blocks'),
    (r'layer\d+\.\d+\.(attn|gc|ca|sa)\..*', 'attention in its ResNet blocks'),
    (r'(.*\.)?filt', 'blur pooling (anti-aliasing)'),
    (r'layer\d+\.\d+\.(conv\d\.(\d|conv|bn|fc).*|(convs|bns)\..*)', 'split convolutions (ResNeSt, Res2Net)'),
    (r'conv1\.[03]\.weight|stem\.[036]\.weight', 'a deep stem of three convolutions (ResNet-C, D, S, T)'),
    (r'stem\.conv\.weight', 'pre-activation blocks or another stem (ResNetV2, RegNet)'),
    (r'(reg_tokens?|register_tokens|storage_tokens)', 'register tokens (DINOv2, DINOv3)'),
    (r'embeddings\.register_tokens', 'register tokens (DINOv2, DINOv3)'),
    (r'dist_token|embeddings\.distillation_token', 'a distillation token (DeiT)'),
    (r'(blocks|encoder\.layer|layer|model\.layer)\.\d+\.(ls\d\.gamma|gamma_\d|lambda_\d|layer_scale\d\..*)',
     'LayerScale (DINOv2, DeiT III, CaiT, BEiT)'),
    (r'(.*\.)?(relative_position_(bias_table|index)|rel_pos(_bias)?\..*|rel_pos_[hw])', 'relative positions'),
    (r'(.*\.)?(rope|rope_embed)\..*', 'rotary positions'),
    (r'blocks\.\d+\.mlp\.(w12|w1|w2|w3|fc1_g|fc1_x|gate_proj)\..*', 'a gated MLP (SwiGLU)'),
    (r'blocks\.\d+\.attn\.(q_norm|k_norm|norm)\..*', 'normalized queries and keys'),
    (r'blocks\.\d+\.(attns|ffns)\..*', 'parallel branches in its blocks'),
    (r'(patch_embed\.norm|norm_pre)\..*', 'a norm around its patch embedding (dual patch norm, CLIP)'),
    (r'patch_embed\.(backbone|stem)\..*', 'a convolutional network before its patches (ViT hybrid)'),
    (r'fc_norm\..*', 'an average pool over its tokens (fc_norm)'),
    (r'attn_pool\..*', 'attention pooling (SigLIP)'),
)  # fmt: skip

# The same for names that other families of networks have.
FAMILIES: tuple[tuple[str, str], ...] = (
    (r'(.*\.)?patch_embed\.backbone\..*', 'a ViT hybrid, with a convolutional network before its patches'),
    (r'(.*\.)?stages\.\d+\.blocks\.\d+\.conv_dw\.weight|(.*\.)?stages\.\d+\.\d+\.dwconv\.weight', 'a ConvNeXt'),
    (r'(.*\.)?layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table', 'a Swin Transformer'),
    (r'(.*\.)?conv_stem\.weight', 'an EfficientNet or MobileNet'),
    (r'(.*\.)?features\.denseblock1\..*', 'a DenseNet'),
    (r'(.*\.)?stem\.conv\.weight', 'a ResNetV2, RegNet or another network with `stem.conv`'),
    (r'(.*\.)?conv1\.0\.weight', 'a ResNet with a deep stem of three convolutions (ResNet-C, D, S, T)'),
    (r'(.*\.)?embeddings\.patch_embeddings\.projection\.weight', 'a transformer of the transformers library'),
    (r'(.*\.)?features\.0\.weight', 'a VGG or AlexNet'),
)

# (a regular expression on the name of an architecture, what the network has)
ARCHITECTURES: tuple[tuple[str, str], ...] = (
    (r'resnetblur|blur_?pool|_blur', 'blur pooling'),
    (r'resnetaa|resnet\w*_?aa\d|anti_?alias', 'anti-aliased strides'),
    (r'resnet\d+_?v?1?[cdste](\b|_|$)', 'a deep stem or average pooling in its shortcuts (ResNet-C, D, S, T)'),
    (r'resnext|resnet\w*_32x\d', 'grouped convolutions'),
    (r'wide_?resnet|(^|[^a-z])wrn', 'blocks with wider middle layers'),
    (r'(^|[^a-z])(legacy_)?((se|eca|ska?|gc|cbam)_?res|senet)', 'channel attention'),
    (r'resnetv2|preact_?resnet|resnet\w*_bit', 'pre-activation blocks'),
    (r'resnest|res2ne|resnetrs|resnet\w*_gn|resnet\w*_(iabn|evos|frn)', 'other blocks or norms'),
    (r'dinov2|dinov3', 'LayerScale, registers or rotary positions (DINOv2, DINOv3)'),
    (r'_reg\d', 'register tokens'),
    (r'deit\w*distilled', 'a distillation token'),
    (r'deit3|(^|_)(cait|beit|eva(02)?|xcit)', 'LayerScale or another attention'),
    (r'vit\w*(relpos|rope|_rpn|_dpn|_dlittle|_dwee|_srelpos|parallel|_xp)', 'other norms or positions'),
    (r'vit\w*_(gap|avg)|_gap_', 'an average pool over its tokens'),
    (r'vit\w*(clip|siglip|quickgelu|metaclip)', 'the norms and activations of CLIP'),
    (r'vit\w*_r\d+_|vit\w*resnet|hybrid', 'a convolutional network before its patches'),
    (r'vit\w*_\d+x\d+_', 'parallel branches in its blocks'),
    (r'swiglu', 'a gated MLP'),
    (r'convnext|swin_|efficientnet|mobilenet|regnet|densenet|^vgg|inception|mixer', 'other layers'),
)

INVISIBLE = 2  # the number of first entries of ARCHITECTURES whose arrays are those of a plain network
NAMED = (
    'arch',
    'architecture',
    'model_name',
    'model',
    'backbone',
    'encoder',
    'base_model',
    'arch_name',
    'backbone_name',
)
OF_NETWORKS = ('backbone', 'model', 'encoder', 'pretrained_cfg', 'default_cfg')  # whose `name` is an architecture
HOLDERS = (
    'args', 'opt', 'opts', 'hyper_parameters', 'hparams', 'config', 'cfg', 'pretrained_cfg', 'default_cfg', 'backbone',
    'model', 'encoder', 'model_args', 'meta', 'kwargs',
)  # fmt: skip


def architecture_names(content: Any, holder: str = '', depth: int = 0) -> Iterator[tuple[str, str]]:
    """The names of architectures beside the weights in a file: (where, name), such as ('args.model', 'resnet50')."""
    if not isinstance(content, Mapping) or depth > 3:
        return
    for key in (*NAMED, 'name') if holder in OF_NETWORKS else NAMED:
        value = content.get(key)
        if isinstance(value, str) and len(value) < 100:
            yield key, value
    for key in HOLDERS:
        value = content.get(key)
        if isinstance(value, Mapping) and len(value) < 1000:
            yield from ((f'{key}.{inner}', name) for inner, name in architecture_names(value, key, depth + 1))


def by_architecture(content: Any, file_name: str) -> str:
    """What a file says beside its weights that its network is, if that is not supported; '' otherwise.

    The name of the file counts only for differences that its arrays cannot show.
    """
    if what := _first(file_name.lower(), ARCHITECTURES[:INVISIBLE], re.search):
        return f'its file name {file_name!r} names one with {what}'
    for where, name in architecture_names(content):
        if what := _first(name.lower(), ARCHITECTURES, re.search):
            return f'it names the architecture {name!r} ({where}), which has {what}'
    return ''


def by_arrays(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What makes a network another one than a plain ResNet or ViT; '' if nothing is known to.

    Args:
      shapes: the shapes of the encoder's arrays, by torchvision's or timm's names.
    """
    for name, shape in shapes.items():
        if re.fullmatch(r'layer\d+\.\d+\.downsample\.1\.weight', name) and len(shape) == 4:
            return f'average pooling in its shortcuts (ResNet-D; {name})'
        if what := _first(name, ARRAYS, re.fullmatch):
            return f'{what} ({name})'
    if 'bn1.weight' in shapes and not any(name.endswith('running_mean') for name in shapes):
        return 'norms without running statistics (group norm)'
    first, middle, last = (shapes.get(f'layer1.0.conv{i}.weight', ()) for i in (1, 2, 3))
    if len(middle) == 4 and len(first) == 4 and middle[1] != first[0]:
        return f'grouped convolutions (ResNeXt; layer1.0.conv2.weight {list(middle)})'
    if len(last) == 4 and len(middle) == 4 and last[0] in (middle[0], 2 * middle[0]):
        return f'blocks with wider middle layers (wide ResNet; layer1.0.conv2.weight {list(middle)})'
    if 'patch_embed.proj.weight' in shapes and 'cls_token' not in shapes:
        return 'no class token'
    return ''


def family(names: Iterator[str]) -> str:
    """The family of networks that names in a file belong to, if none of them is supported; '' if it is unknown."""
    for name in names:
        if what := _first(name, FAMILIES, re.fullmatch):
            return f'{what} ({name})'
    return ''


def _first(name: str, table: tuple[tuple[str, str], ...], match: Any) -> str:
    return next((what for pattern, what in table if match(pattern, name)), '')
