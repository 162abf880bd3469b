"""Reads the encoder of a run from its workdir: the config describes it, a checkpoint holds the weights."""

import contextlib
import json
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.config.stored import complete
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import CheckpointError, MissingPartError, UserError
from contrastive_jax.models.heads import MLP
from contrastive_jax.pretrained import hugging_face, tensorflow_files
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.workdir.folder import CONFIG_FILE, read_config
from contrastive_jax.workdir.reading import read_part

# weights -> where the state of a run has the parameters of that network, and its BN statistics.
PLACES = {
    'online': {'params': 'params', 'batch_stats': 'method/batch_stats/online'},
    'target': {'params': 'method/target', 'batch_stats': 'method/batch_stats/target'},
}

TRAINING = ('finetune', 'distill')  # the protocols that train an encoder

LoadConfig = Callable[[Path], ConfigDict]


def is_workdir(path: Path) -> bool:
    """Whether the path is a folder, but not one of a TensorFlow checkpoint, or of timm or transformers."""
    return path.is_dir() and not tensorflow_files.find(path) and not hugging_face.weights_in(path)


def load(
    workdir: Path, weights: str, projector_layers: int, config_of_file: LoadConfig, at: int | str | None = None
) -> Encoder:
    """Reads the encoder of a pre-training, a fine-tuning or a distillation. The workdir is not changed.

    Args:
      workdir: an absolute path.
      weights: a key of PLACES.
      projector_layers: the number of first layers of the projector to load as well.
      config_of_file: returns the config (`Encoder.config`) of the encoder in a file of weights; it is called if such a
        file is what a fine-tuning started from.
      at: the step of the checkpoint, or 'best'; None: the newest.

    Raises:
      UserError: no run, a config that describes no encoder, a run without a target network or without this
        checkpoint, or a projector with fewer layers.
      CheckpointError: no checkpoint, one of another architecture, or one whose values are not finite.
    """
    config = _config_of_encoder(workdir, weights, config_of_file)
    try:
        network, policy = build_network(config), build_policy(config)
        problems = policy.problems()
        _check_layers(workdir, network.projector, projector_layers)
        image_size = config.data.image_size

        def init() -> PyTree:
            images = jnp.zeros((2, image_size, image_size, policy.channels), network.encoder.dtype)
            return network.init(jax.random.key(0), images, projector_layers, train=False, method='projector_features')

        shapes = jax.eval_shape(init)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{workdir / CONFIG_FILE} describes no encoder: {reason} -> give the workdir of a run'
        ) from error
    if problems:
        raise UserError.of(problems)
    places = PLACES[weights]
    layers = [f'projector/{part}_{i}' for i in range(projector_layers) for part in ('linear', 'bn')]
    wanted: dict[str, Any] = {}
    for kind, tree in shapes.items():
        _put(wanted, places[kind], tree)
    try:
        below = tuple(f'{place}/{part}' for part in ('encoder', *layers) for place in places.values())
        step, part = read_part(workdir, wanted, below, at)
    except MissingPartError as error:
        if weights != 'target':
            raise
        raise UserError(
            f'{workdir} has no target network: {config.method.name} keeps no moving average of its encoder -> '
            "choose weights 'online'"
        ) from error
    found = {kind: reduce(getitem, place.split('/'), part) for kind, place in places.items() if kind in shapes}
    params, stats = found['params'], found.get('batch_stats', {})
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
        raise CheckpointError(f'the encoder in {workdir} contains NaN or infinity -> give another workdir')
    return Encoder(
        module=network.encoder,
        params=params['encoder'],
        stats=stats.get('encoder', {}),
        policy=policy,
        image_size=image_size,
        architecture=config.encoder.to_dict(),
        source=f'{workdir}, step {step}, {weights}',
        step=step,
        workdir=workdir,
        weights=weights,
        run_config=config,
        projector=network.projector,
        projector_layers=projector_layers,
        projector_params=params.get('projector', {}),
        projector_stats=stats.get('projector', {}),
    )


def _config_of_encoder(workdir: Path, weights: str, config_of_file: LoadConfig) -> ConfigDict:
    """The config of a run; for a fine-tuning, that of the run that it started from, with its own images and data."""
    config = read_config(workdir)
    if 'protocol' not in config or 'encoder' in config:
        return config if 'method' not in config else complete(config)
    if config.protocol not in TRAINING:
        raise UserError(
            f'{workdir} is the workdir of an evaluation ({config.protocol}) -> give the workdir of the run that it '
            f'evaluated: {config.get("init")}'
        )
    if weights != 'online':
        raise UserError(f"{workdir} is a fine-tuning, which has no target network -> choose weights 'online'")
    start = Path(config.init).expanduser()
    # The results of a finished fine-tuning hold the absolute path.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        results = workdir / 'eval' / f'{config.protocol}.json'
        start = Path(json.loads(results.read_text(encoding='utf-8'))['init'])
    if is_workdir(start):
        found = _config_of_encoder(start.absolute(), 'online', config_of_file)
    elif start.exists() or tensorflow_files.find(start):
        found = config_of_file(start)
    else:
        raise UserError(f'{workdir} is a fine-tuning of {start}, which does not exist -> restore it')
    if config.data.source:
        with found.unlocked():  # data of older versions has no keys
            found.data.update(
                {name: config.data.get(name, '') for name in ('source', 'name', 'path', 'image_key', 'label_key')}
            )
            found.data.value_range = config.data.get('value_range', 0.0)
    if config.data.image_size:
        found.data.image_size = config.data.image_size
    return found


def _check_layers(workdir: Path, projector: nn.Module, count: int) -> None:
    """Raises UserError unless the projector has so many layers."""
    most = projector.num_layers if isinstance(projector, MLP) else 0
    if not 0 <= count <= most:
        held = f'has {most}' if most else f'is a {type(projector).__name__}, which cannot be loaded in part'
        raise UserError(f'projector_layers {count}: the projector of {workdir} {held} -> use 0 to {most}')


def _put(tree: dict[str, Any], place: str, value: PyTree) -> None:
    """tree['a']['b'] = value, for the place 'a/b'."""
    *above, last = place.split('/')
    reduce(lambda inner, name: inner.setdefault(name, {}), above, tree)[last] = value
