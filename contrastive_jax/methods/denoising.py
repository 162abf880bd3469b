"""Denoising autoencoder (Vincent, Larochelle, Bengio, Manzagol, ICML 2008): an image is restored from a part of it.

A fixed share of the pixels of an image, chosen at random, is set to 0; the encoder sees the rest, and a decoder gives
the whole image. The loss is the cross-entropy of images in [0, 1].

The paper trains one layer after the other, each with the transposed weights as its decoder. Here a ResNet is trained
whole, and the decoder has weights of its own (models/decoder.py). There is no official code.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.losses.reconstruction import reconstruction_cross_entropy
from contrastive_jax.methods import base, decoding
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class DenoisingAutoencoder(base.Method):
    """Denoising autoencoder with masking noise.

    Attributes:
      network: a ResNet, and a projector that is applied to each position of its last feature map; no predictor.
      corruption: the share of pixels that are set to 0, in all channels. In the paper 0.1, 0.25, 0.4 of gray images.
      decoder_width: the channels of the decoder's first transposed convolution; each further one has half of them.
    """

    corruption: float = field(0.25, least=0, below=1)
    decoder_width: int = field(512, least=1)

    global_views: ClassVar[tuple[int, ...]] = (1,)

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        decoding.check_decoding(c, rules)
        for name, value in (('mean', 0.0), ('std', 1.0)):
            given, neutral = tuple(c.augment[name]), (value,) * c.data.get('channels', 3)
            rules.rule(
                given == neutral,
                f'augment.{name} {given!r} moves pixels out of [0, 1], where the cross-entropy is defined',
                field=f'augment.{name}',
                remedy=f'use {neutral!r}',
                value=neutral,
            )

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        return decoding.init(self.network, self.decoder_width, rng, batch)

    def loss(
        self,
        params: PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> base.LossOutput:
        del progress
        (x,) = batch['views']
        keys = collectives.example_keys(rng, collectives.positions(len(x), axis_name))
        corrupted = jax.vmap(lambda key, x: corrupt(key, x, self.corruption))(keys, x)
        logits, z, stats = decoding.reconstruct(
            self.network, self.decoder_width, params, state.batch_stats['online'], corrupted, axis_name
        )
        metrics = {
            'reconstruction_error': jnp.mean((jax.nn.sigmoid(logits) - x) ** 2),
            'feature_std': feature_std(normalize(z), axis_name),
        }
        state = dataclasses.replace(state, batch_stats={'online': stats})
        return reconstruction_cross_entropy(logits, x), (state, metrics)


def corrupt(key: Array, x: Array, share: float) -> Array:
    """Sets a fixed share of the pixels of one image [H, W, C], chosen at random, to 0; their number is rounded down."""
    pixels = x.reshape(-1, x.shape[-1])
    order = jnp.argsort(jax.random.uniform(key, (len(pixels),), jnp.float32))
    return pixels.at[order[: int(share * len(pixels))]].set(0).reshape(x.shape)
