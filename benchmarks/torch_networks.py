"""Networks of `torch_recipes`: lightly's ResNet and blocks of heads, and timm's ViT, as a config describes them.

They are initialized as torchvision and the official repositories do.
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from lightly.models import ResNetGenerator
from lightly.models.modules.heads import ProjectionHead
from ml_collections import ConfigDict
from torch import Tensor, nn


class ResNet(nn.Module):
    """lightly's ResNet for small images without its classifier: [b, 3, s, s] -> [b, D]."""

    def __init__(self, c: ConfigDict):
        super().__init__()
        splits = c.batch_size // c.bn_group_size if c.bn_group_size else 0
        net = ResNetGenerator('resnet-9', width=c.encoder.width / 64, num_splits=splits)
        del net.linear
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        if c.encoder.zero_init_residual:
            for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
                nn.init.zeros_(stage[0].bn2.weight)
        self.net, self.features = net, 8 * c.encoder.width

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.net.bn1(self.net.conv1(x)))
        for stage in (self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4):
            x = stage(x)
        return x.mean((2, 3))


class ViT(nn.Module):
    """timm's ViT, initialized as in MoCo v3, with its fixed positions and its frozen patch projection."""

    def __init__(self, c: ConfigDict):
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        D, p = c.encoder.width, c.encoder.patch_size
        self.net = VisionTransformer(
            img_size=c.data.image_size, patch_size=p, embed_dim=D, depth=c.encoder.depth, num_heads=c.encoder.num_heads,
            num_classes=0, norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        )  # fmt: skip
        for name, module in self.net.named_modules():
            if isinstance(module, nn.Linear):
                if name.endswith('qkv'):  # each of the three matrices on its own
                    nn.init.uniform_(module.weight, -math.sqrt(6 / (2 * D)), math.sqrt(6 / (2 * D)))
                else:
                    nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.net.cls_token, std=1e-6)
        bound = math.sqrt(6 / (3 * p**2 + D))
        nn.init.uniform_(self.net.patch_embed.proj.weight, -bound, bound)
        nn.init.zeros_(self.net.patch_embed.proj.bias)
        self.net.patch_embed.requires_grad_(False)
        side = c.data.image_size // p
        w, h = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing='ij')
        omega = 10_000.0 ** (-torch.arange(D // 4) / (D / 4))
        parts = [f(x.flatten()[:, None] * omega) for x in (w, h) for f in (torch.sin, torch.cos)]
        self.net.pos_embed.data[0] = torch.cat([torch.zeros(1, D), torch.cat(parts, 1)])
        self.net.pos_embed.requires_grad_(False)
        self.features = D

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def head(c: ConfigDict, features: int) -> nn.Module:
    """A projector or predictor of lightly's blocks, with the layers that a section of the config describes."""
    blocks: list[Any] = []
    for i in range(c.num_layers):
        last = i == c.num_layers - 1
        out = c.output_dim if last else c.hidden_dim
        bias = c.bias if not last or c.get('last_bias') is None else c.last_bias
        norm = None
        if c.last_batch_norm if last else c.batch_norm:
            norm = nn.BatchNorm1d(out, affine=not last or c.last_batch_norm_affine)
        blocks.append((features, out, norm, None if last else nn.ReLU(), bias))
        features = out
    made = ProjectionHead(blocks)
    if c.get('kernel_init') == 'normal':  # SimCLR
        for module in made.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
        made.layers[-1].bias.requires_grad_(False)  # its last norm has no offset
    return made
