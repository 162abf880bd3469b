"""Networks as Linen modules.

- resnet, vit, cpc   encoders, images to features; `split` runs two of them side by side (CMC)
- heads              the MLPs that serve as projectors and predictors
- network            encoder, projector and predictor as one network; the contract of an encoder
- norm               batch norm over groups of examples
- context            the context network of CPC
- decoder            from a feature map back to an image
- patch_embed        from an image to the tokens of a ViT
- positions          fixed and resized position embeddings of a ViT
- tokens             other features of a ViT than its class token
- interpolation      kernels that resize images and position embeddings
"""

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
