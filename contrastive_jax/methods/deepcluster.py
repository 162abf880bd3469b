"""DeepCluster-v2 (arXiv 2006.09882, appendix): each crop predicts the cluster of its image in the previous epoch.

Official source: facebookresearch/swav, main_deepclusterv2.py. There the prototypes are the centroids, frozen throughout
training; here they are a part of the memory. There the embeddings of the last epoch are stored in the order of
training; here each example has a row. In both, examples that were dropped from the last epoch have no cluster.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.deepcluster import cluster_prediction, spherical_kmeans
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory, networks
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class DeepCluster(base.Method):
    """DeepCluster-v2.

    The memory has these entries. The rows of the first two are sharded over the devices:

      banks        for each of the two global views [rows, D], the last embedding of each example; zeros if the example
                   was not seen since the last clustering
      assignments  int32[rows, heads], the cluster of each example, -1 for none
      prototypes   for each head the centroids [K, D]
      entropy      entropy of the cluster sizes, divided by ln K, the mean over the heads

    Attributes:
      network: encoder and projector, no predictor.
      num_prototypes: K of each head. Head i clusters the bank of view i mod 2.
      temperature: T of the predictions.
      kmeans_iterations: number of k-means iterations.
      num_examples: rows of the banks; 0 in a config: the number of examples in the data set.
    """

    num_prototypes: tuple[int, ...] = field((3000, 3000, 3000), least=2, min_items=1)
    temperature: float = field(0.1, above=0)
    kmeans_iterations: int = field(10, least=1)
    num_examples: int = field(0, least=0)

    multi_crop: ClassVar[bool] = True
    initializes_memory: ClassVar[bool] = True
    memory_spec: ClassVar[PyTree] = {
        'banks': memory.BANK_SPEC,
        'assignments': memory.BANK_SPEC,
        'prototypes': REPLICATED,
        'entropy': REPLICATED,
    }

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        rows, D = memory.num_rows(self.num_examples), self.network.projector.output_dim
        new = {
            'banks': tuple(jnp.zeros((rows, D), jnp.float32) for _ in range(2)),
            'assignments': jnp.zeros((rows, len(self.num_prototypes)), jnp.int32),
            # `before_epoch` replaces them at step 0.
            'prototypes': tuple(
                normalize(jax.random.normal(jax.random.fold_in(rng, 1), (K, D))) for K in self.num_prototypes
            ),
            'entropy': jnp.zeros((), jnp.float32),
        }
        return params, dataclasses.replace(state, memory=new)

    def init_memory(
        self, params: PyTree, state: base.MethodState, batch: base.Batch, *, axis_name: str | None = None
    ) -> base.MethodState:
        stats, banks = state.batch_stats['online'], list(state.memory['banks'])
        for i, view in enumerate(batch['views'][:2]):  # in two passes, as in the official code
            z, stats = networks.project(self.network, params, stats, view, axis_name)
            banks[i] = memory.update_bank(banks[i], batch['index'], normalize(z), 0.0, axis_name)
        return dataclasses.replace(state, batch_stats={'online': stats}, memory=state.memory | {'banks': tuple(banks)})

    def before_epoch(self, state: base.MethodState, *, rng: Array, axis_name: str | None = None) -> base.MethodState:
        banks = state.memory['banks']
        prototypes, assignments, entropies = [], [], []
        for head, K in enumerate(self.num_prototypes):
            z = banks[head % 2]
            seen = jnp.any(z != 0, axis=1)
            key = jax.random.fold_in(rng, head)
            centroids = memory.sample_different_rows(key, z, seen, K, self.num_examples, axis_name)
            centroids, assigned = spherical_kmeans(
                z, centroids, iterations=self.kmeans_iterations, mask=seen, axis_name=axis_name
            )
            sizes = jnp.zeros(K, z.dtype).at[assigned].add(jnp.where(seen, 1.0, 0.0))
            sizes = collectives.psum(sizes, axis_name)
            p = sizes / jnp.maximum(jnp.sum(sizes), 1.0)
            entropies.append(jnp.sum(jax.scipy.special.entr(p)) / math.log(K))
            prototypes.append(centroids)
            assignments.append(assigned)
        new = {
            'banks': jax.tree.map(jnp.zeros_like, banks),
            'assignments': jnp.stack(assignments, axis=1),
            'prototypes': tuple(prototypes),
            'entropy': sum(entropies, jnp.zeros(())) / len(entropies),
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
        z, stats = networks.project_views(self.network, params, state.batch_stats['online'], batch['views'], axis_name)
        z = normalize(z)  # [V, b, D]
        assigned = memory.read_bank(state.memory['assignments'], batch['index'], axis_name)  # [b, heads]
        loss, top1 = jnp.zeros(()), jnp.zeros(())
        for head, C in enumerate(state.memory['prototypes']):
            scores = jnp.matmul(z, lax.stop_gradient(C).T, precision=lax.Precision.HIGHEST)  # [V, b, K]
            cluster = assigned[:, head]
            loss += cluster_prediction(scores, cluster, temperature=self.temperature, axis_name=axis_name)
            top1 += jnp.mean(jnp.argmax(scores[0], axis=-1) == cluster)
        heads = len(self.num_prototypes)
        loss, top1 = loss / heads, top1 / heads

        banks = tuple(
            memory.update_bank(bank, batch['index'], z[i], 0.0, axis_name)
            for i, bank in enumerate(state.memory['banks'])
        )
        metrics = {
            'cluster_top1': top1,
            'cluster_entropy': state.memory['entropy'],  # 0: all images in one cluster
            'relative_loss': loss * heads / sum(map(math.log, self.num_prototypes)),  # 1: all predictions are uniform
            'feature_std': feature_std(z[0], axis_name),
        }
        new = state.memory | {'banks': banks}
        return loss, (dataclasses.replace(state, batch_stats={'online': stats}, memory=new), metrics)
