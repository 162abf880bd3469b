"""The interface between a method and the training loop, and functions that many methods share.

A method is a frozen dataclass that inherits from `Method`. Its fields are a network and hyperparameters, the same ones
as in the section `config.method`, so that a misspelled field raises an error and `repr(method)` shows all of them. It
holds no arrays. Everything that changes during training is passed in and returned: the trained parameters, and a
`MethodState` with everything else.

    params, state = method.init(rng, batch)                           once
    loss, (state, metrics) = method.loss(params, state, batch, ...)   every step; gradients with respect to params
    params, state = method.after_update(params, state, ...)           every step, after the optimizer

To write a method:

1. Declare the dataclass. `rules.field` declares the legal range of a field together with its default. Set the class
   constants of `Method` that differ from their defaults: from them the config check knows which networks and views the
   method can use.
2. `init` returns the parameters and the state at step 0. `init_online` and `init_online_and_target` do this for most
   methods. Every method trains `params['encoder']`, with the BN statistics `state.batch_stats['online']['encoder']`:
   this is the encoder that is evaluated and exported.
3. `loss` applies the networks in training mode (`project`, `predict` or `project_views`), computes a loss, and returns
   it with the new state and metrics. The new state has the structure, shapes and dtypes of the old one. Gradients must
   not flow through the state.
4. Override `after_update` if something changes after the optimizer's step, such as a target network, and `check` if a
   field is only legal together with other fields.
5. Write a config whose `method.name` is 'package.module:Class'. For a method of this package, add the class to
   `METHODS` in methods/__init__.py and the config to tests/train_steps.py; tests/methods/test_contract.py then checks
   it.

Many devices: `loss` runs on each device with the local examples, and the training loop averages losses, gradients and
metrics over the devices. The averages must be those of the whole batch on one device. For this, pass `axis_name` on to
networks and losses, and use `distributed.collectives` for everything else that depends on several examples. `rng` is
the same on all devices; `collectives.example_keys` derives a key for each example from it. On return the state is the
same on all devices, except the parts of the memory that `memory_spec` shards.
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
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
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.regression import negative_cosine
from contrastive_jax.models.network import Network
from contrastive_jax.rules import Rules

# One device's part of a batch, as a method gets it: b local examples of the B in the global batch.
#
#   views     tuple of augmented images [b, H, W, channels], or grids of patches [b, R, C, p, p, channels]; global first
#   index     int32[b], the index of each example in the data set
#   label     int32[b], the class of each example, -1 without labels
#
# and, if `Method.shuffles`:
#
#   shuffle   int32[B], a permutation of the global batch, the same on all devices
#   shuffled  the views in shuffled order: at the global position i those of example shuffle[i]
Batch = dict[str, Any]


class MethodState(flax.struct.PyTreeNode):
    """Everything that a method keeps between steps, except the trained parameters.

    Attributes:
      target: parameters that are not trained by gradients, such as those of a moving average; {} if there are none.
      batch_stats: BN statistics {'online': ..., 'target': ...}, separate for each network.
      memory: a dict of arrays such as a queue or a memory bank, with names that the method chooses; {} if there are
        none.
    """

    target: PyTree
    batch_stats: PyTree
    memory: PyTree


# What `Method.loss` returns: the loss, and as auxiliary output the new state and the metrics, which are scalars.
LossOutput = tuple[Array, tuple[MethodState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A method of self-supervised learning. Subclasses are frozen dataclasses, and are not subclassed further.

    The module docstring says how to write one. Three fields have a special meaning where a method declares them:
    `num_examples` (images in the training split), `steps_per_epoch` and `total_steps` are 0 in a config, and are set
    when data and length of the training are known.

    Attributes:
      network: encoder, projector and, if `has_predictor`, predictor.
      has_predictor: class constant; whether the network must have a predictor.
      global_views: class constant; the numbers of global views that a batch may have.
      multi_crop: class constant; whether a batch may have local views, which follow the global ones.
      patches: class constant; whether views may be grids of patches instead of images.
      concat_views: class constant; whether both views pass through the network in one batch, with common BN statistics.
      split_encoder: class constant; whether the encoder consists of two (models/split.py).
      supports_drop_path: class constant; whether the encoder may use stochastic depth.
      initializes_memory: class constant; whether training begins with a pass over the data that calls `init_memory`,
        and each epoch with a call of `before_epoch`.
      memory_spec: class constant; a pytree prefix of PartitionSpecs for `state.memory`. Sharded arrays are split over
        the devices; the default is that each device holds all of the memory.
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
        """Checks rules that involve several fields of a config. By default there are none.

        It is called before anything is compiled. The types and ranges that the fields declare with `rules.field`, and
        the requirements of the class constants, are checked elsewhere.

        Args:
          c: the whole config; the method's fields are in `c.method`.
          rules: collects the problems. For example, MoCo's `rules.multiple('method.queue_size', B, ...)` adds a problem
            if the batch size B does not divide the queue; `rules.rule(condition, message, field=..., remedy=...)` adds
            one if the condition is False.
        """
        del c, rules

    @property
    def shuffles(self) -> bool:
        """Whether keys are encoded in shuffled order; then a batch has the entries 'shuffle' and 'shuffled'."""
        return False

    @abc.abstractmethod
    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, MethodState]:
        """Returns the parameters and the state at step 0.

        Args:
          rng: a typed key.
          batch: 'views' of a global batch [B, H, W, C]; only the shapes matter.

        Returns:
          Trained parameters {'encoder': ..., ...}, and the state. They must not share buffers, because both are donated
          to the compiled step; see `copy`.
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
    ) -> LossOutput:
        """Computes the loss of the local examples.

        Args:
          params: trained parameters.
          state: the state after the previous step.
          batch: the local part of a batch; see `Batch`.
          rng: a typed key, the same on all devices, another one in each step.
          progress: step / total steps, in [0, 1).
          axis_name: the mapped device axis; None when the whole batch is on this device.

        Returns:
          loss, (state, metrics): the mean over the local examples, the new state, and scalars for the log, which the
          caller averages over the devices.
        """

    def after_update(
        self, params: PyTree, state: MethodState, *, progress: Array | float
    ) -> tuple[PyTree, MethodState]:
        """Changes the parameters or the state after the optimizer's step. By default it changes nothing.

        Args:
          params: trained parameters after the optimizer's step.
          state: the state that `loss` returned.
          progress: as for `loss`.

        Returns:
          The new parameters and the new state.
        """
        del progress
        return params, state

    def schedules(self, progress: float) -> dict[str, Array]:
        """What depends on the progress besides the learning rate, for messages: name -> value. By default nothing.

        Args:
          progress: step / total steps, in [0, 1].
        """
        del progress
        return {}

    def init_memory(
        self, params: PyTree, state: MethodState, batch: Batch, *, axis_name: str | None = None
    ) -> MethodState:
        """Fills the memory before step 0, if `initializes_memory`. It is called for each batch of one epoch.

        Args:
          params: untrained parameters.
          state: the state after the previous batch.
          batch: the local part of a batch.
          axis_name: as for `loss`.

        Returns:
          The new state.
        """
        raise NotImplementedError

    def before_epoch(self, state: MethodState, *, rng: Array, axis_name: str | None = None) -> MethodState:
        """Updates the state at the start of each epoch, if `initializes_memory`. It is a part of the first step.

        Args:
          state: the state after the previous step, or after `init_memory` in the first epoch.
          rng: a typed key, the same on all devices.
          axis_name: as for `loss`.

        Returns:
          The new state.
        """
        raise NotImplementedError


# ================================ initialization ================================


def init_network(network: Network, rng: Array, batch: Batch) -> tuple[PyTree, PyTree]:
    """Initializes the parameters and BN statistics of a network, for views of the shape of the first one.

    The key is `fold_in(rng, 0)`, so that the weights do not depend on what else a method derives from `rng`.
    """
    examples = jax.tree.map(lambda x: x[:2], batch['views'][0])  # BN needs more than one
    return _init_network(network, jax.random.fold_in(rng, 0), examples)


@partial(jax.jit, static_argnums=0)  # one trace for each network and shape, shared by the check of a config and the run
def _init_network(network: Network, rng: Array, x: Array) -> tuple[PyTree, PyTree]:
    variables = network.init(rng, x, train=True)
    return _as_dict(variables['params']), _as_dict(variables.get('batch_stats', {}))


def init_online(network: Network, rng: Array, batch: Batch) -> tuple[PyTree, MethodState]:
    """Parameters and state of a method with one network; without target and memory."""
    params, stats = init_network(network, rng, batch)
    return params, MethodState(target={}, batch_stats={'online': stats}, memory={})


def init_online_and_target(network: Network, rng: Array, batch: Batch) -> tuple[PyTree, MethodState]:
    """Parameters and state of a method whose target network starts as a copy of the online network; without memory.

    The target has no predictor.
    """
    params, stats = init_network(network, rng, batch)
    target, target_stats = copy((without_predictor(params), without_predictor(stats)))
    return params, MethodState(target=target, batch_stats={'online': stats, 'target': target_stats}, memory={})


def copy(tree: PyTree) -> PyTree:
    """Copies all arrays. A target that starts equal to the online network needs its own buffers: both are donated."""
    return jax.tree.map(jnp.copy, tree)


def without_predictor(params: PyTree) -> PyTree:
    """The parameters (or BN statistics) of the online network that a target network has: all but the predictor's."""
    return {name: part for name, part in params.items() if name != 'predictor'}


def _as_dict(tree: PyTree) -> PyTree:
    return tree.unfreeze() if isinstance(tree, FrozenDict) else tree


# ================================ networks in training mode =========================


def apply(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: Array,
    axis_name: str | None,
    method: str | Callable[..., Any] = '__call__',
    rngs: dict[str, Array] | None = None,
) -> tuple[Any, PyTree]:
    """Applies a network in training mode, in `network.chunks` chunks of the local batch.

    With more than one chunk no activations are stored: the backward pass recomputes them for one chunk at a time from
    its images (GradCache, arXiv 2101.06983). The loss has the embeddings of the whole batch, so that its value and
    gradient do not change. BN groups, if any, must lie within a chunk.

    Args:
      network: the network.
      params: its parameters.
      stats: its BN statistics.
      x: [b, ...] images, or other inputs of `method`.
      axis_name: the mapped device axis.
      method: the name of a method of the network, or a function of the network and x.
      rngs: keys for random operations of the network, such as drop path; not with several chunks.

    Returns:
      The output of `method`, and the new BN statistics.
    """

    def forward(x: Array) -> tuple[Any, PyTree]:
        variables = {'params': params, 'batch_stats': stats}
        out, new = network.apply(
            variables, x, train=True, axis_name=axis_name, method=method, rngs=rngs, mutable=['batch_stats']
        )
        return out, _as_dict(new.get('batch_stats', {}))

    if network.chunks == 1:
        return forward(x)
    chunks = x.reshape(network.chunks, -1, *x.shape[1:])
    out, new = lax.map(jax.checkpoint(forward, prevent_cse=False), chunks)  # not needed inside a loop
    # Each chunk averages the same old statistics with its own, so the mean is the average with those of the batch.
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), out), jax.tree.map(lambda s: s.mean(0), new)


def project(network: Network, params: PyTree, stats: PyTree, x: Array, axis_name: str | None) -> tuple[Array, PyTree]:
    """Returns z = projector(encoder(x)) in training mode, [b, D], and the new BN statistics."""
    (_, z), stats = apply(network, params, stats, x, axis_name, 'project')
    return z, stats


def predict(
    network: Network, params: PyTree, stats: PyTree, x: Array, axis_name: str | None
) -> tuple[tuple[Array, Array], PyTree]:
    """Returns z = projector(encoder(x)) and p = predictor(z) in training mode, [b, D] each; and new BN statistics."""
    (_, z, p), stats = apply(network, params, stats, x, axis_name)
    return (z, p), stats


def project_views(
    network: Network,
    params: PyTree,
    stats: PyTree,
    views: tuple[Array, ...],
    axis_name: str | None,
    drop_path: Array | None = None,
) -> tuple[Array, PyTree]:
    """Projects multi-crop views in training mode: one pass of the encoder for each image size, one of the projector.

    The rows of a pass are ordered by image, then view. So BN groups, and random operations that depend on the position,
    do not depend on the number of devices. A BN group of n images has all of their views in the pass.

    Args:
      network: encoder and projector.
      params: its parameters.
      stats: its BN statistics.
      views: V arrays [b, H, W, C]; views of the same size follow each other.
      axis_name: the mapped device axis.
      drop_path: a key for the drop path of the encoder; None: without drop path.

    Returns:
      Projections z [V, b, D], and the new BN statistics.
    """
    h: list[Array] = []
    for _, group in itertools.groupby(views, key=jnp.shape):
        x = jnp.stack(tuple(group), axis=1)  # [b, v, H, W, C]
        rngs = None if drop_path is None else {'drop_path': jax.random.fold_in(drop_path, len(h))}
        encoder = network.clone(encoder=_scale_bn_groups(network.encoder, x.shape[1]))
        rows, stats = apply(encoder, params, stats, x.reshape(-1, *x.shape[2:]), axis_name, 'encode', rngs)
        h.append(rows.reshape(*x.shape[:2], -1))
    rows = jnp.concatenate(h, axis=1)  # [b, V, D of h]
    project = lambda network, h, **kwargs: network.projector(h, **kwargs)  # noqa: E731
    projector = network.clone(projector=_scale_bn_groups(network.projector, len(views)))
    z, stats = apply(projector, params, stats, rows.reshape(-1, rows.shape[-1]), axis_name, project)
    return z.reshape(*rows.shape[:2], -1).swapaxes(0, 1), stats


def _scale_bn_groups(module: Any, views: int) -> Any:
    """The module with BN groups for `views` rows of each image."""
    group = getattr(module, 'bn_group_size', None)
    return module.clone(bn_group_size=group * views) if group else module


def unshuffle(keys: Array, shuffle: Array, axis_name: str | None = None) -> Array:
    """Restores the order of keys that were encoded in shuffled order (MoCo, section 3.3).

    Args:
      keys: [b, D] keys; the one at the global position i belongs to example shuffle[i].
      shuffle: int32[B], a permutation of the global batch.
      axis_name: the mapped device axis.

    Returns:
      [b, D] keys of the local examples.
    """
    inverse = jnp.argsort(shuffle)
    return collectives.all_gather(keys, axis_name)[collectives.local_rows(inverse, axis_name)]


# ================================ schedules and metrics ================================


def step_from_progress(progress: Array | float, total_steps: int) -> Array:
    """The step, int32, from progress = step / total_steps. In float32 it is exact below four million steps."""
    return jnp.round(jnp.asarray(progress) * total_steps).astype(jnp.int32)


def contrast_metrics(terms: ContrastiveOutput, temperature: float, negative_mean: Array) -> dict[str, Array]:
    """Metrics of a contrastive loss: top-1 accuracy, and similarities as cosines.

    Args:
      terms: the terms of the local queries.
      temperature: the temperature that the logits were divided by.
      negative_mean: mean cosine similarity of a query and a negative.
    """
    positive = jnp.mean(terms.positive_logit) * temperature
    return {
        'contrastive_top1': jnp.mean(terms.correct),
        'positive_similarity': positive,
        'negative_similarity': negative_mean,
        'alignment': 2.0 - 2.0 * positive,  # mean squared distance of unit vectors (Wang & Isola 2020)
    }


def regression_metrics(p: Array, z: Array, axis_name: str | None = None) -> dict[str, Array]:
    """Metrics of a regression loss: similarity of predictions p and targets z, [b, D], and collapse of the targets."""
    positive = -negative_cosine(p, z)
    return {
        'positive_similarity': positive,
        'alignment': 2.0 - 2.0 * positive,
        'feature_std': feature_std(z, axis_name),
    }


def mean_negative_similarity(q: Array, k: Array, axis_name: str | None = None) -> Array:
    """Mean cosine similarity of the local queries and the keys of the other examples in the global batch.

    Args:
      q: [b, D] local queries, unit vectors.
      k: [b, D] local keys, unit vectors.
      axis_name: the mapped device axis.
    """
    B = q.shape[0] * collectives.axis_size(axis_name)
    mean_key = collectives.pmean(jnp.mean(k, axis=0), axis_name)  # [D]
    all_pairs, positive = jnp.mean(q @ mean_key), jnp.mean(jnp.sum(q * k, axis=-1))
    return (all_pairs * B - positive) / max(B - 1, 1)
