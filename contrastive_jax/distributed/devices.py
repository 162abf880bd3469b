"""The devices of a run, and how a per-device step is run on all of them: jit(shard_map) or pmap.

The state has one of two layouts: the *global* layout (the shapes that one device would have; checkpoints hold it) and,
under pmap, the *stacked* layout with a leading device axis.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import UserError

AXIS = 'data'
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, and how a per-device function is run on them.

    Attributes:
      mesh: one axis, 'data', over all devices of all processes.
      mode: 'jit' runs jit(shard_map); 'pmap' runs jax.pmap, the option people know.
    """

    mesh: Mesh
    mode: Literal['jit', 'pmap'] = 'jit'

    @property
    def count(self) -> int:
        return self.mesh.size

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def run(
        self,
        step: Callable[..., Any],
        in_specs: tuple[PyTree, ...],
        out_specs: PyTree,
        donate: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """Compiles a per-device function for all devices.

        Args:
          step: a function of per-device arrays that uses collectives over 'data'.
          in_specs: for each argument a pytree prefix of PartitionSpecs.
          out_specs: likewise for the result. Under pmap results keep the stacked layout.
          donate: arguments whose buffers the result may take over.

        Returns:
          A function of arrays in this mode's layout (`place` makes it).
        """
        if self.mode == 'pmap':
            return jax.pmap(step, axis_name=AXIS, donate_argnums=donate, devices=list(self.mesh.devices.flat))
        # check_vma=False is pmap's meaning of a gradient: with checking on, gradients of replicated parameters arrive
        # already summed, and a further pmean leaves them too large by the number of devices.
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(mapped, donate_argnums=donate)

    def place(self, tree: PyTree, specs: PyTree) -> PyTree:
        """Brings a pytree of the global layout onto the devices in this mode's layout.

        Args:
          tree: arrays in the global layout, the same in every process.
          specs: a pytree prefix of PartitionSpecs.
        """
        shardings = self.shardings(tree, specs)
        put = jax.tree.map(self._put, tree, shardings)
        if self.mode == 'jit':
            return put
        leaves, structure = jax.tree.flatten(put)
        leaf_specs = tuple(jax.tree.leaves(_broadcast(specs, tree), is_leaf=_is_spec))
        return jax.tree.unflatten(structure, _stack_jit(self.mesh, leaf_specs)(leaves))

    def collect(self, tree: PyTree, specs: PyTree) -> PyTree:
        """The inverse of `place`: device arrays in the global layout, as a checkpoint wants them."""
        if self.mode == 'jit':
            return tree
        leaves, structure = jax.tree.flatten(tree)
        leaf_specs = tuple(jax.tree.leaves(_broadcast(specs, tree), is_leaf=_is_spec))
        unstacked = _unstack_jit(self.mesh, leaf_specs)([self._whole(x) for x in leaves])
        return jax.tree.unflatten(structure, unstacked)

    def place_rows(self, tree: PyTree) -> PyTree:
        """Brings this process's rows of a global batch onto its devices, split by rows."""
        n_local = self.count // jax.process_count()

        def put(x: np.ndarray) -> Array:
            if self.mode == 'pmap':
                x = x.reshape(n_local, x.shape[0] // n_local, *x.shape[1:])
            return jax.make_array_from_process_local_data(self.sharding(SHARDED), x)

        return jax.tree.map(put, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """Replicated results as numpy arrays. Waits for them."""
        one_shard = jax.tree.map(lambda x: x.addressable_data(0), tree)
        host = jax.device_get(one_shard)
        return jax.tree.map(lambda x: x[0], host) if self.mode == 'pmap' else host

    def shardings(self, tree: PyTree, specs: PyTree) -> PyTree:
        """The sharding of every leaf in the global layout, from a pytree prefix of PartitionSpecs."""
        return jax.tree.map(self.sharding, _broadcast(specs, tree), is_leaf=_is_spec)

    def _whole(self, x: Array) -> Array:
        """In several processes pmap gives each its own part of a stacked array, [local devices, ...]; joins them."""
        if x.shape[0] == self.count:
            return x
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays((self.count, *x.shape[1:]), self.sharding(SHARDED), parts)

    def _put(self, x: Any, sharding: NamedSharding) -> Array:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.jit(lambda y: y, out_shardings=sharding)(x)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def find_devices(mode: Literal['jit', 'pmap'] = 'jit', count: int | None = None) -> Devices:
    """All devices of all processes (or the first `count`) on one 'data' axis.

    Raises:
      UserError: jax finds no device, for example because JAX_PLATFORMS names hardware that is not there.
    """
    try:
        chosen = jax.devices()[:count]
    except (RuntimeError, AssertionError) as error:  # some versions of jax assert that there is a backend
        reason = ' '.join(str(error).split())
        given = {name: os.environ[name] for name in ('JAX_PLATFORMS', 'XLA_FLAGS') if os.environ.get(name)}
        settings = ' '.join(f'{name}={value}' for name, value in given.items())
        remedies = [f'change or unset {" and ".join(given)}'] if given else []
        if given.get('JAX_PLATFORMS') != 'cpu':
            remedies.append('JAX_PLATFORMS=cpu uses the CPU')
        raise UserError(
            f'jax finds no device{f" with {settings}" if given else ""}{f": {reason}" if reason else ""}',
            remedy='; '.join(remedies),
        ) from error
    auto = (jax.sharding.AxisType.Auto,)  # make_mesh's default, explicit axes, types arrays by their sharding
    return Devices(jax.make_mesh((len(chosen),), (AXIS,), axis_types=auto, devices=chosen), mode)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _broadcast(specs: PyTree, tree: PyTree) -> PyTree:
    """Spreads a pytree prefix of specs over the whole tree."""
    return jax.tree.map(lambda spec, part: jax.tree.map(lambda _: spec, part), specs, tree, is_leaf=_is_spec)


def _sharded_dim(spec: PartitionSpec) -> int | None:
    return next((dim for dim, name in enumerate(spec) if name == AXIS), None)


@functools.lru_cache(maxsize=8)  # compiled once, however often a step is given its orders
def _stack_jit(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Callable[[list[Array]], list[Array]]:
    """The leaves of a pytree in the global layout -> those of the stacked one."""
    n = mesh.size

    def stack(x: Array, spec: PartitionSpec) -> Array:
        dim = _sharded_dim(spec)
        if dim is None:
            return jnp.broadcast_to(x[None], (n, *x.shape))
        parts = x.reshape(*x.shape[:dim], n, x.shape[dim] // n, *x.shape[dim + 1 :])
        return jnp.moveaxis(parts, dim, 0)

    sharding = NamedSharding(mesh, SHARDED)
    return jax.jit(lambda leaves: [stack(x, s) for x, s in zip(leaves, specs, strict=True)], out_shardings=sharding)


@functools.lru_cache(maxsize=8)
def _unstack_jit(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Callable[[list[Array]], list[Array]]:
    """The leaves of a stacked pytree -> those of the global layout."""

    def unstack(x: Array, spec: PartitionSpec) -> Array:
        dim = _sharded_dim(spec)
        if dim is None:
            return x[0]
        parts = jnp.moveaxis(x, 0, dim)
        return parts.reshape(*parts.shape[:dim], -1, *parts.shape[dim + 2 :])

    shardings = [NamedSharding(mesh, spec) for spec in specs]
    return jax.jit(lambda leaves: [unstack(x, s) for x, s in zip(leaves, specs, strict=True)], out_shardings=shardings)
