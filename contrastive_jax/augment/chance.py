"""An operation that is applied to some of the images of a batch."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

T = TypeVar('T')


def sometimes(probability: float, number: Array, change: Callable[[T], T], x: T) -> T:
    """Applies `change` to the images (or their planes) whose number [b] in [0, 1) is below the probability."""
    if probability == 0:
        return x
    if probability == 1:
        return change(x)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(jnp.expand_dims(number < probability, range(1, old.ndim)), new, old)

    return jax.tree.map(choose, change(x), x)
