"""CPC v1 (arXiv 1807.03748) and v2 (1905.09272): latents of patches are predicted from the patches above them.

An encoder maps each patch to a latent. A context network combines the latents of a patch's row and of the rows above
it. Linear predictors predict latents in rows further down, which are classified among the latents of all patches of all
images. v2 predicts in four directions, and has a LayerNorm encoder, targets of 64 dimensions, and an augmentation of
each patch (`config.augment.patches`).

There is no official code. The layout follows the pseudo-code in the appendix of v2. Our choices: each direction has its
own context network and predictors, and all losses are added. In v1's f = exp(z' W c), W is the product of the projector
(a linear layer without bias, of the width of the encoder) and a predictor; v1 uses the context network of v2.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.cpc import CANDIDATES, DIRECTIONS, cpc_terms, rotate_to_direction
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, networks
from contrastive_jax.models.context import ContextNetwork
from contrastive_jax.models.cpc import CPC_ENCODERS, check_patches
from contrastive_jax.models.network import Network
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class CPC(base.Method):
    """Contrastive Predictive Coding on a grid of patches.

    Attributes:
      network: a CPC encoder, and a projector from latents to targets, which maps each patch by itself, without BN.
      directions: directions of the prediction, some of 'down', 'up', 'right', 'left'. v1: down only.
      offsets: distances in rows; those of overlapping patches are omitted. (3,) in v2's pseudo-code.
      scale: the factor of the predictions; 0.1 in v2, 1 in v1.
      candidates: the latents among which the predicted one is classified: 'global', 'batch' or 'image'; see
        `losses.cpc_grid`.
      context_blocks: number of residual blocks of the context network; 5 in v2.
      context_dim: number of channels inside these blocks; 256 in v2.
    """

    directions: tuple[str, ...] = field(('down', 'up', 'right', 'left'), choices=DIRECTIONS, min_items=1)
    offsets: tuple[int, ...] = field((3,), least=1, min_items=1)
    scale: float = field(0.1, above=0)
    candidates: str = field('global', choices=CANDIDATES)
    context_blocks: int = field(5, least=1)
    context_dim: int = field(256, least=1)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    patches: ClassVar[bool] = True

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        """The encoder must cut images into a grid, and all predicted patches must be in the grid."""
        m, e = c.method, c.encoder
        rules.rule(
            len(set(m.directions)) == len(m.directions),
            f'method.directions {m.directions!r} has a direction twice',
            field='method.directions',
            remedy='give each once',
        )
        if e.name not in CPC_ENCODERS:
            remedy = f'CPC needs one of {", ".join(CPC_ENCODERS)}'
            rules.add(f'encoder.name {e.name!r} encodes whole images', field='encoder.name', remedy=remedy)
            return
        hidden_norm = c.projector.get('num_layers', 1) > 1 and c.projector.get('batch_norm', True)
        rules.rule(
            not hidden_norm and not c.projector.get('last_batch_norm'),
            'projector.batch_norm would mix the patches, and CPC has no batch norm',
            field='projector.batch_norm',
            remedy='set batch_norm and last_batch_norm to False',
            value=False,
        )
        size, stride = e.patch_size, e.patch_stride
        if min(size, stride, c.data.image_size) < 1:
            return  # another rule reports it
        try:
            check_patches((c.data.image_size,), size, stride)
        except ValueError as error:
            rules.add(f'data.image_size, encoder.patch_size and encoder.patch_stride: {error}', field='data.image_size')
            return
        rows = (c.data.image_size - size) // stride + 1
        rules.rule(
            all(k < rows for k in m.offsets),
            f'method.offsets {m.offsets!r} do not fit a grid of {rows} rows',
            field='method.offsets',
            remedy=f'use numbers from 1 to {rows - 1}',
        )
        if p := c.augment.patches:
            rules.rule(
                (p.size, p.stride) == (size, stride),
                f'augment.patches has size {p.size}, stride {p.stride}',
                field='augment.patches.size' if p.size != size else 'augment.patches.stride',
                remedy=f'give those of the encoder, {size} and {stride}',
                value=size if p.size != size else stride,
            )

    @property
    def context(self) -> ContextNetwork:
        """The context network of one direction."""
        return ContextNetwork(self.context_blocks, self.context_dim, self.network.encoder.dtype)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        D = params['projector']['linear_0']['kernel'].shape[0]  # channels of the latents, which the projector takes
        K, target_dim = len(self.offsets), self.network.projector.output_dim
        context, predict = {}, {}
        for i, direction in enumerate(self.directions):
            key_context, key_predict = jax.random.split(jax.random.fold_in(rng, i + 1))
            context[direction] = self.context.init(key_context, jnp.zeros((1, 1, 1, D)))['params']
            predict[direction] = jax.random.normal(key_predict, (K, D, target_dim)) * D**-0.5
        return {**params, 'context': context, 'predict': predict}, state

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
        (latents, targets), _ = networks.apply(
            self.network, params, {}, batch['views'][0], axis_name, latents_and_targets
        )  # [b, R, C, D]

        outputs = []  # for each direction and offset, with arrays [b, R-k, C]
        for direction in self.directions:
            c: Any = self.context.apply(
                {'params': params['context'][direction]}, rotate_to_direction(latents, direction)
            )
            outputs += cpc_terms(
                c,
                rotate_to_direction(targets, direction),
                params['predict'][direction],
                offsets=self.offsets,
                candidates=self.candidates,
                scale=self.scale,
                axis_name=axis_name,
            )

        def mean(values: Iterable[Array]) -> Array:
            return jnp.mean(jnp.stack([jnp.mean(x) for x in values]))

        metrics = {
            'contrastive_top1': mean(output.correct for output in outputs),
            'positive_logit': mean(output.positive_logit for output in outputs),
            'feature_std': feature_std(normalize(latents.mean((1, 2))), axis_name),
        }
        return len(outputs) * mean(output.loss for output in outputs), (state, metrics)


def latents_and_targets(
    network: Network, x: Array, *, train: bool, axis_name: str | None = None
) -> tuple[Array, Array]:
    """Latents [B, R, C, D] of images or patches, and the targets of the prediction, [B, R, C, dim]."""
    z = network.encoder.grid(x, train=train, axis_name=axis_name)
    return z, network.projector(z, train=train, axis_name=axis_name)
