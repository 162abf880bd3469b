"""The methods of `benchmarks.curves` in PyTorch: losses, heads and networks of lightly and timm, the rest by papers.

The recipe, numbers alone, is the config of `curve_recipes.py`. What they mean here follows the official repositories
and lightly, not our package: nothing of it is imported. Networks are initialized as torchvision and the official
repositories do.
"""

import abc
import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models import ResNetGenerator, utils
from lightly.models.modules.heads import DINOProjectionHead, ProjectionHead
from ml_collections import ConfigDict
from torch import Tensor, nn

from benchmarks.torch_optimizers import build_optimizer, schedule
from benchmarks.torch_views import center, make_views

Features = Callable[[np.ndarray], np.ndarray]  # uint8 [n, S, S, 3] -> float32 [n, D]


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


class Peer(nn.Module, abc.ABC):
    """A method: networks, the loss of a step, and what happens around it."""

    def __init__(self, c: ConfigDict):
        super().__init__()
        self.c, m = c, c.method
        self.momentum, self.temperature = m.get('momentum', 0.0), m.get('temperature', 0.0)
        self.encoder = self.build_encoder()
        self.projector = self.build_projector()
        self.predictor = head(c.predictor, c.projector.output_dim) if c.predictor else nn.Identity()

    def build_encoder(self) -> nn.Module:
        return ViT(self.c) if self.c.encoder.name.startswith('vit') else ResNet(self.c)

    def build_projector(self) -> nn.Module:
        return head(self.c.projector, int(self.encoder.features))

    def target_of(self, *nets: nn.Module) -> nn.Sequential:
        """A copy that gets no gradient."""
        return copy.deepcopy(nn.Sequential(*nets)).requires_grad_(False)

    def project(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))

    def follow(self, momentum: float) -> None:
        """Moves the target towards the trained encoder and projector."""
        utils.update_momentum(nn.Sequential(self.encoder, self.projector), self.target, momentum)

    @abc.abstractmethod
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        """The loss of a batch; `progress` is the step divided by the number of steps."""

    def after_backward(self, epoch: int) -> None:
        """Changes gradients."""

    def after_update(self, progress: float) -> None:
        """Changes parameters after the optimizer's step."""


def rising(progress: float, momentum: float) -> float:
    """A momentum that rises to 1 on half a cosine."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


class MoCo(Peer):
    def __init__(self, c: ConfigDict):
        super().__init__(c)
        self.target = self.target_of(self.encoder, self.projector)
        self.criterion = NTXentLoss(self.temperature, memory_bank_size=(c.method.queue_size, c.projector.output_dim))

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        self.follow(self.momentum)
        with torch.no_grad():
            mixed, order = utils.batch_shuffle(views[1])
            k = utils.batch_unshuffle(self.target(mixed), order)
        return self.criterion(self.project(views[0]), k)


class SimCLR(Peer):
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        z1, z2 = self.project(torch.cat(views)).chunk(2)
        return 2 * NTXentLoss(self.temperature)(z1, z2)  # lightly's is a mean, the official one a sum of two means


class BYOL(Peer):
    """With lightly's loss, a quarter of the official one; `torch_optimizers` takes four times the rate."""

    def __init__(self, c: ConfigDict):
        super().__init__(c)
        # From weights of its own, as in the official code.
        encoder = self.build_encoder()
        self.target = self.target_of(encoder, head(c.projector, int(encoder.features)))

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        p1, p2 = (self.predictor(self.project(x)) for x in views)
        with torch.no_grad():
            z1, z2 = (self.target(x) for x in views)
        criterion = NegativeCosineSimilarity()
        return 0.5 * (criterion(p1, z2) + criterion(p2, z1))

    def after_update(self, progress: float) -> None:
        self.follow(rising(progress, self.momentum))


class SimSiam(Peer):
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        z1, z2 = (self.project(x) for x in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        criterion = NegativeCosineSimilarity()
        return 0.5 * (criterion(p1, z2.detach()) + criterion(p2, z1.detach()))


class DINO(Peer):
    def __init__(self, c: ConfigDict):
        super().__init__(c)
        # A module with weight_norm cannot be copied once its weight has been computed.
        teacher, m = self.build_projector(), c.method
        teacher.load_state_dict(self.projector.state_dict())
        self.target = self.target_of(self.encoder).append(teacher.requires_grad_(False))
        self.criterion = DINOLoss(
            m.output_dim, teacher_temp=m.teacher_temperature, student_temp=m.student_temperature,
            center_momentum=m.center_momentum,
        )  # fmt: skip

    def build_projector(self) -> nn.Module:
        p = self.c.projector
        return DINOProjectionHead(
            int(self.encoder.features),
            p.hidden_dim,
            p.output_dim,
            self.c.method.output_dim,
            freeze_last_layer=int(self.c.optimizer.freeze_epochs),
        )

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        local = len(views) - 2
        h = [self.encoder(torch.cat(views[:2])), *([self.encoder(torch.cat(views[2:]))] if local else [])]
        student = self.projector(torch.cat(h)).chunk(len(views))
        with torch.no_grad():
            teacher = self.target(torch.cat(views[:2])).chunk(2)
        return self.criterion(list(teacher), list(student), teacher_temp=self.c.method.teacher_temperature)

    def after_backward(self, epoch: int) -> None:
        for p in self.parameters():
            if p.grad is not None and self.c.optimizer.clip_norm:
                p.grad.mul_(min(1.0, self.c.optimizer.clip_norm / (float(p.grad.norm()) + 1e-6)))
        self.projector.cancel_last_layer_gradients(epoch)

    def after_update(self, progress: float) -> None:
        self.follow(rising(progress, self.momentum))


class SwAV(Peer):
    """The prototypes are a plain layer: those of lightly have a bias, which the official ones have not."""

    def __init__(self, c: ConfigDict):
        super().__init__(c)
        self.prototypes = nn.Linear(c.projector.output_dim, c.method.num_prototypes, bias=False)
        self.criterion = SwaVLoss(self.temperature, c.method.iterations, c.method.epsilon)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        z = F.normalize(self.project(torch.cat(views)), dim=1)
        return self.criterion(list(self.prototypes(z).chunk(len(views))), [])[0]

    def after_backward(self, epoch: int) -> None:
        if epoch < self.c.optimizer.freeze_epochs:
            self.prototypes.weight.grad = None


class MoCoV3(Peer):
    def __init__(self, c: ConfigDict):
        super().__init__(c)
        self.target = self.target_of(self.encoder, self.projector)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        q1, q2 = (self.predictor(self.project(x)) for x in views)
        self.follow(rising(progress, self.momentum))
        with torch.no_grad():
            k1, k2 = (self.target(x) for x in views)
        return self._contrast(q1, k2) + self._contrast(q2, k1)

    def _contrast(self, q: Tensor, k: Tensor) -> Tensor:
        logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / self.temperature
        return 2 * self.temperature * F.cross_entropy(logits, torch.arange(len(q)))


PEERS: dict[str, type[Peer]] = {
    'moco': MoCo, 'simclr': SimCLR, 'byol': BYOL, 'simsiam': SimSiam, 'dino': DINO, 'swav': SwAV, 'mocov3': MoCoV3,
}  # fmt: skip


def train(c: ConfigDict, images: np.ndarray, evaluate: Callable[[int, Features], None]) -> None:
    """Trains a recipe.

    Args:
      c: the config.
      images: uint8 [N, S, S, 3].
      evaluate: is called with the step and a function that computes features: before the first step, and after every
        `c.eval_every_steps` steps.
    """
    torch.manual_seed(c.seed)
    peer = PEERS[c.method.name](c).train()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    per_epoch = len(images) // c.batch_size
    total = round(c.epochs * per_epoch)
    optimizer, rates = build_optimizer(peer, c), schedule(c, per_epoch, total)

    def features(given: np.ndarray) -> np.ndarray:
        peer.eval()
        found = []
        with torch.no_grad():
            for part in torch.from_numpy(given).permute(0, 3, 1, 2).split(500):
                found.append(peer.encoder(center(part, c.augment, c.data.image_size)))
        peer.train()
        return torch.cat(found).numpy()

    evaluate(0, features)
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(images))
        at = step % per_epoch * c.batch_size
        train_step(peer, optimizer, rates, step, per_epoch, pixels[order[at : at + c.batch_size]])
        if (step + 1) % c.eval_every_steps == 0:
            evaluate(step + 1, features)


def train_step(
    peer: Peer, optimizer: torch.optim.Optimizer, rates: np.ndarray, step: int, per_epoch: int, images: Tensor
) -> tuple[list[Tensor], float]:
    """One step on images, uint8 [B, 3, S, S]; returns their views and the loss.

    Args:
      peer, optimizer: they are changed.
      rates: the learning rate of each step.
      step: the number of this one.
      per_epoch: steps of an epoch.
      images: the batch.
    """
    c, total = peer.c, len(rates)
    views = make_views(images, c.augment, c.data.image_size)
    for group in optimizer.param_groups:
        group['lr'] = rates[0 if group.get('constant') else step] * group.get('factor', 1.0)
    optimizer.zero_grad(set_to_none=True)
    loss = peer.loss(views, step / total)
    loss.backward()
    peer.after_backward(step // per_epoch)
    optimizer.step()
    peer.after_update(step / total)
    return views, loss.item()
