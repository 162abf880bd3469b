"""Keeps NaN and infinity out of the state: the whole update of a step is dropped if a value in it is not finite.

All of it happens inside of the compiled step, on all devices alike: the host waits for nothing.
"""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax import Array

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree

# What is looked at, in the order in which a step computes it.
PLACES = ('the images', 'the loss', 'the gradient', 'the memory or a BN statistic', 'the weights after the update')


@flax.struct.dataclass
class Dropped:
    """Counts the steps whose update was dropped; a part of the state. All are int32 scalars.

    Attributes:
      total: number of these steps.
      in_row: number of these steps since the last one whose update was kept, at most `Run.max_dropped_in_row`.
      step: the last step (from 0) in which something was not finite.
      place: the first thing that was not finite there, as a position in PLACES.
    """

    total: Array
    in_row: Array
    step: Array
    place: Array

    @classmethod
    def none(cls) -> 'Dropped':
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(4)))


def all_finite(tree: PyTree) -> Array:
    """Whether all values of this device's part of a pytree are finite, bool[]."""
    of_shape: dict[Any, Array] = {}  # leaves of equal shape share a reduction: fewer operations to compile
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            finite = jnp.isfinite(x)
            of_shape[x.shape] = of_shape[x.shape] & finite if x.shape in of_shape else finite
    return jnp.stack([jnp.all(x) for x in of_shape.values()]).all() if of_shape else jnp.asarray(True)


def keep_if_finite(
    dropped: Dropped,
    step: Array,
    looked_at: Mapping[str, PyTree],
    new: PyTree,
    old: PyTree,
    most: int,
    axis: str | None,
) -> tuple[PyTree, Dropped, Array]:
    """Chooses the new state of a step if everything is finite on all devices, otherwise the old one.

    Args:
      dropped: the counts before the step.
      step: the number of the step.
      looked_at: what has to be finite, by PLACES.
      new: the state after the update.
      old: the state without it, with the same structure.
      most: after so many dropped steps in a row every further one is dropped, so that where a run stops does not depend
        on when the host looks.
      axis: the mapped device axis.

    Returns:
      The state, the counts, and whether the update was kept, bool[]; the same on all devices.
    """
    wrong = jnp.stack([~all_finite(looked_at.get(place, ())) for place in PLACES])
    wrong = collectives.psum(wrong.astype(jnp.int32), axis) > 0
    stopped = dropped.in_row >= most
    failed = wrong.any() & ~stopped
    kept = ~failed & ~stopped
    state = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)
    one = (~kept).astype(jnp.int32)
    counts = Dropped(
        total=dropped.total + one,
        in_row=jnp.minimum(dropped.in_row + 1, most) * one,
        step=jnp.where(failed, step, dropped.step).astype(jnp.int32),
        place=jnp.where(failed, jnp.argmax(wrong), dropped.place).astype(jnp.int32),
    )
    return state, counts, kept
