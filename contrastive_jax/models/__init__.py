"""Networks: encoders (ResNets, vision transformers), heads, and the two joined."""

from contrastive_jax.models.heads import MLP
from contrastive_jax.models.network import ENCODERS, Network, build, build_encoder, build_head
from contrastive_jax.models.norm import BatchNorm
from contrastive_jax.models.resnet import ResNet, resnet
from contrastive_jax.models.vit import VisionTransformer, sincos_position, vit

__all__ = [
    'ENCODERS',
    'MLP',
    'BatchNorm',
    'Network',
    'ResNet',
    'VisionTransformer',
    'build',
    'build_encoder',
    'build_head',
    'resnet',
    'sincos_position',
    'vit',
]
