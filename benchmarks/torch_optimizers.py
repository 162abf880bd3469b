"""Optimizers and learning rates of the recipes of `torch_recipes`, as in the official repositories."""

from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

TRUST = 1e-3


class Adapted(torch.optim.Optimizer):
    """Layer-wise adapted SGD: the LARS of SimCLR or of VICReg, or SGD with apex's LARC as SwAV uses it.

    Args:
      params: the parameters.
      name: 'lars_simclr', whose velocity holds the learning rate; 'lars' or 'larc', whose velocity does not. With both
        kinds of LARS, parameters with one dimension are neither decayed nor adapted.
      momentum: the share of the velocity that stays in a step.
      weight_decay: it is a part of the gradient that is adapted.
    """

    def __init__(self, params: Any, name: str, *, momentum: float, weight_decay: float):
        super().__init__(params, {'lr': 0.0})
        self.momentum, self.weight_decay = momentum, weight_decay
        self.larc, self.rate_inside = name == 'larc', name == 'lars_simclr'

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None:
                    continue
                g, wd = p.grad, self.weight_decay
                if self.larc or p.ndim > 1:
                    if not self.larc:
                        g = g + wd * p
                    w_norm, g_norm = float(p.norm()), float(g.norm())
                    if w_norm > 0 and g_norm > 0:
                        if self.larc:
                            g = (g + wd * p) * (TRUST * w_norm / (g_norm + wd * w_norm + 1e-8))
                        else:
                            g = g * (TRUST * w_norm / g_norm)
                v = self.state[p].setdefault('velocity', torch.zeros_like(p))
                v.mul_(self.momentum).add_(g, alpha=group['lr'] if self.rate_inside else 1.0)
                p.sub_(v, alpha=1.0 if self.rate_inside else group['lr'])


def build_optimizer(peer: nn.Module, c: ConfigDict) -> torch.optim.Optimizer:
    """The optimizer of a recipe; `lr` of its groups is set at every step."""
    o, trained = c.optimizer, [(name, p) for name, p in peer.named_parameters() if p.requires_grad]
    if o.name in ('lars', 'lars_simclr', 'larc'):
        return Adapted([p for _, p in trained], o.name, momentum=o.momentum, weight_decay=o.weight_decay)
    if c.method.name == 'byol':  # the loss is a quarter of the official one, for which the recipe's numbers are
        return torch.optim.SGD(
            [{'params': [p for _, p in trained], 'factor': 4.0}],
            0.0, momentum=o.momentum, weight_decay=o.weight_decay / 4,
        )  # fmt: skip
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in trained:
        decay = 0.0 if o.mask == 'matrices' and p.ndim == 1 else o.weight_decay
        groups.setdefault((decay, name.split('.')[0] in o.constant), []).append(p)
    given = [{'params': ps, 'weight_decay': decay, 'constant': constant} for (decay, constant), ps in groups.items()]
    if o.name == 'adamw':
        return torch.optim.AdamW(given)
    assert o.name == 'sgd', o.name
    return torch.optim.SGD(given, 0.0, momentum=o.momentum)


def schedule(c: ConfigDict, per_epoch: int, total: int) -> np.ndarray:
    """The learning rate of each step, float64 [total]."""
    o, s = c.optimizer, c.schedule
    rate = o.learning_rate
    if o.learning_rate_scaling == 'sqrt':
        rate *= c.batch_size**0.5
    elif o.learning_rate_batch:
        rate *= c.batch_size / o.learning_rate_batch
    if s.name == 'cosine':  # constant in an epoch
        epoch = np.arange(total) // per_epoch
        return rate * 0.5 * (1 + np.cos(np.pi * epoch / c.epochs))
    warmup = round(s.warmup_epochs * per_epoch)
    decay = s.final + 0.5 * (rate - s.final) * (1 + np.cos(np.pi * np.arange(total - warmup) / (total - warmup)))
    if s.name == 'warmup_cosine':
        rising = s.warmup_start + (rate - s.warmup_start) * np.arange(warmup) / max(warmup, 1)
    else:  # SwAV and DINO reach the full rate in the last step of the warm-up
        rising = np.linspace(s.warmup_start, rate, warmup)
    return np.concatenate([rising, decay])
