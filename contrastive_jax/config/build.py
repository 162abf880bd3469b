"""What the sections of a config describe, as objects: the augmentation and the network."""

from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.models import network

TPU_TILE = 128  # images; see `models.network.Network`


def build_policy(config: ConfigDict) -> Policy:
    """The augmentation that the section `augment` of a config describes."""
    return Policy(**config.augment.to_dict())


def build_network(config: ConfigDict, platform: str = '') -> network.Network:
    """The network that the sections `encoder`, `projector` and `predictor` describe.

    Args:
      config: a config.
      platform: where it trains, as jax names it, such as 'tpu'; '': nothing depends on it.

    Raises:
      UserError: an unknown name or field.
    """
    return network.build(
        config.encoder.to_dict(),
        config.projector.to_dict(),
        config.predictor.to_dict() or None,
        dtype=config.dtype,
        bn_group_size=config.bn_group_size or None,
        chunks=config.chunks,
        tile=TPU_TILE if platform == 'tpu' else 0,
    )
