"""Checksums of arrays, and the digest of a checkpoint, which also covers the run and the step that it belongs to."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding

from contrastive_jax.distributed.collectives import PyTree


@partial(jax.jit, static_argnums=1)
def checksums(tree: PyTree, replicated: NamedSharding) -> tuple[Array, Array]:
    """Checksums of the n leaves, uint32[n], whatever their sharding, and whether they are finite, bool[n]."""
    leaves = jax.tree.leaves(tree)
    sums = jnp.stack([checksum(x, jnp) for x in leaves])
    finite = jnp.stack([jnp.isfinite(x).all() for x in leaves])
    return lax.with_sharding_constraint((sums, finite), replicated)


def checksum(x: Any, xp: Any) -> Any:
    """A uint32 that always changes if one element changes, and with probability 1 - 2^-32 if several do.

    Args:
      x: an array of `xp`, jax.numpy or numpy; both give the same.
      xp: the module.
    """
    x = xp.atleast_1d(x)
    bits = x.view({1: xp.uint8, 2: xp.uint16, 4: xp.uint32}[x.dtype.itemsize]).astype(xp.uint32)
    place = xp.arange(x.size, dtype=xp.uint32).reshape(x.shape)
    # Each line is a bijection of `bits`, so no single change is lost; the constants are those of MurmurHash3.
    bits ^= place * xp.uint32(0x9E3779B1)
    bits = (bits ^ (bits >> 16)) * xp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * xp.uint32(0xC2B2AE35)
    return xp.sum(bits ^ (bits >> 16), dtype=xp.uint32)


def digest(sums: Any, note: Mapping[str, Any]) -> str:
    """SHA-256 of the checksums of all leaves, and of the run and the step in the note of a checkpoint.

    Args:
      sums: uint32[n].
      note: what a checkpoint says about itself. Older versions wrote no 'run', and covered the checksums alone.
    """
    sha = hashlib.sha256(np.asarray(sums, '<u4').tobytes())
    if 'run' in note:
        sha.update(f'run {note["run"]} step {note.get("step")}'.encode())
    return sha.hexdigest()
