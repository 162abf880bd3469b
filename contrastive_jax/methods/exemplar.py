"""Exemplar (arXiv 1406.6909): each image is a class of its own, and a classifier tells its random views from others.

It is the softmax that InstDis, InvaSpread and MoCo answered: the classifier has a weight vector for every image, which
is trained like all other weights. The paper's surrogate classes are patches of 32 pixels from different images; here
they are images. Its network is a small one without batch norm; here it is a ResNet. There is no official code in
Python.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.classification import cross_entropy
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, networks
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class Exemplar(base.Method):
    """Exemplar-CNN: cross-entropy over all images of the data, as surrogate classes.

    Attributes:
      network: encoder and projector, no predictor.
      num_examples: N, the number of classes; 0 in a config: the number of examples in the data set.
    """

    num_examples: int = field(0, least=0)

    global_views: ClassVar[tuple[int, ...]] = (1,)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        D, N = self.network.projector.output_dim, max(self.num_examples, 1)  # a config that is checked has no data yet
        kernel = jax.random.normal(jax.random.fold_in(rng, 1), (D, N)) * D**-0.5
        return {**params, 'classifier': {'kernel': kernel, 'bias': jnp.zeros(N)}}, state

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
        z, stats = networks.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        z, classifier = jnp.maximum(z, 0), params['classifier']
        logits = jnp.matmul(z, classifier['kernel'], precision=lax.Precision.HIGHEST) + classifier['bias']  # [b, N]
        metrics = {
            'pretext_top1': jnp.mean(jnp.argmax(logits, axis=-1) == batch['index']),
            'feature_std': feature_std(normalize(z), axis_name),
        }
        state = dataclasses.replace(state, batch_stats={'online': stats})
        return cross_entropy(logits, batch['index']), (state, metrics)
