"""How stale a dictionary is: its entries beside those that the same views of the same images would get now.

MoCo's question (arXiv 1911.05722, section 3.1) is whether keys that were made long ago are consistent with those of
today. What a step was shown is a function of the seed and its number, so it can be shown again, exactly, and what the
method would now write into its memory is compared with what it wrote then.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from contrastive_jax.data.sources import Source
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import MethodState, memory
from contrastive_jax.training import feed
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import augment, init_state, keys_of
from contrastive_jax.workdir.checkpoint import read_part

AGES = 12  # that are measured, a batch each


@dataclasses.dataclass(frozen=True)
class Staleness:
    """Mean cosine similarities of entries as they are and as they would be now, by age.

    Attributes:
      kind: 'queue' or 'bank'.
      entries: that are held.
      oldest: age of the oldest that is looked at, in steps.
      steps_per_epoch: of the run.
      ages: steps since the entries were made; 0: by the last step.
      same: mean cosine with what the same view would get now.
      other: with what the views of the other images would get, for comparison.
    """

    kind: str
    entries: int
    oldest: int
    steps_per_epoch: int
    ages: list[int]
    same: list[float]
    other: list[float]


def measure(
    workdir: Path,
    run: Run,
    source: Source,
    devices: Devices,
    on_device: bool = True,
    workers: int = 0,
) -> Staleness | None:
    """Looks into the newest checkpoint; None for methods that hold no such entries, or before the first step.

    Args:
      workdir: of the run; it is only read.
      run: the recipe.
      source: its training images.
      devices: any.
      on_device, workers: of `config.data`.

    Raises:
      CheckpointError: no checkpoint, or one of another model.
    """
    shapes = jax.eval_shape(lambda: init_state(run))
    kind = kind_of(shapes.method.memory)
    if kind is None:
        return None
    wanted = {'params': shapes.params, 'method': {name: getattr(shapes.method, name) for name in _PARTS}}
    now, part = read_part(workdir, wanted, ('params', 'method'))
    # Keys by the encoder as it is, rows by the present view alone: nothing of the past comes in.
    fields: dict[str, Any] = {'momentum': 1.0 if kind == 'queue' else 0.0} if hasattr(run.method, 'momentum') else {}
    total = max(run.total_steps, now)  # a run may have been shortened after it was longer
    fields |= {'total_steps': total} if hasattr(run.method, 'total_steps') else {}
    run = dataclasses.replace(run, method=dataclasses.replace(run.method, **fields), total_steps=total)
    steps = looked_at(now, kind, shapes.method.memory, run)
    if not len(steps):
        return None
    state = TrainState(jnp.zeros((), jnp.int32), part['params'], {}, MethodState(**part['method']))
    state = devices.place(state, run.state_specs)
    data: feed.Feed
    if source.array is not None and on_device:
        data = feed.ResidentFeed(run, devices, source, 1, recall_step)
    else:
        data = feed.StreamFeed(run, devices, source, workers, recall_step)
    same, other = [], []
    try:
        for step in steps.tolist():
            state = dataclasses.replace(state, step=devices.place(np.int32(step), REPLICATED))
            state, (found,) = data.advance(state, step, step + 1)
            host = devices.fetch(found)
            same.append(float(host['same']))
            other.append(float(host['other']))
    finally:
        data.close()
    ages = (now - 1 - steps).tolist()
    return Staleness(
        kind, entries_of(shapes.method.memory, run), ages[0], run.steps_per_epoch, ages[::-1], same[::-1], other[::-1]
    )


_PARTS = ('target', 'batch_stats', 'memory')


def kind_of(held: PyTree) -> str | None:
    """Which dictionary a memory is: a 'queue' (MoCo, SimCLR v2, SwAV), a 'bank' (InstDis, CMC), or none of them."""
    if 'queue' in held or 'queues' in held:
        return 'queue'
    return 'bank' if any(name == 'bank' or name.startswith('bank_') for name in held) else None


def entries_of(held: PyTree, run: Run) -> int:
    """Keys in a queue, rows of a bank that belong to examples."""
    if 'queue' in held:
        return int(np.prod(held['queue']['keys'].shape[:2]))
    if 'queues' in held:
        return int(np.prod(held['queues'].shape[1:3]))
    return int(run.method.num_examples)  # type: ignore[attr-defined]


def looked_at(now: int, kind: str, held: PyTree, run: Run) -> np.ndarray:
    """Some of the steps that made what is held after `now` steps, evenly spaced, the oldest first.

    Of a bank those of the epoch that is going on, or else of the last: no row was written twice in it.
    """
    if kind == 'bank':
        first = (now - 1) // run.steps_per_epoch * run.steps_per_epoch
    elif 'queues' in held:
        first = now - held['queues'].shape[1]
    else:
        first = now - held['queue']['keys'].shape[0] // batches_a_step(run)
    first = max(first, 0)
    return np.unique(np.linspace(first, now - 1, min(AGES, max(now - first, 0))).astype(np.int64))


def batches_a_step(run: Run) -> int:
    """Batches of keys that a step puts into the queue."""
    both = getattr(run.method, 'symmetric', run.method.concat_views)  # MoCo's, if so; SimCLR's memory has both views
    return 2 if both else 1


def recall_step(
    state: TrainState, batch: dict[str, Any], *, run: Run, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """In place of `train_step`: shows the step number `state.step` again; nothing learns, nothing is remembered.

    Returns:
      The state, a step on, and the mean cosine of old and new entries, of the 'same' view and of any 'other'.
    """
    key_views, key_method = keys_of(run, state.step)
    batch = augment(key_views, batch, run, axis_name)
    old = dict(state.method.memory)
    if 'queue' in old:
        slots = old['queue']['keys'].shape[0]
        old['queue'] = {**old['queue'], 'slot': state.step * batches_a_step(run) % slots}
    given = dataclasses.replace(state.method, memory=old)
    progress = state.step / run.total_steps
    _, (new, _) = run.method.loss(state.params, given, batch, rng=key_method, progress=progress, axis_name=axis_name)
    pairs = _entries(old, new.memory, batch['index'], state.step, run, axis_name)
    then, now = (normalize(jnp.concatenate(x)) for x in zip(*pairs, strict=True))  # [n, D]
    mean_then, mean_now = collectives.pmean((then.mean(0), now.mean(0)), axis_name)
    found = {
        'same': collectives.pmean(jnp.mean(jnp.sum(then * now, axis=-1)), axis_name),
        'other': mean_then @ mean_now,
    }
    return dataclasses.replace(state, step=state.step + 1), found


def _entries(
    old: PyTree, new: PyTree, index: Array, step: Array, run: Run, axis_name: str | None
) -> list[tuple[Array, Array]]:
    """What the step has put in the place of what: pairs of [b, D]."""
    if 'queue' in old:
        slots = old['queue']['keys'].shape[0]
        places = [(old['queue']['slot'] + i) % slots for i in range(batches_a_step(run))]
        return [(old['queue']['keys'][i], new['queue']['keys'][i]) for i in places]
    if 'queues' in old:
        i = step % old['queues'].shape[1]
        return [(old['queues'][view, i], new['queues'][view, i]) for view in range(2)]
    banks = [name for name in old if name == 'bank' or name.startswith('bank_')]
    return [tuple(memory.read_bank(x[name], index, axis_name) for x in (old, new)) for name in banks]  # type: ignore[misc]
