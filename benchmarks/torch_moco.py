"""MoCo v2 on small images in PyTorch, for `benchmarks.gpu`: tuned by hand, compiled, and with lightly as it is shipped.

`Tuned` keeps images on the device, augments a batch at once, computes in bfloat16 on channels_last, and may go through
torch.compile. `Shipped` takes transforms, head, loss and moving average from lightly 1.5 and newer, with a loader that
has a process for each core, as its tutorials do. Both are ResNet-18 with a 3x3 stem, as in the recipe; BN statistics
are over the whole batch, because neither splits it.
"""

import abc
import copy
import os
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUEUE, DIM, TEMPERATURE, MOMENTUM = 4096, 128, 0.1, 0.99
RATE, DECAY = 0.06, 5e-4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CROP, JITTER, HUE = (0.08, 1.0), 0.4, 0.1


def resnet18() -> nn.Module:
    """ResNet-18 for 32 pixels, without its classifier: [b, 3, 32, 32] -> [b, 512]."""
    import torchvision

    net = torchvision.models.resnet18(weights=None)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = net.fc = nn.Identity()
    return net


class Peer(abc.ABC):
    """What `measure.interleave` times: `window` runs some steps and notes their seconds.

    Args:
      steps: number of steps in a window.
    """

    def __init__(self, steps: int):
        self.seconds: list[float] = []
        self._steps = steps

    @abc.abstractmethod
    def step(self) -> None:
        """Runs one training step."""

    def window(self) -> None:
        """Runs and times the steps of one window."""
        _wait()
        began = time.perf_counter()
        for _ in range(self._steps):
            self.step()
        _wait()
        self.seconds.append((time.perf_counter() - began) / self._steps)


class Tuned(Peer):
    """A training step with its augmentation on the device.

    Args:
      images: uint8 [N, s, s, 3].
      batch: images of a step.
      steps: see `Peer`.
      backend: the backend of torch.compile, which compiles views and loss; '': eager.
    """

    def __init__(self, images: np.ndarray, batch: int, steps: int, backend: str = ''):
        super().__init__(steps)
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self._images = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).contiguous()
        online = nn.Sequential(resnet18(), nn.Linear(512, DIM)).to(self._device, memory_format=torch.channels_last)
        self._online, self._target = online.train(), copy.deepcopy(online).requires_grad_(False)
        self._queue = F.normalize(torch.randn(QUEUE, DIM, device=self._device), dim=1)
        self._batch, self._row = batch, 0
        self._optimizer = torch.optim.SGD(online.parameters(), RATE, momentum=0.9, weight_decay=DECAY, foreach=True)
        self._pairs = list(online.parameters()), list(self._target.parameters())
        compiled: Any = (lambda f: torch.compile(f, backend=backend)) if backend else (lambda f: f)
        self._views, self._loss = compiled(augment), compiled(self._contrast)
        self.step()

    def _contrast(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        q = F.normalize(self._online(x1).float(), dim=1)  # [b, D]
        with torch.no_grad():
            k = F.normalize(self._target(x2).float(), dim=1)
        positive = (q * k).sum(1) / TEMPERATURE  # [b]
        all_logits = torch.logaddexp(torch.logsumexp(q @ self._queue.T / TEMPERATURE, 1), positive)
        return (all_logits - positive).mean(), k

    def step(self) -> None:
        chosen = self._images[torch.randint(len(self._images), (self._batch,), device=self._device)]
        with torch.no_grad():
            torch._foreach_lerp_(self._pairs[1], self._pairs[0], 1 - MOMENTUM)
            x1, x2 = self._views(chosen), self._views(chosen)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == 'cuda'):
            loss, k = self._loss(x1, x2)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._queue[self._row : self._row + self._batch] = k[: QUEUE - self._row]
        self._row = (self._row + self._batch) % QUEUE


class Shipped(Peer):
    """lightly's parts for MoCo v2, put together as its tutorials do; PIL transforms in the processes of a loader.

    Args:
      images: uint8 [N, s, s, 3].
      batch: images of a step.
      steps: see `Peer`.
    """

    def __init__(self, images: np.ndarray, batch: int, steps: int):
        from lightly.loss import NTXentLoss
        from lightly.models import utils
        from lightly.models.modules.heads import MoCoProjectionHead
        from lightly.transforms import MoCoV2Transform
        from PIL import Image

        super().__init__(steps)
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self._utils, on_gpu = utils, self._device.type == 'cuda'
        online = [resnet18().to(self._device), MoCoProjectionHead(512, 512, DIM).to(self._device)]
        self._online, self._target = online, copy.deepcopy(online)
        for net in self._target:
            utils.deactivate_requires_grad(net)
        self._criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM)).to(self._device)
        parameters = [p for net in online for p in net.parameters()]
        self._optimizer = torch.optim.SGD(parameters, RATE, momentum=0.9, weight_decay=DECAY)
        transform = MoCoV2Transform(input_size=images.shape[1], gaussian_blur=0.0)

        class Images(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, i: int) -> Any:
                return transform(Image.fromarray(images[i]))

        workers = (os.cpu_count() or 1) if on_gpu else 0
        self._loader = torch.utils.data.DataLoader(
            Images(), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=on_gpu,
        )  # fmt: skip
        self._batches = iter(self._loader)
        self.step()

    def step(self) -> None:
        try:
            x1, x2 = next(self._batches)
        except StopIteration:
            self._batches = iter(self._loader)
            x1, x2 = next(self._batches)
        x1, x2 = (x.to(self._device, non_blocking=True) for x in (x1, x2))
        for online, target in zip(self._online, self._target, strict=True):
            self._utils.update_momentum(online, target, MOMENTUM)
        with torch.no_grad():
            mixed, order = self._utils.batch_shuffle(x2)
            k = self._utils.batch_unshuffle(self._target[1](self._target[0](mixed)), order)
        loss = self._criterion(self._online[1](self._online[0](x1)), k)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def augment(images: Tensor) -> Tensor:
    """A view of each image, uint8 [n, 3, s, s] -> float [n, 3, s, s]: crop, flip, jitter of colors, gray."""
    n, device = len(images), images.device
    draw = lambda low, high: torch.empty(n, 1, 1, 1, device=device).uniform_(low, high)  # noqa: E731
    chance = lambda p: torch.rand(n, 1, 1, 1, device=device) < p  # noqa: E731
    area, ratio = draw(*CROP).view(n), torch.exp(draw(-0.2877, 0.2877)).view(n)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = ((1 - side) * (2 * torch.rand(n, device=device) - 1) for side in (width, height))
    mirror = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n, device=device)
    rows = torch.stack([width * mirror, zero, left]), torch.stack([zero, height, top])
    grid = F.affine_grid(torch.stack(rows).permute(2, 0, 1), list(images.shape), align_corners=False)
    x = F.grid_sample(images.float() / 255, grid, padding_mode='reflection', align_corners=False)

    y = (x * draw(1 - JITTER, 1 + JITTER)).clamp(0, 1)
    y = torch.lerp(gray(y).mean((2, 3), keepdim=True), y, draw(1 - JITTER, 1 + JITTER)).clamp(0, 1)
    y = torch.lerp(gray(y), y, draw(1 - JITTER, 1 + JITTER)).clamp(0, 1)
    y = turn_hue(y, draw(-HUE, HUE).view(n, 1, 1))
    x = torch.where(chance(0.8), y, x)
    x = torch.where(chance(0.2), gray(x).expand_as(x), x)
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def gray(x: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue of HSV by `turns` [n, 1, 1], in whole turns."""
    r, g, b = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    c = chroma.clamp_min(1e-6)
    sector = torch.where(value == r, (g - b) / c, torch.where(value == g, 2 + (b - r) / c, 4 + (r - g) / c))
    hue = sector / 6 + turns  # in turns, of which only the fraction counts
    # Each channel is the value, minus the chroma where its hue is far away.
    shifts = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = torch.remainder(shifts + 6 * hue[:, None], 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
