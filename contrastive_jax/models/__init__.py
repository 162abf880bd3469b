"""Networks: encoders (`resnet.py`, `vit.py`, `cpc.py`), heads, and the two joined (`network.py`)."""

from contrastive_jax.models.context import ContextNetwork
from contrastive_jax.models.cpc import CPCEncoder
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.network import ENCODERS, Network, build, build_encoder, build_head
from contrastive_jax.models.norm import BatchNorm
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.models.vit import VisionTransformer

__all__ = [
    'ENCODERS',
    'MLP',
    'BatchNorm',
    'CPCEncoder',
    'ContextNetwork',
    'Network',
    'ResNet',
    'VisionTransformer',
    'build',
    'build_encoder',
    'build_head',
]
