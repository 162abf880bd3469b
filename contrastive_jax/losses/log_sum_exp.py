"""The denominator of the contrastive losses: log-sum-exp of the logits of queries and keys, in three forms.

    logsumexp_i = log sum_j exp(q_i.k_j / T),   hardest_i = max_j q_i.k_j / T over the negatives

*dense* stores all logits, [B, K]. *blocks* computes the logits of a few keys at a time, keeps a running maximum and a
running sum (arXiv 1805.02867, algorithm 3), and computes the logits again in the backward pass. *ring* does the same
with keys that stay on their devices: each device passes its block of keys on to the next device, and in the backward
pass the gradient of the block goes along. `choose_form` chooses by size.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import MASKED_LOGIT

Form = Literal['dense', 'blocks', 'ring']

DENSE_LOGITS = 2**24  # the most logits on a device that are stored: 64 MB in float32
BLOCK_LOGITS = 2**22  # the logits of a block: 16 MB
SMALLEST_BLOCK = 128  # keys; the width of a matrix unit
GATHERED_NUMBERS = 2**24  # the most numbers of gathered keys on a device: 64 MB


class Summary(NamedTuple):
    """What a loss needs of the logits of each query: sum_j exp(logit_j) = exp(top) sum_exp.

    Attributes:
      top: [B] a number near the largest logit, so that no exponential overflows. No gradient flows through it.
      sum_exp: [B] the sum of exp(logit - top).
      hardest: [B] the largest logit of a negative. No gradient flows through it.
    """

    top: Array
    sum_exp: Array
    hardest: Array

    @property
    def logsumexp(self) -> Array:
        """[B] log-sum-exp of the logits."""
        return jnp.log(self.sum_exp) + self.top


class Running(NamedTuple):
    """Log-sum-exp [B] and hardest negative [B] of the keys so far."""

    logsumexp: Array
    hardest: Array

    @property
    def summary(self) -> Summary:
        top = lax.stop_gradient(self.logsumexp)
        return Summary(top, jnp.exp(self.logsumexp - top), lax.stop_gradient(self.hardest))


class Rows(NamedTuple):
    """The queries, and the ids of the keys that are special to them.

    Attributes:
      q: [B, D] queries; in blocks and rings they are divided by the temperature.
      itself: int32[B] id of the key that a query is not compared with; -1 where there is none.
      positive: int32[B] id of the key that is no negative; -1 where there is none.
    """

    q: Array
    itself: Array
    positive: Array


def choose_form(queries: int, keys: int, dim: int, devices: int) -> Form:
    """The form for `queries` [B] on this device and `keys` [K] on all devices, of `dim` numbers each."""
    if queries * keys <= DENSE_LOGITS:
        return 'dense'
    return 'ring' if devices > 1 and keys * dim >= GATHERED_NUMBERS else 'blocks'


def summarize(
    q: Array,
    keys: Array,
    ids: Array,
    *,
    temperature: Array | float,
    itself: Array | None = None,
    positive: Array | None = None,
    axis_name: str | None = None,
    form: Form | None = None,
) -> Summary:
    """Log-sum-exp and hardest negative of the local queries among the keys of all devices.

    Args:
      q: [b, D] local queries, at least float32.
      keys: [k, D] local keys. Gradients flow into them from the queries of all devices.
      ids: int32[k] identifies the keys among those of all devices; keys with a negative id are ignored.
      temperature: > 0.
      itself: int32[b] id of the key that is left out of a query's sum, or None.
      positive: int32[b] id of the key that is in the sum and is no negative, or None.
      axis_name: the mapped device axis.
      form: 'dense', 'blocks' or 'ring'; None chooses by size. 'ring' without an axis is 'blocks'.

    Returns:
      The Summary of the local queries.
    """
    devices = collectives.axis_size(axis_name)
    form = form or choose_form(len(q), len(keys) * devices, q.shape[-1], devices)
    none = jnp.full(len(q), -1, jnp.int32)
    rows = Rows(q, *(none if x is None else x.astype(jnp.int32) for x in (itself, positive)))
    if form == 'ring' and axis_name is not None:
        return _ring(axis_name, rows._replace(q=q / temperature), keys, ids).summary
    keys, ids = (collectives.all_gather(x, axis_name) for x in (keys, ids))
    if form != 'dense':
        return _blocks(rows._replace(q=q / temperature), keys, ids).summary
    logits, hardest = _logits(rows, keys, ids, temperature)
    top = jnp.max(lax.stop_gradient(logits), axis=-1)
    return Summary(top, jnp.sum(jnp.exp(logits - top[:, None]), axis=-1), hardest)


def similarities(q: Array, k: Array) -> Array:
    """[B, D], [K, D] -> [B, K] inner products, in full precision: dividing by T = 0.07 amplifies rounding by 14."""
    return jnp.matmul(q, k.T, precision=lax.Precision.HIGHEST)


def _logits(rows: Rows, keys: Array, ids: Array, temperature: Array | float = 1.0) -> tuple[Array, Array]:
    """The logits [B, K], masked where a key is ignored, and the largest one of a negative [B]."""
    ignored = (ids < 0) | (ids == rows.itself[:, None])  # [B, K]
    logits = jnp.where(ignored, MASKED_LOGIT, similarities(rows.q, keys) / temperature)
    negatives = jnp.where(ids == rows.positive[:, None], MASKED_LOGIT, lax.stop_gradient(logits))
    return logits, jnp.max(negatives, axis=-1)


@jax.custom_vjp
def _blocks(rows: Rows, keys: Array, ids: Array) -> Running:
    return _summarize_blocks(rows, keys, ids)


def _blocks_forward(rows: Rows, keys: Array, ids: Array) -> tuple[Running, Any]:
    running = _summarize_blocks(rows, keys, ids)
    return running, (rows, keys, ids, running.logsumexp)


def _blocks_backward(saved: Any, g: Running) -> tuple[Rows, Array, None]:
    rows, keys, ids, log_sum = saved
    dq, dk = _gradient_blocks(rows, keys, ids, log_sum, g.logsumexp)
    return Rows(dq, None, None), dk, None  # type: ignore[arg-type]  # ids have no gradient


_blocks.defvjp(_blocks_forward, _blocks_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(axis_name: str, rows: Rows, keys: Array, ids: Array) -> Running:
    return _summarize_ring(axis_name, rows, keys, ids)


def _ring_forward(axis_name: str, rows: Rows, keys: Array, ids: Array) -> tuple[Running, Any]:
    running = _summarize_ring(axis_name, rows, keys, ids)
    return running, (rows, keys, ids, running.logsumexp)


def _ring_backward(axis_name: str, saved: Any, g: Running) -> tuple[Rows, Array, None]:
    rows, keys, ids, log_sum = saved

    def visit(carry: Any, _: None) -> tuple[Any, None]:
        dq, keys, ids, dk = carry
        dq_part, dk_part = _gradient_blocks(rows, keys, ids, log_sum, g.logsumexp)
        return (dq + dq_part, *_pass_on((keys, ids, dk + dk_part), axis_name)), None

    start = jnp.zeros_like(rows.q), keys, ids, jnp.zeros_like(keys)
    # After as many visits as there are devices, each block of keys and its gradient are where they started.
    (dq, _, _, dk), _ = lax.scan(visit, start, None, collectives.axis_size(axis_name))
    return Rows(dq, None, None), dk, None  # type: ignore[arg-type]


_ring.defvjp(_ring_forward, _ring_backward)


def _summarize_ring(axis_name: str, rows: Rows, keys: Array, ids: Array) -> Running:
    def visit(carry: Any, _: None) -> tuple[Any, None]:
        running, keys, ids = carry
        running = _merge(running, _summarize_blocks(rows, keys, ids))
        return (running, *_pass_on((keys, ids), axis_name)), None

    (running, _, _), _ = lax.scan(visit, (_empty(rows), keys, ids), None, collectives.axis_size(axis_name))
    return running


def _pass_on(x: Any, axis_name: str) -> Any:
    """Sends arrays to the next device of the ring."""
    n = collectives.axis_size(axis_name)
    return lax.ppermute(x, axis_name, [(i, (i + 1) % n) for i in range(n)])


def _summarize_blocks(rows: Rows, keys: Array, ids: Array) -> Running:
    """The Running of all queries and keys; the logits of one block are in memory at a time."""

    def visit(running: Running, start: tuple[Array, Array]) -> tuple[Running, None]:
        logits, hardest = _logits(rows, *_block(keys, ids, *start, size))
        return _merge(running, Running(jax.nn.logsumexp(logits, axis=-1), hardest)), None

    size = _block_size(len(rows.q), len(keys))
    return lax.scan(visit, _empty(rows), _starts(len(keys), size))[0]


def _gradient_blocks(rows: Rows, keys: Array, ids: Array, log_sum: Array, g: Array) -> tuple[Array, Array]:
    """The gradients of sum(g logsumexp), [B, D] and [K, D]; g is [B]."""

    def visit(carry: tuple[Array, Array], start: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        dq, dk = carry
        block, block_ids = _block(keys, ids, *start, size)
        logits, _ = _logits(rows, block, block_ids)
        d_logits = jnp.exp(logits - log_sum[:, None]) * g[:, None]  # [B, size]
        d_logits = jnp.where(logits > MASKED_LOGIT, d_logits, 0)  # it is not 0 where all keys of a query are ignored
        dq += jnp.matmul(d_logits, block, precision=lax.Precision.HIGHEST)
        dk_block = jnp.matmul(d_logits.T, rows.q, precision=lax.Precision.HIGHEST)
        dk_block += lax.dynamic_slice_in_dim(dk, start[0], size)
        return (dq, lax.dynamic_update_slice_in_dim(dk, dk_block, start[0], 0)), None

    size = _block_size(len(rows.q), len(keys))
    (dq, dk), _ = lax.scan(visit, (jnp.zeros_like(rows.q), jnp.zeros_like(keys)), _starts(len(keys), size))
    return dq, dk


def _block_size(queries: int, keys: int) -> int:
    return min(keys, max(SMALLEST_BLOCK, BLOCK_LOGITS // queries))


def _starts(keys: int, size: int) -> tuple[Array, Array]:
    """The first key of each block, and the first one that is not in an earlier block: all blocks have one size."""
    new = jnp.arange(0, keys, size)
    return jnp.minimum(new, keys - size), new


def _block(keys: Array, ids: Array, start: Array, new: Array, size: int) -> tuple[Array, Array]:
    """The keys [size, D] from `start` on, and their ids, which are -1 before `new`."""
    block_ids = lax.dynamic_slice_in_dim(ids, start, size)
    block_ids = jnp.where(start + jnp.arange(size) < new, -1, block_ids)
    return lax.dynamic_slice_in_dim(keys, start, size), block_ids


def _empty(rows: Rows) -> Running:
    """The Running of no keys."""
    nothing = jnp.full_like(rows.q[:, 0], MASKED_LOGIT)
    return Running(nothing, nothing)


def _merge(a: Running, b: Running) -> Running:
    return Running(jnp.logaddexp(a.logsumexp, b.logsumexp), jnp.maximum(a.hardest, b.hardest))
