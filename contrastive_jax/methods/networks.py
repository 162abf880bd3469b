"""A method's networks: initializes them, and applies them in training mode."""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.methods.base import Batch, MethodState
from contrastive_jax.models.network import Network


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


def project_each(
    network: Network, params: PyTree, stats: PyTree, views: Sequence[Array], axis_name: str | None
) -> tuple[list[Array], PyTree]:
    """Returns z = projector(encoder(x)) in training mode, [b, D] for each view; and the new BN statistics.

    Each view has BN statistics of its own, as if the views came one after the other.
    """
    found, stats = _apply_to_each(network, params, stats, views, axis_name, 'project')
    return [z for _, z in found], stats


def predict_each(
    network: Network, params: PyTree, stats: PyTree, views: Sequence[Array], axis_name: str | None
) -> tuple[list[tuple[Array, Array]], PyTree]:
    """Returns z = projector(encoder(x)) and p = predictor(z), [b, D] each, for each view; and the new BN statistics.

    In training mode. Each view has BN statistics of its own, as if the views came one after the other.
    """
    found, stats = _apply_to_each(network, params, stats, views, axis_name, '__call__')
    return [(z, p) for _, z, p in found], stats


def _apply_to_each(
    network: Network, params: PyTree, stats: PyTree, views: Sequence[Array], axis_name: str | None, method: str
) -> tuple[list[tuple[Array, ...]], PyTree]:
    """Applies a network to views of one size: one after the other, or in one pass if that fills fewer tiles."""
    passes = [(network, [view]) for view in views]
    parts = {name: getattr(network, name) for name in ('encoder', 'projector', 'predictor')}
    parts = {name: part for name, part in parts.items() if part is not None}
    tiles = lambda images: math.ceil(images / network.tile)  # noqa: E731
    V, b = len(views), views[0].shape[0]
    fewer_tiles = network.tile > 0 and tiles(V * b) < V * tiles(b)
    if fewer_tiles and network.chunks == 1 and all(map(_tells_views_apart, parts.values())):
        parts = {name: part.clone(bn_views=V) for name, part in parts.items()}
        passes = [(network.clone(**parts), [*views])]
    found: list[tuple[Array, ...]] = []
    for one, group in passes:
        out, stats = apply(one, params, stats, jnp.concatenate(group), axis_name, method)
        found += zip(*(jnp.split(y, len(group)) for y in out), strict=True)
    return found, stats


def _tells_views_apart(module: Any) -> bool:
    """Whether the class of a module declares `bn_views` itself: a class that inherits it may have BN of its own."""
    return 'bn_views' in inspect.get_annotations(type(module))


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
