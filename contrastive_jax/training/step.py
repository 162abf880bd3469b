"""The pure train step: augment, differentiate, average over the devices, update."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from contrastive_jax.augment.views import resident_batch, streamed_batch
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.training.finite import PLACES, Dropped, all_finite, keep_if_finite
from contrastive_jax.training.run import Run, TrainState


def init_state(run: Run) -> TrainState:
    """The state at step 0, in the global layout. Call it under jit."""
    key = jax.random.fold_in(jax.random.key(run.seed), 0)
    sizes = run.policy.view_sizes(run.image_size)
    views = tuple(jnp.zeros((run.batch_size, s, s, run.policy.channels), run.dtype) for s in sizes)
    params, method_state = run.method.init(key, {'views': views})
    return TrainState(jnp.zeros((), jnp.int32), params, run.optimizer.init(params), method_state, Dropped.none())


def train_step(
    state: TrainState, batch: dict[str, Any], *, run: Run, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one device's part of a batch. Pure.

    If a value is not finite, nothing but `state.step` and `state.dropped` changes (`training.finite`).

    Args:
      state: replicated, but for the memory, of which each device has its part.
      batch: either {'images': uint8[n, H, W, C], 'labels': int32[n], 'order': int32[B]}, the data of a device that
        holds it all, or {'crops': (uint8[b, s, s, C], ...), 'index': int32[b], 'label': int32[b]} from the host.
        uint8 may be uint16.
      run: what is constant in the run.
      axis_name: the mapped device axis; None when the whole batch is here.

    Returns:
      The new state and metrics, scalars that are the same on all devices: 'dropped' is 1 if the update was dropped, and
      all others are 0 then.
    """
    assert state.dropped is not None
    key_views, key_method = keys_of(run, state.step)
    batch = augment(key_views, batch, run, axis_name)
    method_state = state.method
    if run.method.initializes_memory:
        key_method, key_epoch = jax.random.split(key_method)
        prepare = partial(run.method.before_epoch, rng=key_epoch, axis_name=axis_name)
        method_state = lax.cond(
            state.step % run.steps_per_epoch == 0,
            partial(_if_finite, prepare, axis_name),
            lambda same: same,
            method_state,
        )
    before = state.params, state.opt_state, method_state

    progress = state.step / run.total_steps
    loss_of = lambda params: run.method.loss(  # noqa: E731
        params, method_state, batch, rng=key_method, progress=progress, axis_name=axis_name
    )
    (loss, (method_state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    grads, metrics = collectives.pmean((grads, {'loss': loss, **metrics}), axis_name)
    computed = method_state.memory, method_state.batch_stats

    updates, opt_state = run.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, method_state = run.method.after_update(params, method_state, progress=progress)
    metrics |= {'learning_rate': run.learning_rate(state.step), 'grad_norm': optax.tree.norm(grads)}
    after = params, opt_state, method_state
    known = {id(x) for x in jax.tree.leaves(computed)}  # a bank is large: it is not looked at twice
    updated = [x for x in jax.tree.leaves(after) if id(x) not in known]
    looked_at = batch['views'], metrics['loss'], metrics['grad_norm'], computed, updated
    (params, opt_state, method_state), dropped, kept = keep_if_finite(
        state.dropped,
        state.step,
        dict(zip(PLACES, looked_at, strict=True)),
        after,
        before,
        run.max_dropped_in_row,
        axis_name,
    )
    metrics = {name: jnp.where(kept, jnp.asarray(x, jnp.float32), 0) for name, x in metrics.items()}
    metrics['dropped'] = 1 - kept.astype(jnp.float32)
    return TrainState(state.step + 1, params, opt_state, method_state, dropped), metrics


def _if_finite(change: Callable[[PyTree], PyTree], axis_name: str | None, old: PyTree) -> PyTree:
    """The change of a method's state at the start of an epoch, unless it is not finite."""
    new = change(old)
    finite = collectives.psum((~all_finite(new)).astype(jnp.int32), axis_name) == 0
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def init_memory_step(
    state: TrainState, batch: dict[str, Any], *, run: Run, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step of the pass that fills a method's memory before training (`Method.initializes_memory`).

    Nothing is trained. The pass uses the images of the first epoch in their order, with other random augmentations than
    training. `state.step` counts its steps, and is 0 again after the last one.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.seed), 2), state.step)
    batch = augment(key, batch, run, axis_name)
    method_state = run.method.init_memory(state.params, state.method, batch, axis_name=axis_name)
    return dataclasses.replace(state, step=(state.step + 1) % run.steps_per_epoch, method=method_state), {}


def keys_of(run: Run, step: Array | int) -> Array:
    """The two random keys of a step: for the views, and for the method."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(run.seed), 1), step))


def augment(key: Array, batch: dict[str, Any], run: Run, axis_name: str | None) -> dict[str, Any]:
    """Makes the batch that a method gets (views, index, label) from what a step is given."""
    common = {'policy': run.policy, 'shuffles': run.method.shuffles, 'dtype': run.dtype, 'axis_name': axis_name}
    if 'order' in batch:
        return resident_batch(key, batch['images'], batch['labels'], batch['order'], size=run.image_size, **common)
    return streamed_batch(key, batch['crops'], batch['index'], batch['label'], **common)
