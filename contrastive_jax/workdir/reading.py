"""Reads checkpoints without the run that wrote them, and changes nothing: the run may be training."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import CheckpointError, MissingPartError
from contrastive_jax.optim.optimizers import is_below
from contrastive_jax.workdir import run_record
from contrastive_jax.workdir.checksum import checksum, digest
from contrastive_jax.workdir.described import FOLDER, ITEM, alone, check_model, check_origin, few, named, runs_of
from contrastive_jax.workdir.kept import find_step
from contrastive_jax.workdir.orbax_output import brief, collect_quietly, quiet_absl


def read_part(
    workdir: Path, shapes: PyTree, below: tuple[str, ...], step: int | str | None = None
) -> tuple[int, PyTree]:
    """A part of a complete checkpoint, by default the newest, as numpy. Nothing is changed: the run may be training.

    Args:
      workdir: the workdir, in which the folder `checkpoints` is.
      shapes: nested dicts with the part at its place in the state.
      below: paths such as 'params/encoder'; together they cover everything in `shapes`.
      step: the step of the checkpoint, or 'best'; None: the newest that can be used.

    Returns:
      The number of steps done, and the part in the form of `shapes`.

    Raises:
      UserError: there is no checkpoint of this step.
      MissingPartError: a checkpoint has nothing below these paths, and no other can be used.
      CheckpointError: there is no checkpoint, it holds another model, or none can be read.
    """
    folder = (workdir / FOLDER).absolute()
    failures: dict[int, str] = {}
    kind = CheckpointError
    with _opened(workdir) as (manager, reader):
        run = run_record.id_of(workdir, runs_of(manager))
        existing = manager.all_steps()
        tried = sorted(existing, reverse=True) if step is None else [find_step(workdir, step, existing)]
        for step in tried:
            try:
                described = manager.metadata(step)
                note = described.custom_metadata or {}
                check_origin(note, step, run)
                held = {name: x for name, x in named(described.item_metadata).items() if is_below(name, below)}
                if not held:
                    raise MissingPartError(f'it has no {below[0]}')
                check_model(held, named(shapes))
                part = reader.restore(folder / str(step) / ITEM, args=_as_numpy(shapes))
                if damage := _damage(part, note):
                    raise CheckpointError(damage)
            except Exception as error:  # Orbax raises many types for a damaged file
                failures[step] = str(error) if isinstance(error, CheckpointError) else brief(error)
                kind = MissingPartError if isinstance(error, MissingPartError) else kind
                collect_quietly()
                continue
            for damaged, reason in failures.items():
                logging.warning(
                    'the checkpoint of step %d cannot be used (%s): this is that of step %d', damaged, reason, step
                )
            return step, part
    if not failures:
        raise kind(f'there is no checkpoint in {folder}', remedy='train until the first one, or give another workdir')
    reasons = '; '.join(f'step {step}: {reason}' for step, reason in failures.items())
    raise kind(
        f'no checkpoint in {folder} can be used ({reasons}) -> give another workdir, or use the code and config that '
        'it was written with'
    )


def verify(workdir: Path) -> dict[int, str]:
    """Reads every checkpoint of a workdir whole, and compares it with its checksums.

    Args:
      workdir: the folder of a run.

    Returns:
      Step -> why its checkpoint cannot be used, '' if it can; the oldest first.

    Raises:
      UserError: run.json cannot be read, or lacks where checkpoints belong to several runs.
    """
    found: dict[int, str] = {}
    if not (workdir / FOLDER).is_dir():
        return found
    with _opened(workdir) as (manager, reader):
        run = run_record.id_of(workdir, runs_of(manager))
        for step in sorted(manager.all_steps()):
            folder = (workdir / FOLDER / str(step)).absolute()
            try:
                described = manager.metadata(step)
                note = described.custom_metadata or {}
                check_origin(note, step, run)
                shapes = jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                    described.item_metadata,
                    is_leaf=lambda x: hasattr(x, 'shape'),
                )
                found[step] = _damage(reader.restore(folder / ITEM, args=_as_numpy(shapes)), note)
            except Exception as error:  # Orbax raises many types for a damaged file
                if folder.exists():  # the run may have deleted it meanwhile
                    found[step] = str(error) if isinstance(error, CheckpointError) else brief(error)
                collect_quietly()
    return found


def size_of(workdir: Path, step: int) -> int:
    """Bytes of the arrays of a checkpoint.

    Raises:
      Exception: it cannot be read; Orbax raises many types.
    """
    with _opened(workdir) as (manager, _):
        held = named(manager.metadata(step).item_metadata)
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in held.values())


@contextlib.contextmanager
def _opened(workdir: Path) -> Iterator[tuple[ocp.CheckpointManager, ocp.Checkpointer]]:
    """What describes the checkpoints of a workdir, and what reads one. Each process reads by itself."""
    with quiet_absl():
        manager = ocp.CheckpointManager(
            (workdir / FOLDER).absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(read_only=True),
        )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone())
    with manager, ocp.Checkpointer(handler, multiprocessing_options=alone()) as reader:
        yield manager, reader


def _as_numpy(shapes: PyTree) -> ocp.args.PyTreeRestore:
    """Reads the arrays of these shapes, which may be a part of a checkpoint."""
    return ocp.args.PyTreeRestore(
        jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes),
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes),
        partial_restore=True,
    )


def _damage(state: PyTree, note: Mapping[str, Any]) -> str:
    """How the values of a checkpoint differ from what it says about them; '' if they do not."""
    sums = note.get('leaves', {})  # checkpoints of older versions have only one checksum, of all leaves
    if 'run' in note and digest(list(sums.values()), note) != note.get('checksum'):
        return 'what it says about itself does not match its checksum'
    wrong = [name for name, x in named(state).items() if sums.get(name, s := int(checksum(x, np))) != s]
    return f'values do not match their checksum: {few(wrong)}' if wrong else ''
