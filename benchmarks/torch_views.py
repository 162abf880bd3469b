"""Views of small images in PyTorch, a batch at once: crops, flips and colors as torchvision defines them.

Unlike `torch_moco.augment`, crops are antialiased and the order of the color operations is random, as in torchvision.
"""

import math

import torch
from ml_collections import ConfigDict
from torch import Tensor

from benchmarks.torch_moco import gray, turn_hue

ATTEMPTS = 10  # boxes that torchvision's RandomResizedCrop tries before it takes the whole image


def make_views(images: Tensor, augment: ConfigDict, size: int) -> list[Tensor]:
    """All views of each image.

    Args:
      images: uint8 [n, 3, S, S].
      augment: the section `augment` of a recipe: strengths and probabilities, the number of local views.
      size: the height and width of a global view.

    Returns:
      float [n, 3, s, s] for each view, the global ones first.
    """
    views = [_distort(_crop(images, augment.crop_scale, size), augment, p) for p in augment.solarize]
    for _ in range(augment.local_crops):
        views.append(_distort(_crop(images, augment.local_scale, augment.local_size), augment, 0.0))
    return views


def center(images: Tensor, augment: ConfigDict, size: int) -> Tensor:
    """Whole images at the size of a global view, for evaluation: uint8 [n, 3, S, S] -> float [n, 3, s, s]."""
    n, side = len(images), images.shape[2]
    weights = resize_weights(torch.zeros(n), torch.full((n,), float(side)), side, size)
    return _normalize(_apply(images, weights, weights), augment)


def resize_weights(start: Tensor, extent: Tensor, side: int, size: int) -> Tensor:
    """Bilinear weights with antialiasing, [n, size, side], of the pixels `start` to `start + extent` [n] of `side`."""
    start, extent = start[:, None, None], extent[:, None, None]
    scale = extent / size
    at = start + (torch.arange(size)[:, None] + 0.5) * scale  # [n, size, 1]
    pixel = torch.arange(side) + 0.5
    weights = (1 - (pixel - at).abs() / scale.clamp_min(1)).clamp_min(0)
    weights = weights * ((pixel > start) & (pixel < start + extent))
    return weights / weights.sum(2, keepdim=True)


def _crop(images: Tensor, scale: tuple[float, float], size: int) -> Tensor:
    n, side = len(images), images.shape[2]
    area = side**2 * torch.empty(n, ATTEMPTS).uniform_(*scale)
    ratio = torch.exp(torch.empty(n, ATTEMPTS).uniform_(math.log(3 / 4), math.log(4 / 3)))
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width >= 1) & (width <= side) & (height >= 1) & (height <= side)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    width, height = (torch.where(found, x.gather(1, first)[:, 0], torch.tensor(float(side))) for x in (width, height))
    left, top = (torch.floor(torch.rand(n) * (side - x + 1)) for x in (width, height))
    return _apply(images, resize_weights(top, height, side, size), resize_weights(left, width, side, size))


def _apply(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return (rows[:, None] @ (images.float() / 255) @ columns[:, None].transpose(2, 3)).clamp(0, 1)


def _distort(x: Tensor, augment: ConfigDict, solarize: float) -> Tensor:
    n = len(x)
    x = torch.where(_chance(n, augment.flip), x.flip(3), x)
    jittered = torch.rand(n) < augment.jitter_probability
    order = torch.rand(n, 4).argsort(1)  # a random permutation for each image
    brightness, contrast, saturation, hue = augment.jitter
    operations = (
        lambda y: y * _factor(len(y), brightness),
        lambda y: torch.lerp(gray(y).mean((2, 3), keepdim=True), y, _factor(len(y), contrast)),
        lambda y: torch.lerp(gray(y).expand_as(y), y, _factor(len(y), saturation)),
        lambda y: turn_hue(y, torch.empty(len(y), 1, 1).uniform_(-hue, hue)),
    )
    for place in range(4):
        for number, operation in enumerate(operations):
            rows = torch.nonzero(jittered & (order[:, place] == number))[:, 0]
            if len(rows):
                x[rows] = operation(x[rows]).clamp(0, 1)
    x = torch.where(_chance(n, augment.grayscale), gray(x).expand_as(x), x)
    if solarize:
        x = torch.where(_chance(n, solarize) & (x >= 0.5), 1 - x, x)
    return _normalize(x, augment)


def _chance(n: int, p: float) -> Tensor:
    return torch.rand(n, 1, 1, 1) < p


def _factor(n: int, strength: float) -> Tensor:
    return torch.empty(n, 1, 1, 1).uniform_(max(0, 1 - strength), 1 + strength)


def _normalize(x: Tensor, augment: ConfigDict) -> Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (augment.mean, augment.std))
    return (x - mean) / std
