"""DeepCluster (arXiv 1807.05520): k-means of the features, then a fresh classifier of the clusters, epoch by epoch.

Official source: facebookresearch/deepcluster, main.py and clustering.py. Features of all images are whitened by their
principal components, normalized and clustered at the start of each epoch; the classifier begins anew and has an
optimizer of its own. There the features are computed by a pass over central crops; here they are those of the last
epoch, in a memory bank, as in DeepCluster-v2. There images are drawn uniformly over the clusters; here the loss of an
image is weighted by the inverse size of its cluster, which the paper calls equivalent (section 3.3). There the network
is an AlexNet of Sobel-filtered images with dropout; here it is a ResNet of RGB without dropout.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.losses.classification import cross_entropy
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.deepcluster import kmeans, pca_whiten
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory, networks
from contrastive_jax.rules import Rules, field

# Of the classifier, in the official code; its learning rate is a field.
MOMENTUM, WEIGHT_DECAY, INITIAL_STD = 0.9, 1e-5, 0.01


@dataclasses.dataclass(frozen=True)
class DeepClusterV1(base.Method):
    """DeepCluster.

    The memory has these entries. The rows of the first two are sharded over the devices:

      bank         [rows, D], the last features of each example; zeros if it was not seen since the last clustering
      assignments  int32[rows, 1], the cluster of each example, -1 for none
      weights      [K], the weight of an image of each cluster; 0 for empty clusters
      classifier   {'kernel': [D, K], 'bias': [K]}, trained with SGD, and reset at the start of each epoch
      velocity     the momentum of its SGD
      entropy      entropy of the cluster sizes, divided by ln K

    Attributes:
      network: encoder and projector, no predictor.
      num_prototypes: K, the number of clusters; 10,000 in the paper.
      pca_dim: the number of principal components; 256 in the paper.
      kmeans_iterations: number of k-means iterations.
      classifier_learning_rate: the constant learning rate of the classifier.
      num_examples: rows of the bank; 0 in a config: the number of examples in the data set.
    """

    num_prototypes: int = field(10_000, least=2)
    pca_dim: int = field(256, least=1)
    kmeans_iterations: int = field(20, least=1)
    classifier_learning_rate: float = field(0.05, above=0)
    num_examples: int = field(0, least=0)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    initializes_memory: ClassVar[bool] = True
    memory_spec: ClassVar[PyTree] = {
        'bank': memory.BANK_SPEC,
        'assignments': memory.BANK_SPEC,
        'weights': REPLICATED,
        'classifier': REPLICATED,
        'velocity': REPLICATED,
        'entropy': REPLICATED,
    }

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        D = c.projector.get('output_dim', c.method.pca_dim)
        rules.rule(
            c.method.pca_dim <= D,
            f'method.pca_dim {c.method.pca_dim} is more than projector.output_dim {D}',
            field='method.pca_dim',
            remedy=f'use at most {D}',
            value=D,
        )

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        rows, D, K = memory.num_rows(self.num_examples), self.network.projector.output_dim, self.num_prototypes
        new = {  # `before_epoch` replaces all but the bank at step 0
            'bank': jnp.zeros((rows, D), jnp.float32),
            'assignments': jnp.zeros((rows, 1), jnp.int32),
            'weights': jnp.ones(K, jnp.float32),
            'classifier': init_classifier(jax.random.fold_in(rng, 1), D, K),
            'velocity': jax.tree.map(jnp.zeros_like, init_classifier(rng, D, K)),
            'entropy': jnp.zeros((), jnp.float32),
        }
        return params, dataclasses.replace(state, memory=new)

    def init_memory(
        self, params: PyTree, state: base.MethodState, batch: base.Batch, *, axis_name: str | None = None
    ) -> base.MethodState:
        z, stats = networks.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        bank = memory.write_bank(state.memory['bank'], batch['index'], z, axis_name)
        return dataclasses.replace(state, batch_stats={'online': stats}, memory=state.memory | {'bank': bank})

    def before_epoch(self, state: base.MethodState, *, rng: Array, axis_name: str | None = None) -> base.MethodState:
        bank, K = state.memory['bank'], self.num_prototypes
        key_start, key_kmeans, key_classifier = jax.random.split(rng, 3)
        seen = jnp.any(bank != 0, axis=1)
        x = normalize(pca_whiten(bank, self.pca_dim, mask=seen, axis_name=axis_name))
        centroids = memory.sample_different_rows(key_start, x, seen, K, self.num_examples, axis_name)
        _, assigned = kmeans(
            x, centroids, key=key_kmeans, iterations=self.kmeans_iterations, mask=seen, axis_name=axis_name
        )
        sizes = jnp.zeros(K, bank.dtype).at[assigned].add(jnp.where(seen, 1.0, 0.0))
        sizes = collectives.psum(sizes, axis_name)
        count, used = jnp.sum(sizes), jnp.sum(sizes > 0)
        classifier = init_classifier(key_classifier, bank.shape[1], K)
        new = {
            'bank': jnp.zeros_like(bank),
            'assignments': assigned[:, None],
            # As if images were drawn uniformly over the clusters that are not empty.
            'weights': jnp.where(sizes > 0, count / (used * jnp.maximum(sizes, 1)), 0.0),
            'classifier': jax.tree.map(lambda x: x.astype(bank.dtype), classifier),
            'velocity': jax.tree.map(lambda x: jnp.zeros_like(x, bank.dtype), classifier),
            'entropy': jnp.sum(jax.scipy.special.entr(sizes / jnp.maximum(count, 1.0))) / math.log(K),
        }
        return dataclasses.replace(state, memory=new)

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
        old, index = state.memory, batch['index']
        z, stats = networks.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        cluster = memory.read_bank(old['assignments'], index, axis_name)[:, 0]  # [b]
        weights = jnp.where(cluster >= 0, lax.stop_gradient(old['weights'])[jnp.maximum(cluster, 0)], 0.0)

        def scores(classifier: PyTree, z: Array) -> Array:
            return (
                jnp.matmul(jnp.maximum(z, 0), classifier['kernel'], precision=lax.Precision.HIGHEST)
                + classifier['bias']
            )

        def objective(classifier: PyTree, z: Array) -> Array:
            labels = jnp.maximum(cluster, 0)
            return cross_entropy(scores(classifier, z), labels, weights=weights, axis_name=axis_name)

        classifier = lax.stop_gradient(old['classifier'])
        loss = objective(classifier, z)
        gradient = collectives.pmean(jax.grad(objective)(classifier, lax.stop_gradient(z)), axis_name)
        velocity = jax.tree.map(
            lambda v, g, w: MOMENTUM * v + g + WEIGHT_DECAY * w, old['velocity'], gradient, classifier
        )
        trained = jax.tree.map(lambda w, v: w - self.classifier_learning_rate * v, classifier, velocity)

        metrics = {
            'pretext_top1': jnp.mean(jnp.argmax(scores(classifier, z), axis=-1) == cluster),
            'cluster_entropy': old['entropy'],  # 0: all images in one cluster
            'feature_std': feature_std(normalize(z), axis_name),
        }
        bank = memory.write_bank(old['bank'], index, z, axis_name)
        new = old | {'bank': bank, 'classifier': trained, 'velocity': lax.stop_gradient(velocity)}
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}, memory=new), metrics)


def init_classifier(key: Array, D: int, K: int) -> PyTree:
    """A new linear classifier of K clusters from D features."""
    kernel = INITIAL_STD * jax.random.normal(key, (D, K), jnp.float32)
    return {'kernel': kernel, 'bias': jnp.zeros(K, jnp.float32)}
