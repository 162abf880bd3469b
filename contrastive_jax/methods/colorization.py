"""Colorization (arXiv 1603.08511): the colors of an image are predicted from its lightness, as classes.

Official source: richzhang/colorization, train_alexnet and resources/caffe_traininglayers.py. The views are in Lab. The
encoder sees the first channel alone (`encoder.input_channels`), so the features of an image, also in evaluations, are
those of its lightness, and a gray copy of the image has the same ones. A decoder maps its last feature map to the
classes of every `stride`-th pixel.

The weights of rare colors need the distribution of the colors in the training images. A pass over the data before step
0 counts them, in random views as in training; the counts are a part of the state, so that a resumed run has the same
weights. There they are read from a file for ImageNet.

There the encoder is an AlexNet; here it is a ResNet. There an image without any color has no loss; here it has one.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.colorization import color_bins, color_targets, color_weights, colorization, count_colors
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, decoding
from contrastive_jax.rules import Rules, field

# The normalization of the views, from which a and b are taken: L in [-0.5, 0.5], a and b in about [-1, 1].
MEAN, STD = (50.0, 0.0, 0.0), (100.0, 110.0, 110.0)


@dataclasses.dataclass(frozen=True)
class Colorization(base.Method):
    """Colorful image colorization.

    The memory has these entries:

      counts   [Q], pixels of each color in the pass over the training images
      weights  [Q], the weight of a pixel of each color

    Attributes:
      network: a ResNet that sees one channel, and a projector that is applied to each position of its last feature map;
        no predictor.
      stride: the colors of every stride-th pixel, along both axes, are predicted; 4 in the paper, 8 for its AlexNet.
      neighbors: the number of bins in the soft target of a pixel; 5 in the paper, 10 in the official code.
      sigma: standard deviation of the Gaussians that weight these bins and smooth the distribution of the colors.
      uniform: the share of the uniform distribution in the one that the weights are the inverse of; 1: equal weights.
      decoder_width: the channels of the decoder's first transposed convolution; each further one has half of them.
    """

    stride: int = field(4, least=1)
    neighbors: int = field(5, least=1, most=len(color_bins()))
    sigma: float = field(5.0, above=0)
    uniform: float = field(0.5, above=0, most=1)
    decoder_width: int = field(512, least=1)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    initializes_memory: ClassVar[bool] = True

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        decoding.check_decoding(c, rules)
        name, seen = c.method.name, c.encoder.get('input_channels')
        given = (c.augment.color_space, tuple(c.augment.mean), tuple(c.augment.std))
        rules.rule(
            given == ('lab', MEAN, STD),
            f'augment.color_space, mean and std {given} are not those that {name} takes colors from',
            field='augment.color_space',
            remedy=f"use 'lab', {MEAN} and {STD}",
        )
        rules.rule(
            seen == 1,
            f'encoder.input_channels {seen!r} shows the encoder the colors that {name} predicts',
            field='encoder.input_channels',
            remedy='use 1, the lightness',
            value=1,
        )
        rules.rule(
            c.data.image_size % c.method.stride == 0,
            f'method.stride {c.method.stride} does not divide the image size {c.data.image_size}',
            field='method.stride',
            remedy='use a stride that does, e.g. 4',
        )

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        Q = len(color_bins())
        params, state = decoding.init(self.network, self.decoder_width, rng, batch, stride=self.stride, channels=Q)
        new = {'counts': jnp.zeros(Q, jnp.float32), 'weights': jnp.ones(Q, jnp.float32)}
        return params, dataclasses.replace(state, memory=new)

    def init_memory(
        self, params: PyTree, state: base.MethodState, batch: base.Batch, *, axis_name: str | None = None
    ) -> base.MethodState:
        del params
        old = state.memory
        counts = old['counts'] + count_colors(self.colors(batch['views'][0]), axis_name=axis_name)
        return dataclasses.replace(state, memory=old | {'counts': counts.astype(old['counts'].dtype)})

    def before_epoch(self, state: base.MethodState, *, rng: Array, axis_name: str | None = None) -> base.MethodState:
        del rng, axis_name  # the counts are the same on all devices, and in each epoch
        weights = color_weights(state.memory['counts'], uniform=self.uniform, sigma=self.sigma)
        return dataclasses.replace(state, memory=state.memory | {'weights': weights})

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
        del rng, progress
        (x,) = batch['views']
        ab = self.colors(x)  # [b, h, w, 2]
        Q, stats = len(color_bins()), state.batch_stats['online']
        logits, z, stats = decoding.reconstruct(
            self.network, self.decoder_width, params, stats, x, axis_name, stride=self.stride, channels=Q
        )  # [b, h, w, Q]
        nearest = color_targets(ab, neighbors=self.neighbors, sigma=self.sigma)[0][..., 0]  # as in the loss
        metrics = {
            'pretext_top1': jnp.mean(jnp.argmax(logits, axis=-1) == nearest),
            'feature_std': feature_std(normalize(z), axis_name),
        }
        loss = colorization(logits, ab, state.memory['weights'], neighbors=self.neighbors, sigma=self.sigma)
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}), metrics)

    def colors(self, x: Array) -> Array:
        """The a and b [b, h, w, 2] of every stride-th pixel of normalized views [b, H, W, 3]."""
        ab = x[:, :: self.stride, :: self.stride, 1:]
        return ab.astype(jnp.promote_types(x.dtype, jnp.float32)) * jnp.asarray(STD[1:], jnp.float32)
