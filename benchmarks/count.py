"""Counts the operations of recipes' train steps, without compiling or running anything.

    python -m benchmarks.count simclr byol swav dino:resnet50

Prints GFLOP per image, and the ratio to a supervised step on one view with the same encoder: the cost to expect.
"""

import argparse
import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import programs
from contrastive_jax.plan import flops
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import TrainState
from contrastive_jax.training.step import init_state

EXAMPLES, CLASSES = 1_281_167, 1000


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='+', help='a recipe of configs/ with its variants, e.g. dino:resnet50')
    for path in parser.parse_args(argv).config:
        method, supervised = count(path)
        print(f'{path:24} {method:8.2f} GFLOP/image  {method / supervised:5.2f} x supervised', flush=True)


def count(path: str, batch_size: int = 2) -> tuple[float, float]:
    """GFLOP per image of a config's train step and of the supervised step.

    Augmentation and work that is done once an epoch (DeepCluster's k-means) are left out. The cost of products with the
    embeddings of the batch grows with `batch_size`; for SimCLR at 4096 it is 12.6 MFLOP per image.
    """
    name, _, variant = path.partition(':')
    config = importlib.import_module(f'contrastive_jax.configs.{name}').get_config(variant)
    config.batch_size, config.bn_group_size = batch_size, 0
    if config.method.get('queue_size'):
        config.method.queue_size = config.method.queue_size // batch_size * batch_size
    run = programs.without_augmentation(build_run(config, EXAMPLES))
    crops = programs.crops(run, CLASSES, np.random.default_rng(0))
    steps: list[Any] = [programs.step(run)]

    def start() -> tuple[TrainState, TrainState]:
        state = init_state(run)
        step, supervised = programs.supervised(run, CLASSES, state)
        steps.append(step)
        return state, supervised

    traced = [
        jax.make_jaxpr(partial(step, axis_name=None))(state, crops)
        for state, step in zip(jax.eval_shape(start), steps, strict=True)
    ]
    method, supervised = (flops.count(jaxpr, of_branches=min) / batch_size / 1e9 for jaxpr in traced)
    return method, supervised


if __name__ == '__main__':
    main()
