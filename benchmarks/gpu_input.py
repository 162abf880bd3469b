"""The input of a streamed run: what the loader delivers, and how long the device waits for it."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks import programs, step
from benchmarks.measure import Spread, Timed, interleave
from benchmarks.programs import Program
from contrastive_jax.data.folder import load as open_folder
from contrastive_jax.data.loader import train_batches
from contrastive_jax.data.sources import Source, Subset
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.training.feed import StreamFeed
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state

FILES = 64  # distinct JPEG files
SIZE = 500, 375  # of each, as the median of ImageNet


class Input(NamedTuple):
    """Images/s of the loader alone, of steps on crops that are on the device, of both together; waiting time in %."""

    loader: Spread
    step: Spread
    together: Spread
    waits: Spread


def measure(small: bool, dtype: str) -> Input:
    """Measures MoCo v2 with ResNet-50 at 224 pixels; small: the tiny recipe.

    Args:
      small: whether the sizes are those for a CPU.
      dtype: the dtype of the network.
    """
    preset = step.PRESETS['tiny' if small else 'r50_imagenet']
    run = step.build(preset.methods['MoCo v2'], preset, 16 if small else 256, dtype)
    steps, windows = (2, 3) if small else (10, 5)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        files = open_folder(Path(folder), image_size=run.image_size)
        source = Subset(files, np.arange((windows + 2) * steps * run.batch_size) % FILES)
        loader = _loader(run, source, steps, windows)
        state = jax.jit(lambda: init_state(run))()
        timed = Timed(Program(programs.step(run), state, programs.crops(run, 10, np.random.default_rng(0))), steps)
        interleave([timed], windows)
        alone = np.array(timed.seconds)
        together = _together(run, source, steps, windows)
    waits = 100 * np.clip(1 - np.median(alone) / together, 0, 1)
    rate = lambda seconds: Spread.of(run.batch_size / seconds)  # noqa: E731
    return Input(rate(loader), rate(alone), rate(together), Spread.of(waits))


def write_files(folder: Path) -> None:
    """Writes FILES JPEG files of smooth noise, which compress like photos: some 60 kB each."""
    rng = np.random.default_rng(0)
    for k in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        fine = rng.normal(0, 8, (SIZE[1], SIZE[0], 3))
        pixels = np.clip(np.asarray(coarse, np.float32) + fine, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{k:02}.jpg', quality=85)


def _loader(run: Run, source: Source, steps: int, windows: int) -> np.ndarray:
    """Seconds a batch of the loader alone, for each window."""
    policy = run.policy
    batches = train_batches(
        source,
        seed=0,
        batch_size=run.batch_size,
        image_size=policy.view_sizes(run.image_size),
        num_views=policy.num_views,
        crop_scale=policy.view_scales,
        crop_ratio=policy.crop_ratio,
        interpolation=policy.interpolation,
        style=policy.style,
        stop_step=(windows + 1) * steps,
    )
    seconds = []
    for _ in range(windows + 1):
        began = time.perf_counter()
        for _ in range(steps):
            next(batches)
        seconds.append((time.perf_counter() - began) / steps)
    batches.close()  # type: ignore[attr-defined]
    return np.array(seconds[1:])  # the first window starts the threads


def _together(run: Run, source: Source, steps: int, windows: int) -> np.ndarray:
    """Seconds a step of the feed that training uses, for each window."""
    devices = find_devices('jit', count=1)
    feed = StreamFeed(dataclasses.replace(run, total_steps=(windows + 1) * steps), devices, source, workers=0)
    state: Any = devices.place(jax.jit(lambda: init_state(run))(), run.state_specs)
    seconds, at = [], 0
    try:
        for _ in range(windows + 1):
            began = time.perf_counter()
            state, metrics = feed.advance(state, at, at + steps)
            jax.block_until_ready((state, metrics))
            seconds.append((time.perf_counter() - began) / steps)
            at += steps
    finally:
        feed.close()
    return np.array(seconds[1:])  # the first window compiles
