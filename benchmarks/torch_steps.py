"""Training steps of SimCLR and MoCo v3 in PyTorch, for `benchmarks.peers`, with augmentation of whole batches.

Written with care for speed, as `torch_moco.Tuned`: channels_last, multi-tensor optimizers and moving average, no
concatenated logits. `compiled` sends views and loss through torch.compile.
"""

import copy
import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_moco import DECAY, RATE, Peer, augment, resnet18

DIM = 128  # of SimCLR's embeddings
V3_HIDDEN, V3_DIM, V3_MOMENTUM, V3_TEMPERATURE = 1024, 256, 0.99, 0.2
SIGMA, TAPS = (0.1, 2.0), 17  # of the blur


class SimCLR(Peer):
    """ResNet-18 on small images; both views are one batch.

    Args:
      images: uint8 [N, s, s, 3].
      batch: images of a step.
      compiled: whether views and loss go through torch.compile.
    """

    def __init__(self, images: np.ndarray, batch: int, *, compiled: bool = False):
        super().__init__(1)
        self._images, self._batch = _tensor(images), batch
        self._net = nn.Sequential(resnet18(), mlp(512, 512, DIM)).to(memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.SGD(
            self._net.parameters(), RATE, momentum=0.9, weight_decay=DECAY, foreach=True
        )  # fmt: skip
        wrap: Any = torch.compile if compiled else (lambda f: f)
        self._views, self._loss = wrap(self._two_views), wrap(self._nt_xent)
        self.step()

    def _two_views(self, x: Tensor) -> Tensor:
        return torch.cat([augment(x), augment(x)])

    def _nt_xent(self, views: Tensor) -> Tensor:
        z = F.normalize(self._net(views), dim=1)  # [2b, D]
        logits = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))

    def step(self) -> None:
        with torch.no_grad():
            views = self._views(_some(self._images, self._batch))
        self._loss(views).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class MoCoV3(Peer):
    """ViT-Ti/16 of timm, whose projection of patches is frozen, as in the official code.

    Args:
      images: uint8 [N, s, s, 3].
      batch: images of a step.
    """

    def __init__(self, images: np.ndarray, batch: int):
        import timm

        super().__init__(1)
        self._images, self._batch = _tensor(images), batch
        vit = timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=images.shape[1])
        vit.patch_embed.requires_grad_(False)
        self._online = nn.Sequential(vit, mlp(vit.num_features, V3_HIDDEN, V3_HIDDEN, V3_DIM)).train()
        self._target = copy.deepcopy(self._online).requires_grad_(False)
        self._predictor = mlp(V3_DIM, V3_HIDDEN, V3_DIM)
        self._pairs = list(self._online.parameters()), list(self._target.parameters())
        trained = [p for net in (self._online, self._predictor) for p in net.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.1, foreach=True)
        self.step()

    def step(self) -> None:
        chosen = _some(self._images, self._batch)
        with torch.no_grad():
            torch._foreach_lerp_(self._pairs[1], self._pairs[0], 1 - V3_MOMENTUM)
            x1, x2 = photo_view(chosen, 1.0, 0.0), photo_view(chosen, 0.1, 0.2)
            k1, k2 = (F.normalize(self._target(x), dim=1) for x in (x1, x2))
        q1, q2 = (F.normalize(self._predictor(self._online(x)), dim=1) for x in (x1, x2))
        loss = _in_batch(q1, k2) + _in_batch(q2, k1)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def mlp(*dims: int) -> nn.Sequential:
    """Linear layers with BatchNorm after each, the last one without scale and offset, and ReLU between them."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(dims)):
        last = i == len(dims) - 2
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def photo_view(images: Tensor, blur: float, solarize: float) -> Tensor:
    """`augment`, then blur and solarization with these probabilities: uint8 [n, 3, s, s] -> float [n, 3, s, s]."""
    x = augment(images)
    blurred = torch.rand(len(x)) < blur
    if blurred.any():
        x[blurred] = gaussian_blur(x[blurred])
    inverted = torch.rand(len(x)) < solarize
    x[inverted] = torch.where(x[inverted] >= 0, -x[inverted], x[inverted])  # about the mean, since x is normalized
    return x


def gaussian_blur(x: Tensor) -> Tensor:
    """A blur of its own width for each image [n, 3, s, s]: two grouped convolutions."""
    n, channels, height, width = x.shape
    sigma = torch.empty(n, 1).uniform_(*SIGMA)
    taps = torch.exp(-0.5 * (torch.arange(TAPS) - TAPS // 2) ** 2 / sigma**2)
    weight = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [n 3, TAPS]
    y, r = x.reshape(1, n * channels, height, width), TAPS // 2
    y = F.conv2d(F.pad(y, (r, r, 0, 0), mode='replicate'), weight[:, None, None, :], groups=n * channels)
    y = F.conv2d(F.pad(y, (0, 0, r, r), mode='replicate'), weight[:, None, :, None], groups=n * channels)
    return y.reshape(x.shape)


def _in_batch(q: Tensor, k: Tensor) -> Tensor:
    return 2 * V3_TEMPERATURE * F.cross_entropy(q @ k.T / V3_TEMPERATURE, torch.arange(len(q)))


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _some(images: Tensor, n: int) -> Tensor:
    return images[torch.randint(len(images), (n,))]
