"""The devices of a run, and how a per-device step runs on all of them: jit(shard_map) or pmap.

Arrays have one of two layouts. In the *global* layout their shapes are those that one device would have; checkpoints
use it. On the devices, a sharded axis whose length the devices do not divide ends with zeros that make it divisible. In
the *stacked* layout, which pmap uses, arrays have an additional leading device axis.
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
    """The devices of a run, and how a per-device function runs on them.

    Attributes:
      mesh: one axis, 'data', over all devices of all processes.
      mode: 'jit' runs jit(shard_map), with arrays in the global layout; 'pmap' runs jax.pmap, with arrays in the
        stacked layout.
      quick: whether programs are compiled by `quick_options`, because each runs a few times only (mode 'jit').
    """

    mesh: Mesh
    mode: Literal['jit', 'pmap'] = 'jit'
    quick: bool = False

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
          in_specs: a pytree prefix of PartitionSpecs for each argument.
          out_specs: a pytree prefix of PartitionSpecs for the result.
          donate: positions of the arguments whose buffers may be reused for the result.

        Returns:
          A function of arrays in this mode's layout (see `place`), which returns arrays in this mode's layout.
        """
        if self.mode == 'pmap':
            return jax.pmap(step, axis_name=AXIS, donate_argnums=donate, devices=list(self.mesh.devices.flat))
        # With check_vma=False gradients are local, as under pmap. With checking on, gradients of replicated parameters
        # are already summed over the devices, and a pmean leaves them too large by the number of devices.
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(mapped, donate_argnums=donate, compiler_options=quick_options() if self.quick else None)

    def place(self, tree: PyTree, specs: PyTree) -> PyTree:
        """Puts arrays on the devices, in this mode's layout.

        Args:
          tree: a pytree of arrays in the global layout, the same in every process.
          specs: a pytree prefix of PartitionSpecs.

        Returns:
          The pytree of arrays in this mode's layout.
        """
        shardings = self.shardings(tree, specs)
        put = jax.tree.map(self._put, self.padded(tree, specs), shardings)
        if self.mode == 'jit':
            return put
        leaves, structure = jax.tree.flatten(put)
        leaf_specs = tuple(jax.tree.leaves(_broadcast(specs, tree), is_leaf=_is_spec))
        return jax.tree.unflatten(structure, _stack_jit(self.mesh, leaf_specs)(leaves))

    def collect(self, tree: PyTree, specs: PyTree, shapes: PyTree | None = None) -> PyTree:
        """The inverse of `place`: device arrays in the global layout, as checkpoints hold them.

        Args:
          tree: a pytree of arrays in this mode's layout.
          specs: a pytree prefix of PartitionSpecs.
          shapes: the shapes of the arrays in the global layout; None: `place` has padded none of them.
        """
        if self.mode == 'pmap':
            leaves, structure = jax.tree.flatten(tree)
            leaf_specs = tuple(jax.tree.leaves(_broadcast(specs, tree), is_leaf=_is_spec))
            unstacked = _unstack_jit(self.mesh, leaf_specs)([self._join_processes(x) for x in leaves])
            tree = jax.tree.unflatten(structure, unstacked)
        if shapes is None:
            return tree
        cut = _cut_jit(self.sharding(REPLICATED))
        return jax.tree.map(lambda x, like: x if x.shape == like.shape else cut(x, like.shape), tree, shapes)

    def padded(self, tree: PyTree, specs: PyTree) -> PyTree:
        """Arrays in the global layout, with zeros after each sharded axis whose length the devices do not divide."""

        def pad(x: Any, spec: PartitionSpec) -> Any:
            dim = _sharded_dim(spec)
            lacking = 0 if dim is None else -x.shape[dim] % self.count
            if not lacking:
                return x
            xp = jnp if isinstance(x, jax.Array) else np
            return xp.pad(x, [(0, lacking if i == dim else 0) for i in range(x.ndim)])

        return jax.tree.map(pad, tree, _broadcast(specs, tree))

    def place_rows(self, tree: PyTree) -> PyTree:
        """Puts this process's rows of a global batch on its devices, split by rows."""
        n_local = self.count // jax.process_count()

        def put(x: np.ndarray) -> Array:
            if self.mode == 'pmap':
                x = x.reshape(n_local, x.shape[0] // n_local, *x.shape[1:])
            return jax.make_array_from_process_local_data(self.sharding(SHARDED), x)

        return jax.tree.map(put, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns replicated results as numpy arrays; waits until they are computed."""
        one_shard = jax.tree.map(lambda x: x.addressable_data(0), tree)
        host = jax.device_get(one_shard)
        return jax.tree.map(lambda x: x[0], host) if self.mode == 'pmap' else host

    def shardings(self, tree: PyTree, specs: PyTree) -> PyTree:
        """The sharding of each leaf in the global layout, from a pytree prefix of PartitionSpecs."""
        return jax.tree.map(self.sharding, _broadcast(specs, tree), is_leaf=_is_spec)

    def _join_processes(self, x: Array) -> Array:
        """Joins the parts of a stacked array: under pmap each process has its own, [local devices, ...]."""
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


def quick_options() -> dict[str, bool | int] | None:
    """Compiler options for a program that runs a few times only: for `compiler_options` of `jax.jit`.

    On a CPU the program is compiled in a third of the time, and runs slower. On other devices, None: no options.
    """
    if jax.default_backend() != 'cpu':
        return None
    # The first two are what jax sets for JAX_DISABLE_MOST_OPTIMIZATIONS. The third one chooses XLA's older way to make
    # the kernels of fused operations, which takes less time to compile and which later versions no longer have.
    options = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
    older = {'xla_cpu_use_fusion_emitters': False}
    return options | older if _accepted(**older) else options


@functools.cache
def _accepted(**options: bool) -> bool:
    """Whether this version of XLA knows these compiler options."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _broadcast(specs: PyTree, tree: PyTree) -> PyTree:
    """Expands a pytree prefix of specs to one spec for each leaf of the tree."""
    return jax.tree.map(lambda spec, part: jax.tree.map(lambda _: spec, part), specs, tree, is_leaf=_is_spec)


def _sharded_dim(spec: PartitionSpec) -> int | None:
    return next((dim for dim, name in enumerate(spec) if name == AXIS), None)


@functools.lru_cache(maxsize=8)
def _cut_jit(sharding: NamedSharding) -> Callable[[Array, tuple[int, ...]], Array]:
    """A compiled function that cuts the padding off: from an array and a shape to an array of that shape."""
    # Replicated, since the devices do not divide what remains.
    return jax.jit(lambda x, shape: x[tuple(map(slice, shape))], static_argnums=1, out_shardings=sharding)


@functools.lru_cache(maxsize=8)  # so that `place` compiles once for all calls
def _stack_jit(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Callable[[list[Array]], list[Array]]:
    """A compiled function from the leaves of a pytree in the global layout to those in the stacked layout."""
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
    """A compiled function from the leaves of a pytree in the stacked layout to those in the global layout."""

    def unstack(x: Array, spec: PartitionSpec) -> Array:
        dim = _sharded_dim(spec)
        if dim is None:
            return x[0]
        parts = jnp.moveaxis(x, 0, dim)
        return parts.reshape(*parts.shape[:dim], -1, *parts.shape[dim + 2 :])

    shardings = [NamedSharding(mesh, spec) for spec in specs]
    return jax.jit(lambda leaves: [unstack(x, s) for x, s in zip(leaves, specs, strict=True)], out_shardings=shardings)
