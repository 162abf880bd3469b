"""Staleness of a dictionary: its entries compared with the entries that the current encoder gives the same views.

MoCo (arXiv 1911.05722, section 3.1) needs keys in its queue that are consistent although they were encoded at different
steps. The views of a step are a function of the seed and the number of the step. So a step can be replayed exactly, and
what the method would write into its memory now is compared with what it wrote at that step.
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
from contrastive_jax.workdir.reading import read_part

NUM_AGES = 6  # the largest number of ages that are measured, with one batch for each


@dataclasses.dataclass(frozen=True)
class Staleness:
    """Mean cosine similarity of stored entries and of the current features, by the age of the entries.

    Attributes:
      kind: 'queue' or 'bank'.
      entries: number of entries in the dictionary.
      oldest: the largest age that was measured, in steps.
      steps_per_epoch: steps of an epoch of the run.
      ages: steps since the entries were written; 0: by the last step.
      same: mean cosine with the current features of the same view, one value for each age.
      other: mean cosine with the current features of views of other images, for comparison.
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
    """Measures the staleness of the dictionary in the newest checkpoint.

    Args:
      workdir: the workdir of the run; nothing is written to it.
      run: what is constant in the run.
      source: the training images of the run.
      devices: the devices that replay the steps; their number may differ from that of the run.
      on_device, workers: as in `config.data`.

    Returns:
      None if the method has no dictionary, or if no step was done.

    Raises:
      CheckpointError: there is no checkpoint, or it belongs to another model.
    """
    shapes = jax.eval_shape(lambda: init_state(run))
    kind = memory_kind(shapes.method.memory)
    if kind is None:
        return None
    wanted = {'params': shapes.params, 'method': {name: getattr(shapes.method, name) for name in _PARTS}}
    now, part = read_part(workdir, wanted, ('params', 'method'))
    # With momentum 1, the key encoder of a queue keeps its current parameters. With momentum 0, a row of a bank becomes
    # the feature of the current view, without the mean over past epochs.
    fields: dict[str, Any] = {'momentum': 1.0 if kind == 'queue' else 0.0} if hasattr(run.method, 'momentum') else {}
    total = max(run.total_steps, now)  # the config may have been shortened after the checkpoint
    fields |= {'total_steps': total} if hasattr(run.method, 'total_steps') else {}
    run = dataclasses.replace(run, method=dataclasses.replace(run.method, **fields), total_steps=total)
    steps = steps_to_replay(now, kind, shapes.method.memory, run)
    if not len(steps):
        return None
    state = TrainState(jnp.zeros((), jnp.int32), part['params'], {}, MethodState(**part['method']))
    state = devices.place(state, run.state_specs)
    data: feed.Feed
    if source.array is not None and on_device:
        data = feed.ResidentFeed(run, devices, source, 1, replay_step)
    else:
        data = feed.StreamFeed(run, devices, source, workers, replay_step)
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
        kind, num_entries(shapes.method.memory, run), ages[0], run.steps_per_epoch, ages[::-1], same[::-1], other[::-1]
    )


_PARTS = ('target', 'batch_stats', 'memory')


def memory_kind(memory: PyTree) -> str | None:
    """'queue' for the memory of MoCo, SimCLR v2 and SwAV, 'bank' for that of InstDis and CMC, None for any other."""
    if 'queue' in memory or 'queues' in memory:
        return 'queue'
    return 'bank' if any(name == 'bank' or name.startswith('bank_') for name in memory) else None


def num_entries(memory: PyTree, run: Run) -> int:
    """The number of keys in a queue, or of rows of a bank without those that pad it."""
    if 'queue' in memory:
        return int(np.prod(memory['queue']['keys'].shape[:2]))
    if 'queues' in memory:
        return int(np.prod(memory['queues'].shape[1:3]))
    return int(run.method.num_examples)  # type: ignore[attr-defined]


def steps_to_replay(now: int, kind: str, memory: PyTree, run: Run) -> np.ndarray:
    """Up to `NUM_AGES` evenly spaced steps whose entries are in the dictionary after `now` steps, the oldest first.

    For a bank they are steps of the current epoch, or of the last one if an epoch has just ended: within an epoch no
    row is written twice.
    """
    if kind == 'bank':
        first = (now - 1) // run.steps_per_epoch * run.steps_per_epoch
    elif 'queues' in memory:
        first = now - memory['queues'].shape[1]
    else:
        first = now - memory['queue']['keys'].shape[0] // batches_per_step(run)
    first = max(first, 0)
    return np.unique(np.linspace(first, now - 1, min(NUM_AGES, max(now - first, 0))).astype(np.int64))


def batches_per_step(run: Run) -> int:
    """The number of batches of keys that a step puts into the queue."""
    # A symmetric MoCo and SimCLR with a memory store the keys of both views.
    return 2 if getattr(run.method, 'symmetric', run.method.concat_views) else 1


def replay_step(
    state: TrainState, batch: dict[str, Any], *, run: Run, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """Replays the step number `state.step` without changing parameters or memory; it takes the place of `train_step`.

    Returns:
      The state with the next step, and the mean cosine of old and new entries: 'same' of the same view, 'other' of all
      pairs of views.
    """
    key_views, key_method = keys_of(run, state.step)
    batch = augment(key_views, batch, run, axis_name)
    old = dict(state.method.memory)
    if 'queue' in old:
        slots = old['queue']['keys'].shape[0]
        old['queue'] = {**old['queue'], 'slot': state.step * batches_per_step(run) % slots}
    given = dataclasses.replace(state.method, memory=old)
    progress = state.step / run.total_steps
    _, (new, _) = run.method.loss(state.params, given, batch, rng=key_method, progress=progress, axis_name=axis_name)
    pairs = _replaced_entries(old, new.memory, batch['index'], state.step, run, axis_name)
    then, now = (normalize(jnp.concatenate(x)) for x in zip(*pairs, strict=True))  # [n, D]
    mean_then, mean_now = collectives.pmean((then.mean(0), now.mean(0)), axis_name)
    found = {
        'same': collectives.pmean(jnp.mean(jnp.sum(then * now, axis=-1)), axis_name),
        'other': mean_then @ mean_now,
    }
    return dataclasses.replace(state, step=state.step + 1), found


def _replaced_entries(
    old: PyTree, new: PyTree, index: Array, step: Array, run: Run, axis_name: str | None
) -> list[tuple[Array, Array]]:
    """The entries that a step replaces and those that it writes instead: pairs of [b, D]."""
    if 'queue' in old:
        slots = old['queue']['keys'].shape[0]
        positions = [(old['queue']['slot'] + i) % slots for i in range(batches_per_step(run))]
        return [(old['queue']['keys'][i], new['queue']['keys'][i]) for i in positions]
    if 'queues' in old:
        i = step % old['queues'].shape[1]
        return [(old['queues'][view, i], new['queues'][view, i]) for view in range(2)]
    banks = [name for name in old if name == 'bank' or name.startswith('bank_')]
    return [tuple(memory.read_bank(x[name], index, axis_name) for x in (old, new)) for name in banks]  # type: ignore[misc]
