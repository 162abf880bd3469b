"""Workdirs of runs that were never trained: a config and a checkpoint with weights that nobody initialises so."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.training.build import build_run
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir.checkpoint import Checkpoints
from contrastive_jax.workdir.folder import open_workdir


def save(config: ConfigDict, workdir: Path, steps: tuple[int, ...] = (3,), mode: str = 'jit', count: int = 1) -> PyTree:
    """Writes checkpoints of `steps`, from so many devices; returns the state of the last, as numpy."""
    run = build_run(config, 64)
    shapes = jax.eval_shape(lambda: init_state(run))
    devices = find_devices(mode, count)
    checkpoints = Checkpoints(open_workdir(str(workdir), config), devices, run.state_specs)
    for step in steps:
        state = draw(shapes, step)
        checkpoints.save(step, devices.place(state, run.state_specs))
    checkpoints.close()
    return state


def draw(shapes: PyTree, seed: int) -> PyTree:
    """Numbers for all floating-point arrays, zeros for the others: numpy makes them without compiling anything."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(lambda path, x: _draw(rng, path, x), shapes)


def _draw(rng: np.random.Generator, path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> np.ndarray:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return np.zeros(x.shape, x.dtype)
    # Small scales of BN would make all features equal up to rounding.
    if jax.tree_util.keystr(path, simple=True).endswith(('var', 'scale')):
        return rng.uniform(0.5, 2, x.shape).astype(x.dtype)
    return rng.normal(scale=0.2, size=x.shape).astype(x.dtype)
