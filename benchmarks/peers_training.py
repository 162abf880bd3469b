"""Rows of `benchmarks.peers`: whole training steps, and the start of a run."""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.sides import Makers, Setting, Side
from contrastive_jax.data.sources import ArraySource
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.reproduce.run_experiment import load_config
from contrastive_jax.training.build import build_run
from contrastive_jax.training.feed import ResidentFeed
from contrastive_jax.training.step import init_state

BATCH = 64
RECIPE = 'mocov2:tiny'  # of the start of a run: two steps, two evaluations, pictures, checkpoints


def step_of(recipe: str, images: np.ndarray, changes: Mapping[str, Any]) -> Side:
    """Steps of a recipe as a run takes them: views of resident images, networks, loss, optimizer, metrics."""
    config = load_config(recipe, {'batch_size': BATCH, 'data.image_size': images.shape[1], **changes})
    config.bn_group_size = min(config.bn_group_size, BATCH)
    run, devices = build_run(config, len(images)), find_devices('jit', 1)
    feed = ResidentFeed(run, devices, ArraySource(images, np.zeros(len(images), np.int32)), 1)
    state = devices.place(jax.jit(lambda: init_state(run))(), run.state_specs)
    steps = itertools.count()

    def call() -> None:
        nonlocal state
        at = next(steps)
        state, metrics = feed.advance(state, at, at + 1)
        jax.block_until_ready((state, metrics))

    return Side(call, BATCH)


def mocov2(setting: Setting) -> Makers:
    """MoCo v2 with the settings of the official CIFAR-10 demo."""
    images = _noise(2048, 32)

    def eager() -> Side:
        from benchmarks.torch_moco import Tuned

        return Side(Tuned(images, BATCH, 1).step, BATCH)

    def shipped() -> Side:
        from benchmarks.torch_moco import Shipped

        return Side(Shipped(images, BATCH, 1).step, BATCH)

    ours = lambda: step_of('mocov2:cifar10', images, {})  # noqa: E731
    return {'ours': ours, 'PyTorch eager': eager, 'lightly': shipped}


def simclr(setting: Setting) -> Makers:
    """SimCLR with the official CIFAR-10 settings."""
    images = _noise(2048, 32)

    def eager(compiled: bool = False) -> Side:
        from benchmarks.torch_steps import SimCLR

        return Side(SimCLR(images, BATCH, compiled=compiled).step, BATCH)

    ours = lambda: step_of('simclr:cifar10', images, {})  # noqa: E731
    return {'ours': ours, 'PyTorch eager': eager, 'torch.compile': lambda: eager(compiled=True)}


def mocov3(setting: Setting) -> Makers:
    """MoCo v3 with ViT-Ti/16 on 96 pixels and heads of 1,024 hidden units."""
    images = _noise(256, 96)
    changes = {
        'encoder.name': 'vit_tiny', 'encoder.patch_size': 16,
        'projector.hidden_dim': 1024, 'predictor.hidden_dim': 1024,
    }  # fmt: skip

    def eager() -> Side:
        from benchmarks.torch_steps import MoCoV3

        return Side(MoCoV3(images, BATCH).step, BATCH)

    return {'ours': lambda: step_of('mocov3_vit', images, changes), 'PyTorch eager': eager}


def start(setting: Setting) -> Makers:
    """A command of two steps from its start to its end, with and without compiled programs of an earlier one."""

    def command(checkout: Path, warm: bool) -> Side:
        caches = Path(tempfile.mkdtemp(dir=setting.folder))

        def call() -> None:
            with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
                cache = str(caches) if warm else f'{folder}/cache'
                environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache, 'PYTHONPATH': str(checkout)}
                # An older version keeps programs that compile for more than a second alone, which jax does by default.
                arguments = [f'--config=configs/{RECIPE.replace(":", ".py:")}', f'--workdir={folder}/run']
                subprocess.run(
                    [sys.executable, '-m', 'contrastive_jax.main', *arguments],
                    cwd=checkout, env=environment, check=True, capture_output=True,
                )  # fmt: skip

        return Side(call, 1)

    here = Path(__file__).resolve().parents[1]
    sides = {'ours': lambda: command(here, True), 'ours, nothing compiled': lambda: command(here, False)}
    if (before := setting.before) is not None:
        sides['before'] = lambda: command(before, True)
    return sides


def _noise(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
