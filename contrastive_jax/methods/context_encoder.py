"""Context encoder (arXiv 1604.07379): the missing part of an image is predicted from what surrounds it.

Official source: pathak22/context-encoder, train.lua. Only the reconstruction loss is implemented: the adversarial loss,
which the paper weights with 0.001 against 0.999 and which makes pictures sharp, is left out. The channel-wise fully
connected layer between encoder and decoder is the projector here, a linear layer that is the same at all positions; the
encoder is a ResNet instead of an AlexNet.
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
from contrastive_jax.losses.reconstruction import masked_squared_error
from contrastive_jax.methods import base, decoding
from contrastive_jax.rules import Rules, field

REGIONS = ('center', 'blocks')
BLOCKS = 4  # of a quarter of the side each: up to a quarter of the image


@dataclasses.dataclass(frozen=True)
class ContextEncoder(base.Method):
    """Inpainting by a context encoder.

    Attributes:
      network: a ResNet, and a projector that is applied to each position of its last feature map; no predictor.
      region: what is missing: 'center', the central square of half the side; or 'blocks', four squares of a quarter of
        the side at random places, which may overlap.
      overlap: with 'center', a margin in pixels, inside of the square, that the encoder does see.
      overlap_weight: the weight of that margin in the loss.
      decoder_width: the channels of the decoder's first transposed convolution; each further one has half of them.
    """

    region: str = field('center', choices=REGIONS)
    overlap: int = field(7, least=0)
    overlap_weight: float = field(10.0, least=0)
    decoder_width: int = field(512, least=1)

    global_views: ClassVar[tuple[int, ...]] = (1,)

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        decoding.check_decoding(c, rules)
        most = max((c.data.image_size // 2 - 1) // 2, 0)
        rules.rule(
            c.method.region != 'center' or c.method.overlap <= most,
            f'method.overlap {c.method.overlap} leaves nothing to predict in the center of {c.data.image_size} pixels',
            field='method.overlap',
            remedy=f'use at most {most}',
            value=most,
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
        missing, weights = jax.vmap(lambda key: self.masks(key, x.shape[1]))(keys)  # [b, H, W]
        context = jnp.where(missing[..., None], 0, x)  # 0 is the mean of the data
        prediction, z, stats = decoding.reconstruct(
            self.network, self.decoder_width, params, state.batch_stats['online'], context, axis_name
        )
        metrics = {
            'reconstruction_error': masked_squared_error(prediction, x, missing),
            'feature_std': feature_std(normalize(z), axis_name),
        }
        state = dataclasses.replace(state, batch_stats={'online': stats})
        return masked_squared_error(prediction, x, weights), (state, metrics)

    def masks(self, key: Array, size: int) -> tuple[Array, Array]:
        """What is missing, bool [size, size], and the weights of the loss, [size, size], for one image."""
        if self.region == 'center':
            top, side = size // 4, size // 2
            square = _square(size, top, top, side)
            missing = _square(size, top + self.overlap, top + self.overlap, side - 2 * self.overlap)
            return missing, jnp.where(missing, 1.0, jnp.where(square, self.overlap_weight, 0.0))
        side = max(size // 4, 1)
        corners = jax.random.randint(key, (BLOCKS, 2), 0, size - side + 1, jnp.int32)
        missing = jnp.any(jax.vmap(lambda corner: _square(size, corner[0], corner[1], side))(corners), axis=0)
        return missing, missing.astype(jnp.float32)


def _square(size: int, top: Array | int, left: Array | int, side: int) -> Array:
    """bool [size, size], True inside of a square."""
    places = jnp.arange(size)
    inside = lambda start: (places >= start) & (places < start + side)  # noqa: E731
    return inside(top)[:, None] & inside(left)
