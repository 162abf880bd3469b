"""The encoder of a run, from its workdir: its config says what it is, its newest checkpoint holds the weights.

Or that of a file of weights (`contrastive_jax.convert`), in the same form.
"""

import dataclasses
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax import recipe, workdir
from contrastive_jax.augment.policy import Policy
from contrastive_jax.checkpoint import read_part
from contrastive_jax.errors import CheckpointError, UserError
from contrastive_jax.models.network import Network

Array = jax.Array
PyTree = Any

# Where a state has the parameters of an encoder, and its BN statistics.
WEIGHTS = {
    'online': ('params/encoder', 'method/batch_stats/online/encoder'),
    'target': ('method/target/encoder', 'method/batch_stats/target/encoder'),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A trained encoder, frozen: `encoder(images)` are its features, in evaluation mode.

    Attributes:
      config: of the run; of a file of weights only encoder, image size and pixels mean something.
      network: holds the Linen module of the encoder.
      policy: for the resizing of images and the normalisation of pixels.
      params: of the encoder, numpy.
      stats: its BN statistics, numpy; {} without BN.
      step: of the checkpoint; 0 of a file of weights.
    """

    config: ConfigDict
    network: Network
    policy: Policy
    params: PyTree
    stats: PyTree
    step: int

    @property
    def module(self) -> nn.Module:
        return self.network.encoder

    @property
    def variables(self) -> PyTree:
        """What `module.apply` takes; its images are those of `policy.normalize`."""
        return {'params': self.params, 'batch_stats': self.stats}

    @property
    def image_size(self) -> int:
        """Height and width that it was trained with."""
        return self.config.data.image_size

    def __call__(self, images: Any) -> Array:
        """Features float32[n, D] of images uint8[n, H, W, 3] (RGB); they are normalised here."""
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise UserError(f'images are {images.dtype}{list(images.shape)} -> give uint8[n, H, W, 3], RGB in 0..255')
        return _features(self.variables, images, self.module, self.policy)


def load_encoder(path: str | Path, weights: str = 'online') -> Encoder:
    """The encoder of a run, from the newest checkpoint of its workdir, or of a file. Both are only read.

        encoder = load_encoder('runs/digits')
        h = encoder(images)  # uint8[n, H, W, 3] -> float32[n, D]

    Args:
      path: the workdir, or a file that `contrastive_jax.convert.load` reads.
      weights: 'online', what was trained, or 'target', its moving average (BYOL's target, DINO's teacher).

    Raises:
      UserError: no run there, a config that describes no encoder, or a file that is not all there.
      CheckpointError: no checkpoint, or one of another architecture.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_file():
        return _of_file(folder, weights)
    config = workdir.read_config(folder)
    try:
        network, policy = recipe.build_network(config), recipe.policy(config)
        problems = policy.problems()
        size = config.data.image_size

        def init() -> PyTree:
            images = jnp.zeros((2, size, size, 3), network.encoder.dtype)
            return network.encoder.init(jax.random.key(0), images, train=False)

        shapes = jax.eval_shape(init)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{folder / workdir.FILE} describes no encoder: {reason} -> give the workdir of a run'
        ) from error
    if problems:
        raise UserError('\n'.join(problems))
    places = dict(zip(('params', 'batch_stats'), WEIGHTS[weights], strict=True))
    wanted: dict[str, Any] = {}
    for kind, tree in shapes.items():
        _put(wanted, places[kind], tree)
    step, part = read_part(folder, wanted, WEIGHTS[weights])
    found = {kind: reduce(getitem, place.split('/'), part) for kind, place in places.items() if kind in shapes}
    params, stats = found['params'], found.get('batch_stats', {})
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
        raise CheckpointError(f'the encoder in {folder} is not finite -> give another workdir')
    return Encoder(config, network, policy, params, stats, step)


def _of_file(file: Path, weights: str) -> Encoder:
    """The encoder of a file of weights."""
    from contrastive_jax import convert  # which reads workdirs by `load_encoder`

    held = convert.load(file, network=weights)
    config = recipe.base('moco')  # of its method nothing is known
    config.encoder, config.projector = ConfigDict(held.config), recipe.head(1, 1, 1)
    config.augment = ConfigDict(dataclasses.asdict(held.policy))
    config.data.source, config.data.image_size = '', held.image_size  # nor of its data
    stats = held.variables.get('batch_stats', {})
    return Encoder(config, recipe.build_network(config), held.policy, held.variables['params'], stats, step=0)


def _put(tree: dict[str, Any], place: str, value: PyTree) -> None:
    """tree['a']['b'] = value, for 'a/b'."""
    *above, last = place.split('/')
    reduce(lambda inner, name: inner.setdefault(name, {}), above, tree)[last] = value


@partial(jax.jit, static_argnums=(2, 3))
def _features(variables: PyTree, images: Array, module: nn.Module, policy: Policy) -> Array:
    x = policy.normalize(images, module.dtype)
    h: Any = module.apply(variables, x, train=False)
    return h.astype(jnp.float32)
