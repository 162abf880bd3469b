"""What methods share that reconstruct an image from the last feature map of its encoder."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.methods import base, networks
from contrastive_jax.models.decoder import Decoder
from contrastive_jax.models.network import Network, encoder_class_or_none
from contrastive_jax.rules import Rules


def check_decoding(c: ConfigDict, rules: Rules) -> None:
    """The encoder must have a feature map, and the projector must map each of its positions by itself."""
    encoder = encoder_class_or_none(str(c.encoder.name))
    rules.rule(
        encoder is None or hasattr(encoder, 'feature_map'),  # an unknown name has a line of its own
        f'encoder.name {c.encoder.name!r} has no feature map to decode',
        field='encoder.name',
        remedy=f'{c.method.name} needs a ResNet, e.g. resnet50',
    )


def feature_map(network: Network, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
    """The projections [B, h, w, dim] of all positions of the encoder's last feature map, for images x [B, H, W, C]."""
    z = network.encoder.feature_map(x, train=train, axis_name=axis_name)
    return network.projector(z, train=train, axis_name=axis_name)


def decoder_for(network: Network, width: int, size: int, small: int, stride: int, channels: int) -> Decoder:
    """A decoder from maps of `small` positions along each axis to every `stride`-th pixel of images of `size` pixels.

    Raises:
      ValueError: the map cannot be doubled to that size.
    """
    doublings = (size // (small * stride)).bit_length() - 1
    if doublings < 0 or small * stride * 2**doublings != size:
        times = '' if stride == 1 else f' times the stride {stride}'
        raise ValueError(f'image size {size} is not {small}, the size of the feature map,{times} times a power of two')
    return Decoder(doublings, width, channels, network.encoder.dtype)


def init(
    network: Network, width: int, rng: Array, batch: base.Batch, *, stride: int = 1, channels: int | None = None
) -> tuple[PyTree, base.MethodState]:
    """As `networks.init_online`, with the parameters of the decoder; `stride` and `channels` as in `reconstruct`."""
    params, state = networks.init_online(network, rng, batch)
    x = batch['views'][0][:1]
    variables = {'params': params, 'batch_stats': state.batch_stats['online']}
    z = jax.eval_shape(lambda x: network.apply(variables, x, train=False, method=feature_map), x)
    decoder = decoder_for(network, width, x.shape[1], z.shape[1], stride, channels or x.shape[-1])
    return {**params, 'decoder': decoder.init(jax.random.fold_in(rng, 1), jnp.zeros(z.shape))['params']}, state


def reconstruct(
    network: Network,
    width: int,
    params: PyTree,
    stats: PyTree,
    x: Array,
    axis_name: str | None,
    *,
    stride: int = 1,
    channels: int | None = None,
) -> tuple[Array, Array, PyTree]:
    """Encodes and decodes images in training mode.

    Args:
      network: encoder and projector.
      width: the channels of the decoder's first transposed convolution.
      params: {'encoder': ..., 'projector': ..., 'decoder': ...}.
      stats: BN statistics of the network.
      x: [b, H, W, C] images.
      axis_name: the mapped device axis.
      stride: the reconstruction is of every stride-th pixel, along both axes.
      channels: the channels of the reconstruction, C; None: those of the images.

    Returns:
      The reconstruction [b, H / stride, W / stride, C], the projections [b, dim], averaged over positions, and the new
      BN statistics.
    """
    z, stats = networks.apply(network, params, stats, x, axis_name, feature_map)
    decoder = decoder_for(network, width, x.shape[1], z.shape[1], stride, channels or x.shape[-1])
    image: Any = decoder.apply({'params': params['decoder']}, z)
    return image, z.mean((1, 2)), stats
