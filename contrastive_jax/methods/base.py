"""The contract between a method and the loop.

A method is a frozen dataclass: its fields are its hyper-parameters (the config section `config.method`, one to one) and
its network, so `repr(method)` is the recipe and a typo raises. It holds no state. What it remembers goes in and comes
out as a `MethodState` of unchanged structure, shapes and dtypes; asking for a loss changes nothing.

    params, state = method.init(rng, batch)                           once
    loss, (state, metrics) = method.loss(params, state, batch, ...)   every step, differentiated in params
    params, state = method.after_update(params, state, ...)           after the optimizer

Every method trains `params['encoder']`; evaluation needs nothing else.
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.losses.regression import negative_cosine
from contrastive_jax.models.network import Network
from contrastive_jax.rules import Rules

Batch = dict[str, Any]


class MethodState(flax.struct.PyTreeNode):
    """What a method remembers besides the trained parameters.

    Attributes:
      target: parameters no gradient reaches: the moving average. {} where unused.
      batch_stats: {'online': ..., 'target': ...}: each network has its own BN statistics.
      memory: queue or bank, named by the method; {} where unused.
    """

    target: PyTree
    batch_stats: PyTree
    memory: PyTree


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A way to learn an encoder. Subclasses are frozen dataclasses and are not subclassed further.

    Fields named `num_examples`, `steps_per_epoch` and `total_steps`, for methods that need to know them, are 0 in a
    config: the data and the length of the training fill them in.

    Attributes:
      network: encoder, projector and, where the method predicts, predictor.
      has_predictor: class constant: whether the network has a predictor.
      global_views: class constant: how many global views a batch may have.
      multi_crop: class constant: whether local views may follow them.
      patches: class constant: whether a view is a grid of patches.
      concat_views: class constant: whether both views go through the network, and its batch norm, together.
      split_encoder: class constant: whether the encoder is split in two (models.split).
      supports_drop_path: class constant: whether the encoder may leave out branches in training.
      shuffles: class constant: whether keys are encoded in shuffled order, in which case a batch carries 'shuffle' and
        'shuffled' (see `loss`).
      initializes_memory: class constant: whether `init_memory` sees all of the data before step 0, and `before_epoch`
        is called.
      memory_spec: class constant: a pytree prefix of PartitionSpecs for `state.memory`.
    """

    network: Network

    has_predictor: ClassVar[bool] = False
    global_views: ClassVar[tuple[int, ...]] = (2,)
    multi_crop: ClassVar[bool] = False
    patches: ClassVar[bool] = False
    concat_views: ClassVar[bool] = False
    split_encoder: ClassVar[bool] = False
    supports_drop_path: ClassVar[bool] = False
    initializes_memory: ClassVar[bool] = False
    memory_spec: ClassVar[PyTree] = REPLICATED

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        """Adds to `rules` what is wrong with a config for this method. The default adds nothing.

        The types and ranges that the fields declare (`rules.field`) and the class constants are checked before; left
        are rules of several fields, such as a queue that the batch size must divide.
        """
        del c, rules

    @property
    def shuffles(self) -> bool:
        return False

    @abc.abstractmethod
    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, MethodState]:
        """Parameters and state at step 0.

        Args:
          rng: a typed key.
          batch: a global batch; only its shapes matter.

        Returns:
          Trained parameters {'encoder': ..., ...} and the state, sharing no buffer.
        """

    @abc.abstractmethod
    def loss(
        self,
        params: PyTree,
        state: MethodState,
        batch: Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """The loss of the local examples.

        Args:
          params: trained parameters.
          state: of the step before.
          batch: 'views': tuple of [b, H, W, C], global views first; 'index': int32[b] example ids; 'label': int32[b].
            If `shuffles`: 'shuffle': int32[B], a permutation of the global batch, and 'shuffled': the views of the
            examples shuffle[i] at the local positions i.
          rng: a key, the same on all devices.
          progress: step / total steps in [0, 1].
          axis_name: the mapped device axis; None when the whole batch is here.

        Returns:
          The mean over the local examples, the new state, and metrics (averaged over the devices by the caller).
        """

    def after_update(
        self, params: PyTree, state: MethodState, *, progress: Array | float
    ) -> tuple[PyTree, MethodState]:
        """What moves after the optimizer's step. Nothing, unless a method says otherwise."""
        del progress
        return params, state

    def init_memory(
        self, params: PyTree, state: MethodState, batch: Batch, *, axis_name: str | None = None
    ) -> MethodState:
        """Before step 0, if `initializes_memory`: the untrained network is shown every batch of one epoch.

        Args:
          params, batch, axis_name: as for `loss`.
          state: of the batch before.

        Returns:
          The new state.
        """
        raise NotImplementedError

    def before_epoch(self, state: MethodState, *, rng: Array, axis_name: str | None = None) -> MethodState:
        """At the start of every epoch, if `initializes_memory`; a part of its first step.

        Args:
          state: of the step before; in the first epoch that of `init_memory`.
          rng: a key, the same on all devices.
          axis_name: as for `loss`.

        Returns:
          The new state.
        """
        raise NotImplementedError


def init_network(network: Network, rng: Array, batch: Batch) -> tuple[PyTree, PyTree]:
    """Parameters and BN statistics of a network, from the shape of the first view.

    The network gets a key of its own, so that whatever else a method draws from `rng`, it starts from the same weights.
    """
    few = jax.tree.map(lambda x: x[:2], batch['views'][0])  # two examples: BN needs more than one
    variables = network.init(jax.random.fold_in(rng, 0), few, train=True)
    variables = jax.tree.map(jnp.asarray, dict(variables))
    return _plain(variables['params']), _plain(variables.get('batch_stats', {}))


def apply(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: Array,
    axis_name: str | None,
    method: str | Callable[..., Any] = '__call__',
    rngs: dict[str, Array] | None = None,
) -> tuple[Any, PyTree]:
    """The network in training mode, in `network.chunks` pieces of the local batch.

    Pieces keep no activations: the backward pass computes those of one piece at a time anew, from its images
    (GradCache, arXiv 2101.06983). The loss still sees the embeddings of the whole batch, so value and gradient stay the
    same; that takes BN groups, if any, that lie within a piece.

    Args:
      network, params, stats: what is applied, and its variables.
      x: [b, ...], images or what the method takes.
      axis_name: the mapped device axis.
      method: of the network, or a function of it and x.
      rngs: keys for what the network draws by position; one piece only.

    Returns:
      What the method returns, and the new BN statistics.
    """

    def forward(x: Array) -> tuple[Any, PyTree]:
        variables = {'params': params, 'batch_stats': stats}
        out, new = network.apply(
            variables, x, train=True, axis_name=axis_name, method=method, rngs=rngs, mutable=['batch_stats']
        )
        return out, _plain(new.get('batch_stats', {}))

    if network.chunks == 1:
        return forward(x)
    pieces = x.reshape(network.chunks, -1, *x.shape[1:])
    out, new = lax.map(jax.checkpoint(forward, prevent_cse=False), pieces)  # in a loop nothing can be merged
    # Every piece has moved the same old statistics towards its own: their mean has moved towards the batch's.
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), out), jax.tree.map(lambda s: s.mean(0), new)


def project(network: Network, params: PyTree, stats: PyTree, x: Array, axis_name: str | None) -> tuple[Array, PyTree]:
    """z = projector(encoder(x)) in training mode: [b, D], and the new BN statistics."""
    (_, z), stats = apply(network, params, stats, x, axis_name, 'project')
    return z, stats


def predict(
    network: Network, params: PyTree, stats: PyTree, x: Array, axis_name: str | None
) -> tuple[tuple[Array, Array], PyTree]:
    """z = projector(encoder(x)) and p = predictor(z) in training mode: [b, D] each, and the new BN statistics."""
    (_, z, p), stats = apply(network, params, stats, x, axis_name)
    return (z, p), stats


def step_of(progress: Array | float, total_steps: int) -> Array:
    """The step, int32: progress is step / total_steps. Exact below four million steps, in float32."""
    return jnp.round(jnp.asarray(progress) * total_steps).astype(jnp.int32)


def project_views(
    network: Network,
    params: PyTree,
    stats: PyTree,
    views: tuple[Array, ...],
    axis_name: str | None,
    drop_path: Array | None = None,
) -> tuple[Array, PyTree]:
    """Projections of the views of multi-crop in training mode: an encoder's pass for each size, one of the projector.

    The views of an image stand side by side in a pass, so that what is normalised in groups or drawn by position is the
    same on any number of devices. A BN group is one of so many images, with all of their views that are in the pass.

    Args:
      network: encoder and projector.
      params, stats: its variables.
      views: [b, H, W, C] each; those of one size follow each other.
      axis_name: the mapped device axis.
      drop_path: a key for encoders that leave out branches; None: they leave out none.

    Returns:
      z [V, b, D] and the new BN statistics.
    """
    h: list[Array] = []
    for _, group in itertools.groupby(views, key=jnp.shape):
        x = jnp.stack(tuple(group), axis=1)  # [b, v, H, W, C]
        rngs = None if drop_path is None else {'drop_path': jax.random.fold_in(drop_path, len(h))}
        encoder = network.clone(encoder=_grouped(network.encoder, x.shape[1]))
        rows, stats = apply(encoder, params, stats, x.reshape(-1, *x.shape[2:]), axis_name, 'encode', rngs)
        h.append(rows.reshape(*x.shape[:2], -1))
    rows = jnp.concatenate(h, axis=1)  # [b, V, D of h]
    project = lambda network, h, **how: network.projector(h, **how)  # noqa: E731
    projector = network.clone(projector=_grouped(network.projector, len(views)))
    z, stats = apply(projector, params, stats, rows.reshape(-1, rows.shape[-1]), axis_name, project)
    return z.reshape(*rows.shape[:2], -1).swapaxes(0, 1), stats


def _grouped(module: Any, views: int) -> Any:
    """A module for rows that are so many views of each image."""
    group = getattr(module, 'bn_group_size', None)
    return module.clone(bn_group_size=group * views) if group else module


def copy(tree: PyTree) -> PyTree:
    """A target that starts equal to the online network needs buffers of its own: both are donated."""
    return jax.tree.map(jnp.copy, tree)


def without_predictor(params: PyTree) -> PyTree:
    """The part of the online parameters that the target has: all but the predictor."""
    return {name: part for name, part in params.items() if name != 'predictor'}


def unshuffle(keys: Array, shuffle: Array, axis_name: str | None = None) -> Array:
    """Brings keys that were encoded in shuffled order back to their queries (MoCo, section 3.3).

    Args:
      keys: [b, D] of the examples shuffle[i], at the local positions i.
      shuffle: int32[B], a permutation of the global batch.
      axis_name: the mapped device axis.
    """
    back = jnp.argsort(shuffle)
    return collectives.all_gather(keys, axis_name)[collectives.local_rows(back, axis_name)]


def contrast_metrics(found: ContrastiveOutput, temperature: float, negative_mean: Array) -> dict[str, Array]:
    """How well the look-up went, in cosine similarities.

    Args:
      found: of the local queries.
      temperature: that the logits were divided by.
      negative_mean: mean cosine similarity of a query and a negative.
    """
    positive = jnp.mean(found.positive_logit) * temperature
    return {
        'contrastive_top1': jnp.mean(found.correct),
        'positive_similarity': positive,
        'negative_similarity': negative_mean,
        'alignment': 2.0 - 2.0 * positive,  # mean squared distance of unit vectors (Wang & Isola 2020)
    }


def regression_metrics(p: Array, z: Array, axis_name: str | None = None) -> dict[str, Array]:
    """How near predictions p come to the targets z, both [b, D], and whether those have collapsed."""
    positive = -negative_cosine(p, z)
    return {
        'positive_similarity': positive,
        'alignment': 2.0 - 2.0 * positive,
        'feature_std': feature_std(normalize(z), axis_name),
    }


def feature_std(z: Array, axis_name: str | None = None) -> Array:
    """Standard deviation of unit features over the global batch, times sqrt(D): 1 when spread, 0 when collapsed."""
    mean, square = collectives.pmean((jnp.mean(z, axis=0), jnp.mean(z * z, axis=0)), axis_name)
    return jnp.mean(jnp.sqrt(jnp.maximum(square - mean**2, 0.0))) * z.shape[-1] ** 0.5


def _plain(tree: PyTree) -> PyTree:
    return tree.unfreeze() if isinstance(tree, FrozenDict) else tree
