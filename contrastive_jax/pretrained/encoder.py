"""A trained encoder: its network, its weights, and how images are prepared for it."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.base import base_config, head_config
from contrastive_jax.data.pixels import WHITE
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import UserError
from contrastive_jax.models.network import Network, Projection
from contrastive_jax.models.positions import resize_positions
from contrastive_jax.models.tokens import Tokens, tokens
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained import architecture as architectures

# The networks of a method: the one that is trained, and its moving average (BYOL's target, MoCo's key encoder, DINO's
# teacher).
WEIGHTS = ('online', 'target')

Say = Callable[[str], None]  # is called with one line of text for the user


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """A trained encoder with frozen weights. `encoder(images)` computes features in evaluation mode:

        encoder = contrastive_jax.load_encoder('runs/digits')
        h = encoder(images)  # uint8[n, H, W, C], C = 3 for RGB -> float32[n, D]

    In a Flax program of your own, use its Linen module and variables:

        x = encoder.policy.normalize(images)
        h = encoder.module.apply(encoder.variables, x, train=False)

    Attributes:
      module: the Linen module; it maps normalized images [B, H, W, C] to features [B, D].
      params: the parameters of the module, numpy arrays.
      stats: the BN statistics of the module, numpy arrays; {} without batch norm.
      policy: how images are resized and their pixels normalized. Of a file of weights, its other fields, the
        augmentation, are defaults.
      image_size: height and width of the images; the size that it was trained with, unless `at_size` changed it.
      architecture: the section `encoder` of a config, {'name': ..., and fields of the module}.
      source: where the encoder comes from, in words.
      step: the training step of the checkpoint; None if the encoder is from a file of weights.
      workdir: the workdir of the run; None if the encoder is from a file of weights.
      weights: which network of the run it is, a value of WEIGHTS; '' if the encoder is from a file of weights.
      run_config: the config of the run; None if the encoder is from a file of weights.
      projector: the projector that it was trained with; None if the encoder is from a file of weights.
      projector_layers: the number of first layers of the projector whose weights were loaded. They do not change the
        features, unless `projected` is called.
      projector_params: the parameters of these layers, numpy arrays; {} if there are none.
      projector_stats: the BN statistics of these layers, numpy arrays; {} without batch norm.
    """

    module: nn.Module
    params: PyTree
    stats: PyTree
    policy: Policy
    image_size: int
    architecture: dict[str, Any]
    source: str
    step: int | None = None
    workdir: Path | None = None
    weights: str = ''
    run_config: ConfigDict | None = None
    projector: nn.Module | None = None
    projector_layers: int = 0
    projector_params: PyTree = dataclasses.field(default_factory=dict)
    projector_stats: PyTree = dataclasses.field(default_factory=dict)

    def __call__(self, images: Any) -> Array:
        """Computes features.

        Args:
          images: uint8 or uint16[n, H, W, C], with the number of channels that it was trained with, mostly RGB; they
            are normalized here.

        Returns:
          float32[n, D].

        Raises:
          UserError: images of another dtype or shape.
        """
        C, given = self.channels, f'images are {images.dtype}{list(images.shape)}'
        if images.ndim != 4 or images.shape[3] != C or images.dtype not in WHITE:
            kind = 'RGB in 0..255, or uint16' if C == 3 else f'with the {C} channels of its training, or uint16'
            raise UserError(f'{given} -> give uint8[n, H, W, {C}], {kind}')
        return _features(self.variables, images, self.module, self.policy)

    def __repr__(self) -> str:
        return (
            f'<Encoder {architectures.text(self.architecture)}: images of {self.image_size} x {self.image_size} x '
            f'{self.channels} -> {self.num_features:,} features; from {self.source}>'
        )

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables of the module: {'params': ..., 'batch_stats': ...}, without 'batch_stats' if there are none."""
        return {'params': self.params, 'batch_stats': self.stats} if self.stats else {'params': self.params}

    @property
    def flat(self) -> dict[str, np.ndarray]:
        """The arrays in `variables` by their paths, such as 'params/conv1/kernel'."""
        return {path: np.asarray(x) for path, x in flatten_dict(self.variables, sep='/').items()}

    @property
    def fingerprint(self) -> str:
        """A hash of all weights: the same for the same weights, wherever they were loaded from."""
        digest = hashlib.sha256()
        weights = (self.params, self.stats, self.projector_params, self.projector_stats)
        for path, x in jax.tree_util.tree_leaves_with_path(weights):
            digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(x).tobytes())
        return digest.hexdigest()[:16]

    @property
    def num_parameters(self) -> int:
        """The number of trained values; BN statistics are not counted."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))

    @property
    def channels(self) -> int:
        """C, the number of channels of an image."""
        return self.policy.channels

    @property
    def num_features(self) -> int:
        """D, the number of features of an image."""
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), np.float32)
        features: Any = jax.eval_shape(partial(self.module.apply, train=False), self.variables, images)
        return int(features.shape[1])

    @property
    def network(self) -> Network:
        """The module and the projector as one network."""
        return Network(self.module, cast(nn.Module, self.projector))  # None is legal while no projection is computed

    @property
    def config(self) -> ConfigDict:
        """The config of the run; for a file of weights, a config with its encoder, policy and image size only."""
        if self.run_config is not None:
            return self.run_config
        config = base_config('moco')  # a file does not name the method; nothing reads the section
        config.encoder, config.projector = ConfigDict(self.architecture), head_config(1, 1, 1)
        config.augment = ConfigDict(dataclasses.asdict(self.policy))
        config.data.source, config.data.image_size, config.data.channels = '', self.image_size, self.channels
        return config

    def with_tokens(self, last_blocks: int, average_pool: bool = False) -> 'Encoder':
        """The same ViT with the features of DINO's linear probe, see `models.tokens.Tokens`.

        Args:
          last_blocks: the number of last blocks whose class tokens are concatenated.
          average_pool: also concatenate the mean of the patch tokens of the last block.

        Raises:
          UserError: the encoder is not a ViT, or has fewer blocks.
        """
        if last_blocks == 1 and not average_pool:
            return self
        asked = f'features of the last {last_blocks} blocks{" and of an average pool" if average_pool else ""}'
        if not isinstance(self.module, VisionTransformer):
            raise UserError(f'{asked}: {self.architecture["name"]} is not a ViT -> last_blocks=1, without average_pool')
        if not 1 <= last_blocks <= self.module.depth:
            raise UserError(f'{asked}: the ViT has {self.module.depth} -> last_blocks=1 to {self.module.depth}')
        return dataclasses.replace(self, module=tokens(self.module, last_blocks, average_pool))

    def projected(self) -> 'Encoder':
        """An encoder whose features are the outputs of the loaded projector layers, such as InstDis's 128 values."""
        if not self.projector_layers:
            return self
        stats = {name: x for name, x in (('encoder', self.stats), ('projector', self.projector_stats)) if x}
        return dataclasses.replace(
            self,
            module=Projection(self.module, cast(nn.Module, self.projector), layers=self.projector_layers),
            params={'encoder': self.params, 'projector': self.projector_params},
            stats=stats,
        )

    def at_size(self, size: int) -> 'Encoder':
        """The same encoder for images of another size. A ViT's learned positions are interpolated as in DINO's code.

        Args:
          size: height and width of the images, in pixels.

        Raises:
          UserError: the encoder cannot take images of this size.
        """
        if size == self.image_size:
            return self
        images = jax.ShapeDtypeStruct((2, size, size, self.channels), np.float32)
        try:
            jax.eval_shape(partial(self.module.apply, train=False), self.variables, images)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f'images of {size} pixels for {self.architecture["name"]}: {error}') from error
        params = self.params
        if 'pos_embed' in params and isinstance(self.module, VisionTransformer):
            side = size // self.module.patch_size
            params = {**params, 'pos_embed': np.asarray(resize_positions(params['pos_embed'][0], side, side))[None]}
        return dataclasses.replace(self, image_size=size, params=params)

    def with_channels(self, channels: int) -> 'Encoder':
        """The same encoder for images of another number of channels C, by timm's rule for `in_chans`.

        The three inputs of the first convolution are repeated, 1, 2, 3, 1, 2, ..., and multiplied by 3 / C; for one
        channel they are summed. Mean and standard deviation of the pixels are repeated, or averaged for one channel.

        Args:
          channels: C.

        Raises:
          UserError: the encoder does not take RGB, or has more than one array that depends on C.
        """
        if channels == self.channels:
            return self
        name = self.architecture['name']
        if self.channels != 3 or self.policy.color_space != 'rgb':
            raise UserError(
                f'{name} takes {self.channels} channels in {self.policy.color_space}, and only encoders of RGB are '
                'adapted -> give weights for RGB'
            )
        shapes = [flatten_dict(self._shapes(C), sep='/') for C in (3, channels)]
        paths = [path for path, x in shapes[0].items() if x.shape != shapes[1][path].shape]
        if len(paths) != 1:
            count = f'{len(paths)} arrays that depend on the number of channels'
            raise UserError(f'{name} has {count}, not one -> choose another encoder')
        flat = flatten_dict(self.variables, sep='/')
        kernel, wanted = np.asarray(flat[paths[0]]), shapes[1][paths[0]].shape
        axis = next(i for i, n in enumerate(wanted) if n != kernel.shape[i])
        if channels == 1:
            kernel, how = kernel.sum(axis=axis, keepdims=True), lambda x: (float(np.mean(x)),)
        else:
            kernel = kernel.take(np.arange(channels) % 3, axis=axis) * np.float32(3 / channels)
            how = lambda x: tuple(x[i % 3] for i in range(channels))  # noqa: E731
        variables = unflatten_dict({**flat, paths[0]: kernel}, sep='/')
        policy = dataclasses.replace(self.policy, mean=how(self.policy.mean), std=how(self.policy.std))
        source = f'{self.source}, its first convolution repeated for {channels} channels'
        return dataclasses.replace(self, params=variables['params'], policy=policy, source=source)

    def _shapes(self, channels: int) -> PyTree:
        images = jax.ShapeDtypeStruct((2, self.image_size, self.image_size, channels), np.float32)
        return jax.eval_shape(partial(self.module.init, train=False), jax.random.key(0), images)

    def check_savable(self) -> None:
        """Raises UserError if `with_tokens` or `projected` changed the features, which a file cannot describe."""
        if isinstance(self.module, Tokens | Projection):
            raise UserError(
                f'the features of {self.architecture["name"]} were changed by with_tokens or projected, which a file '
                'cannot describe -> save the encoder as it was loaded, and change its features after loading the file'
            )


@partial(jax.jit, static_argnums=(2, 3))
def _features(variables: PyTree, images: Array, module: nn.Module, policy: Policy) -> Array:
    x = policy.normalize(images, module.dtype)
    h: Any = module.apply(variables, x, train=False)
    return h.astype(jnp.float32)
