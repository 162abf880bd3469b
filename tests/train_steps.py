"""Runs train steps of real configs on any number of virtual devices, in either mode."""

import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.methods import METHODS
from contrastive_jax.models.network import ENCODERS
from contrastive_jax.training import feed
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_memory_step, init_state

SURVEYED = 56  # three batches of 16 an epoch, and some that are left out

CONFIGS = (
    'mocov1:tiny',
    'mocov2:tiny',
    'mocov2:tiny,symmetric',
    'mocov3_r50:tiny',
    'mocov3_vit:tiny',
    'dictionary:end_to_end,tiny',
    'dictionary:memory_bank,tiny',
    'instdis:tiny',
    'instdis:cifar10,tiny',
    'invaspread:tiny',
    'cmc:tiny',
    'byol:tiny',
    'simsiam:tiny',
    'simclr:tiny',
    'simclrv2:tiny,memory',
    'dino:tiny',
    'dino:resnet50,tiny',
    'cpc:tiny',
    'cpc:v1,tiny',
    'swav:tiny',
    'swav:tiny,queue',
    'deepcluster:tiny',
    'deepcluster_v1:tiny',
    'exemplar:tiny',
    'relative_position:tiny',
    'denoising:tiny',
    'context_encoder:tiny',
    'colorization:tiny',
    'jigsaw:tiny',
    'barlow_twins:tiny',
    'vicreg:tiny',
    'nnclr:tiny',
)


def load(name: str, **changes: Any) -> ConfigDict:
    """The config of 'file:variants', with dotted fields changed."""
    file, _, variant = name.partition(':')
    config = importlib.import_module(f'contrastive_jax.configs.{file}').get_config(variant)
    config.update_from_flattened_dict(changes)
    return config


def load_small(name: str, depth: int = 1, color: bool = False, **changes: Any) -> ConfigDict:
    """The config of 'file:variants' with a shallow encoder and without color augmentation, which compiles quickly.

    Args:
      name: 'file:variants'.
      depth: stages of a ResNet, each of one block, or blocks of a ViT.
      color: keeps the color augmentation.
      **changes: dotted fields.
    """
    config = load(name, **changes)
    _, module = ENCODERS[config.encoder.name]
    fields = {field.name for field in dataclasses.fields(module)}
    sizes = {'depth': depth, 'stage_sizes': (1,) * depth}
    with config.unlocked():
        config.encoder.update({field: value for field, value in sizes.items() if field in fields})
        if not color:
            off = {'jitter_probability': 0.0, 'grayscale': 0.0, 'local_blur': 0.0}
            off |= {field: (0.0,) * len(config.augment[field]) for field in ('jitter', 'blur', 'solarize')}
            config.augment.update(off)
    return config


def view_shapes(run: Run) -> list[tuple[int, ...]]:
    """The shape of each view of a global batch: images [B, H, W, C], or grids of patches [B, R, C, p, p, C]."""
    B, C = run.batch_size, run.policy.channels
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))

    def shape(view: int, size: int) -> tuple[int, ...]:
        crops = jax.ShapeDtypeStruct((B, size, size, C), jnp.uint8)
        return jax.eval_shape(lambda keys, crops: run.policy.distort(keys, crops, view), keys, crops).shape

    return [shape(view, size) for view, size in enumerate(run.policy.view_sizes(run.image_size))]


def build(config: ConfigDict) -> tuple[Run, sources.Source]:
    source = open_source('digits')
    if METHODS[config.method.name].initializes_memory:  # all of the data, in each test: a few
        source = sources.ArraySource(source.array[:SURVEYED], source.labels[:SURVEYED], name=source.name)
    return build_run(config, len(source)), source


def start(run: Run, devices: Devices, dtype: str = 'float32') -> PyTree:
    """The state at step 0 in the devices' layout, its floating-point numbers in `dtype`."""

    def init() -> PyTree:
        state = init_state(run)
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    return devices.place(jax.jit(init)(), run.state_specs)


def surveyed(run: Run, source: sources.Source, devices: Devices, state: PyTree) -> PyTree:
    """The state after the pass over the data that some methods make before step 0."""
    if not run.method.initializes_memory:
        return state
    return feed.ResidentFeed(run, devices, source, 1, init_memory_step).advance(state, 0, run.steps_per_epoch)[0]


def steps(
    run: Run, source: sources.Source, devices: Devices, count: int
) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
    """The state after `count` steps in the global layout, as numpy, and the metrics of each."""
    data = feed.ResidentFeed(run, devices, source, 1)
    state, metrics = data.advance(surveyed(run, source, devices, start(run, devices)), 0, count)
    return jax.device_get(devices.collect(state, run.state_specs)), [devices.fetch(m) for m in metrics]


def relative_error(actual: PyTree, expected: PyTree) -> float:
    """The largest |a - b| / max|b| over the whole tree's scale: one number for trees whose leaves differ in size."""
    pairs = list(zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True))
    scale = max((float(np.max(np.abs(b), initial=0.0)) for _, b in pairs), default=1.0)
    errors = [float(np.max(np.abs(np.asarray(a, np.float64) - b), initial=0.0)) for a, b in pairs]
    return max(errors, default=0.0) / max(scale, 1e-30)
