"""The encoder of a run, from its workdir: its config says what it is, its newest checkpoint holds the weights.

Or that of a file of weights (`contrastive_jax.convert`), in the same form.
"""

import contextlib
import dataclasses
import json
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.base import base_config, head_config
from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import CheckpointError, UserError
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.network import Network, Projection
from contrastive_jax.models.tokens import tokens
from contrastive_jax.models.vit import VisionTransformer, resize_positions
from contrastive_jax.workdir.checkpoint import read_part
from contrastive_jax.workdir.folder import CONFIG_FILE, read_config

# Where a state has the parameters of a network, and its BN statistics.
WEIGHTS = {
    'online': ('params', 'method/batch_stats/online'),
    'target': ('method/target', 'method/batch_stats/target'),
}

TRAINING = ('finetune', 'distill')  # protocols that train an encoder on


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
      projector_layers: of the projector's first layers, how many came along. Features are those of the encoder alone.
      projector_params: of these layers, numpy; {} of none.
      projector_stats: their BN statistics, numpy; {} without BN.
    """

    config: ConfigDict
    network: Network
    policy: Policy
    params: PyTree
    stats: PyTree
    step: int
    projector_layers: int = 0
    projector_params: PyTree = dataclasses.field(default_factory=dict)
    projector_stats: PyTree = dataclasses.field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        return self.network.encoder

    @property
    def variables(self) -> PyTree:
        """What `module.apply` takes; its images are those of `policy.normalize`."""
        return {'params': self.params, 'batch_stats': self.stats}

    @property
    def image_size(self) -> int:
        """Height and width of its images: those it was trained with, unless `at_size` says otherwise."""
        return self.config.data.image_size

    def with_tokens(self, last_blocks: int, average_pool: bool = False) -> 'Encoder':
        """The same ViT with the features of DINO's linear probe, see `models.tokens.Tokens`.

        Raises:
          UserError: it is no ViT, or has fewer blocks.
        """
        if last_blocks == 1 and not average_pool:
            return self
        asked = f'features of the last {last_blocks} blocks{" and of an average pool" if average_pool else ""}'
        if not isinstance(self.module, VisionTransformer):
            raise UserError(f'{asked}: {self.config.encoder.name} is no ViT -> last_blocks=1, without average_pool')
        if not 1 <= last_blocks <= self.module.depth:
            raise UserError(f'{asked}: the ViT has {self.module.depth} -> last_blocks=1 to {self.module.depth}')
        return dataclasses.replace(
            self, network=self.network.clone(encoder=tokens(self.module, last_blocks, average_pool))
        )

    def projected(self) -> 'Encoder':
        """The features are what comes out of the projector's layers that came along, such as InstDis's 128 numbers."""
        if not self.projector_layers:
            return self
        layers = Projection(self.network.encoder, self.network.projector, layers=self.projector_layers)
        params = {'encoder': self.params, 'projector': self.projector_params}
        stats = {name: x for name, x in (('encoder', self.stats), ('projector', self.projector_stats)) if x}
        return dataclasses.replace(self, network=self.network.clone(encoder=layers), params=params, stats=stats)

    def at_size(self, size: int) -> 'Encoder':
        """The same encoder for images of another size. A ViT's learned positions are interpolated as DINO does it.

        Raises:
          UserError: it does not take images of this size.
        """
        if size == self.image_size:
            return self
        config, params = self.config.copy_and_resolve_references(), self.params
        config.data.image_size = size
        images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
        try:
            jax.eval_shape(partial(self.module.apply, train=False), self.variables, images)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f'images of {size} pixels for {config.encoder.name}: {error}') from error
        if 'pos_embed' in params:
            side = size // self.module.patch_size
            params = {**params, 'pos_embed': np.asarray(resize_positions(params['pos_embed'][0], side, side))[None]}
        return dataclasses.replace(self, config=config, params=params)

    def __call__(self, images: Any) -> Array:
        """Features float32[n, D] of images uint8[n, H, W, 3] (RGB); they are normalised here."""
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise UserError(f'images are {images.dtype}{list(images.shape)} -> give uint8[n, H, W, 3], RGB in 0..255')
        return _features(self.variables, images, self.module, self.policy)


def load_encoder(path: str | Path, weights: str = 'online', projector_layers: int = 0) -> Encoder:
    """The encoder of a run or of a fine-tuning, from the newest checkpoint of its workdir, or of a file: only read.

        encoder = load_encoder('runs/digits')
        h = encoder(images)  # uint8[n, H, W, 3] -> float32[n, D]

    Args:
      path: the workdir, or a file that `contrastive_jax.pretrained.load` reads.
      weights: 'online', what was trained, or 'target', its moving average (BYOL's target, DINO's teacher).
      projector_layers: how many of the projector's first layers to bring along.

    Raises:
      UserError: no run there, a config that describes no encoder, a projector that has not so many layers, or a file
        that is not all there.
      CheckpointError: no checkpoint, or one of another architecture.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_file():
        if projector_layers:
            raise UserError(
                f'{path} is a file of weights, which holds no projector -> give the workdir of a run, or '
                'projector_layers=0'
            )
        return _of_file(folder, weights)
    if not folder.exists():
        raise UserError(f'{folder} does not exist -> give the workdir of a run, or a file of weights')
    config = read_config(folder)
    if 'protocol' in config and 'encoder' not in config:
        if config.protocol in TRAINING and weights != 'online':
            raise UserError(
                f"{folder} is a fine-tuning, which has no target -> use the weights that it tuned, 'online'"
            )
        config = _begun_with(folder, config)
    try:
        network, policy = build_network(config), build_policy(config)
        problems = policy.problems()
        _check_layers(path, network.projector, projector_layers)
        size = config.data.image_size

        def init() -> PyTree:
            images = jnp.zeros((2, size, size, 3), network.encoder.dtype)
            return network.init(jax.random.key(0), images, projector_layers, train=False, method='projector_features')

        shapes = jax.eval_shape(init)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{folder / CONFIG_FILE} describes no encoder: {reason} -> give the workdir of a run'
        ) from error
    if problems:
        raise UserError('\n'.join(problems))
    places = dict(zip(('params', 'batch_stats'), WEIGHTS[weights], strict=True))
    layers = [f'projector/{part}_{i}' for i in range(projector_layers) for part in ('linear', 'bn')]
    wanted: dict[str, Any] = {}
    for kind, tree in shapes.items():
        _put(wanted, places[kind], tree)
    try:
        below = tuple(f'{place}/{part}' for part in ('encoder', *layers) for place in places.values())
        step, part = read_part(folder, wanted, below)
    except CheckpointError as error:
        if weights == 'target' and f'it has no {below[0]}' in str(error):
            raise UserError(
                f'{folder} has no target: {config.method.name} keeps no moving average of its encoder -> use the '
                "weights that were trained, 'online'"
            ) from error
        raise
    found = {kind: reduce(getitem, place.split('/'), part) for kind, place in places.items() if kind in shapes}
    params, stats = found['params'], found.get('batch_stats', {})
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
        raise CheckpointError(f'the encoder in {folder} is not finite -> give another workdir')
    return Encoder(
        config,
        network,
        policy,
        params['encoder'],
        stats.get('encoder', {}),
        step,
        projector_layers,
        params.get('projector', {}),
        stats.get('projector', {}),
    )


def _begun_with(folder: Path, tuning: ConfigDict) -> ConfigDict:
    """The config of the run whose encoder a fine-tuning has trained on, with the images and the data of the tuning."""
    if tuning.protocol not in TRAINING:
        of = f'{folder} is the workdir of an evaluation ({tuning.protocol})'
        raise UserError(f'{of} -> give the workdir of the run that it judged: {tuning.get("init")}')
    init = Path(tuning.init).expanduser()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # at its end it says where that is, absolutely
        init = Path(json.loads((folder / 'eval' / f'{tuning.protocol}.json').read_text(encoding='utf-8'))['init'])
    if not init.exists():
        raise UserError(f'{folder} is a fine-tuning of {init}, which is not there any more -> bring it back')
    if init.is_file():
        config = _of_file(init, 'online').config
    else:
        config = read_config(init)
        config = _begun_with(init, config) if 'protocol' in config and 'encoder' not in config else config
    if tuning.data.source:
        config.data.update({name: tuning.data[name] for name in ('source', 'name', 'path')})
    if tuning.data.image_size:
        config.data.image_size = tuning.data.image_size
    return config


def _check_layers(path: str | Path, projector: nn.Module, count: int) -> None:
    """Raises UserError unless a projector has so many layers."""
    most = projector.num_layers if isinstance(projector, MLP) else 0
    if not 0 <= count <= most:
        held = str(most) if most else f'none that stand alone: it is a {type(projector).__name__}'
        raise UserError(f'projector_layers {count}: the projector of {path} has {held} -> use 0 to {most}')


def _of_file(file: Path, weights: str) -> Encoder:
    """The encoder of a file of weights."""
    from contrastive_jax import pretrained  # which reads workdirs by `load_encoder`

    held = pretrained.load(file, network=weights)
    config = base_config('moco')  # of its method nothing is known
    config.encoder, config.projector = ConfigDict(held.config), head_config(1, 1, 1)
    config.augment = ConfigDict(dataclasses.asdict(held.policy))
    config.data.source, config.data.image_size = '', held.image_size  # nor of its data
    stats = held.variables.get('batch_stats', {})
    return Encoder(config, build_network(config), held.policy, held.variables['params'], stats, step=0)


def _put(tree: dict[str, Any], place: str, value: PyTree) -> None:
    """tree['a']['b'] = value, for 'a/b'."""
    *above, last = place.split('/')
    reduce(lambda inner, name: inner.setdefault(name, {}), above, tree)[last] = value


@partial(jax.jit, static_argnums=(2, 3))
def _features(variables: PyTree, images: Array, module: nn.Module, policy: Policy) -> Array:
    x = policy.normalize(images, module.dtype)
    h: Any = module.apply(variables, x, train=False)
    return h.astype(jnp.float32)
