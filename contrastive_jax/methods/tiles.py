"""What relative position and jigsaw share: a 3 x 3 grid of tiles, each encoded by itself."""

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.methods import networks
from contrastive_jax.models.cpc import CPC_ENCODERS, check_patches
from contrastive_jax.models.network import Network
from contrastive_jax.models.vit import VITS
from contrastive_jax.rules import Rules

GRID = 3  # rows and columns
TILES = GRID * GRID


def project_tiles(
    network: Network, params: PyTree, stats: PyTree, tiles: Array, axis_name: str | None
) -> tuple[Array, PyTree]:
    """Encodes and projects each tile by itself, in training mode.

    Args:
      network: encoder and projector, the same for all tiles.
      params: its parameters.
      stats: its BN statistics.
      tiles: [b, 3, 3, p, p, C].
      axis_name: the mapped device axis.

    Returns:
      relu(z) [9, b, D] of the tiles, row by row, and new BN statistics.
    """
    tiles = tiles.reshape(len(tiles), TILES, *tiles.shape[3:])
    z, stats = networks.project_views(network, params, stats, tuple(jnp.moveaxis(tiles, 1, 0)), axis_name)
    return jnp.maximum(z, 0), stats


def check_grid(c: ConfigDict, rules: Rules) -> None:
    """Views must be cut into 3 x 3 tiles, and the encoder must encode images of any size."""
    name, patches = c.method.name, c.augment.patches
    if c.encoder.name in CPC_ENCODERS or c.encoder.name in VITS:
        message = f'encoder.name {c.encoder.name!r} does not encode tiles of any size'
        rules.add(message, field='encoder.name', remedy=f'{name} needs a ResNet, e.g. resnet50')
    if not patches:
        remedy = f'{name} needs tiles: start from its recipe in configs/'
        rules.add('augment.patches is empty', field='augment.patches', remedy=remedy)
        return
    size, stride, image = patches.size, patches.stride, c.data.image_size
    if min(size, stride, image) < 1:
        return  # another rule reports it
    try:
        check_patches((image,), size, stride)
    except ValueError as error:
        message = f'data.image_size, augment.patches.size and augment.patches.stride: {error}'
        rules.add(message, field='data.image_size')
        return
    fitting = size + (GRID - 1) * stride
    rules.rule(
        image == fitting,
        f'data.image_size {image} is cut into {(image - size) // stride + 1} rows, and {name} uses {GRID}',
        field='data.image_size',
        remedy=f'use {fitting}',
        value=fitting,
    )
