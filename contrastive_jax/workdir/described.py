"""What a checkpoint says about itself: its step, its run, and the arrays that it holds."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import CheckpointError

FOLDER = 'checkpoints'  # of a workdir
ITEM = 'default'  # the name that Orbax gives to the only item of a checkpoint

SHOWN = 5  # the largest number of names in a message


def runs_of(manager: ocp.CheckpointManager) -> dict[int, str]:
    """The run that each checkpoint says it belongs to; '' if it cannot be read or does not say it."""
    found: dict[int, str] = {}
    for step in manager.all_steps():
        with contextlib.suppress(Exception):  # Orbax raises many types for a damaged file
            found[step] = str((manager.metadata(step).custom_metadata or {}).get('run', ''))
    return found


def check_origin(note: Mapping[str, Any], step: int, run: str) -> None:
    """Raises CheckpointError if a checkpoint was written for another step or by another run.

    Args:
      note: what the checkpoint says about itself; older versions recorded neither step nor run.
      step: the step that its folder is named after.
      run: the id of the run; '' if it is not known.
    """
    if (written := note.get('step', step)) != step:
        raise CheckpointError(f'it was written as step {written}')
    if run and (of := note.get('run', run)) != run:
        raise CheckpointError(f'it belongs to another run: {of}, and this is {run}')


def alone() -> ocp.options.MultiprocessingOptions:
    """Options with which each process reads and checks a checkpoint by itself.

    Otherwise an error in one process would leave the others waiting in a collective.
    """
    i = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=i, active_processes={i}, barrier_sync_key_prefix=f'alone{i}')


def check_model(held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises CheckpointError if a checkpoint is of another model. (Orbax's own message has several pages.)"""
    a = {name: f'{x.dtype}{list(x.shape)}' for name, x in held.items()}
    b = {name: f'{x.dtype}{list(x.shape)}' for name, x in wanted.items()}
    differ = [
        f'{name} is {a.get(name, "missing")} there and {b.get(name, "missing")} here'
        for name in (*b, *(name for name in a if name not in b))
        if a.get(name) != b.get(name)
    ]
    if differ:
        raise CheckpointError(f'it holds another model: {few(differ)}')


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, e.g. 'params/encoder/conv1/kernel', of a state or of Orbax's description of one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in leaves}


def few(items: list[str]) -> str:
    rest = f', and {len(items) - SHOWN} more' if len(items) > SHOWN else ''
    return ', '.join(items[:SHOWN]) + rest
