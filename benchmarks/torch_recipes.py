"""The methods of `benchmarks.curves` in PyTorch: losses, heads and networks of lightly and timm, the rest by papers.

The recipe, numbers alone, is the config of `curve_recipes.py`. What they mean here follows the official repositories
and lightly, not our package: nothing of it is imported. Networks are in `torch_networks.py`.
"""

import abc
import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models import utils
from lightly.models.modules import NNMemoryBankModule
from lightly.models.modules.heads import DINOProjectionHead
from ml_collections import ConfigDict
from torch import Tensor, nn

from benchmarks.torch_networks import ResNet, ViT, head
from benchmarks.torch_optimizers import build_optimizer, schedule
from benchmarks.torch_views import center, make_views

Features = Callable[[np.ndarray], np.ndarray]  # uint8 [n, S, S, 3] -> float32 [n, D]


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


def contrast_in_batch(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries [b, D]: the keys [b, D] of the other images of the batch are the negatives."""
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(q)))


class MoCoV3(Peer):
    def __init__(self, c: ConfigDict):
        super().__init__(c)
        self.target = self.target_of(self.encoder, self.projector)

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        q1, q2 = (self.predictor(self.project(x)) for x in views)
        self.follow(rising(progress, self.momentum))
        with torch.no_grad():
            k1, k2 = (self.target(x) for x in views)
        T = self.temperature
        return 2 * T * (contrast_in_batch(q1, k2, T) + contrast_in_batch(q2, k1, T))


class BarlowTwins(Peer):
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        return BarlowTwinsLoss(self.c.method.off_diagonal)(*(self.project(x) for x in views))


class VICReg(Peer):
    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        m = self.c.method
        return VICRegLoss(m.invariance, m.variance, m.covariance)(*(self.project(x) for x in views))


class NNCLR(Peer):
    """With the loss of the paper's algorithm 1: its negatives are the other predictions of the batch.

    lightly's example uses its NT-Xent, which also has neighbors as negatives of neighbors, and a direction from
    predictions to neighbors.
    """

    def __init__(self, c: ConfigDict):
        super().__init__(c)
        self.neighbors = NNMemoryBankModule((c.method.queue_size, c.projector.output_dim))

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        z1, z2 = (self.project(x) for x in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        nn2 = self.neighbors(z2.detach())
        nn1 = self.neighbors(z1.detach(), update=True)  # both look in the old queue
        return 0.5 * (contrast_in_batch(nn1, p2, self.temperature) + contrast_in_batch(nn2, p1, self.temperature))


PEERS: dict[str, type[Peer]] = {
    'moco': MoCo, 'simclr': SimCLR, 'byol': BYOL, 'simsiam': SimSiam, 'dino': DINO, 'swav': SwAV, 'mocov3': MoCoV3,
    'barlow_twins': BarlowTwins, 'vicreg': VICReg, 'nnclr': NNCLR,
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
