"""`run.json` in a workdir: the identity of the run, which each of its checkpoints repeats.

A checkpoint of another run of the same config, for example with another seed, has the same arrays. So a random id is
made at the first start, and a checkpoint with another id is not used. A copy of a whole workdir is the same run.
"""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrastive_jax.errors import CheckpointError, UserError
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

FILE = 'run.json'


def read(workdir: Path) -> dict[str, Any]:
    """The content of the file; {} if there is none, as in workdirs of older versions and beside a file of weights.

    Raises:
      UserError: the file cannot be read.
    """
    file = workdir / FILE
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(found, dict) or not isinstance(found.get('id'), str) or not found['id']:
            raise ValueError('it has no id')
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f'{file} cannot be read ({error})', remedy='restore it from a copy, or delete it: checkpoints repeat the id'
        ) from error
    return found


def write(workdir: Path, content: Mapping[str, Any]) -> None:
    """Writes the file.

    Raises:
      UserError: it cannot be written.
    """
    try:
        write_atomically(workdir / FILE, json.dumps(dict(content), indent=2).encode() + b'\n')
    except OSError as error:
        raise cannot_write(workdir / FILE, error) from error


def id_of(workdir: Path, in_checkpoints: Mapping[int, str]) -> str:
    """The id of the run in a workdir; '' if neither the file nor a checkpoint has one.

    Args:
      workdir: the folder of the run.
      in_checkpoints: step -> the id that its checkpoint repeats, '' for checkpoints of older versions.

    Raises:
      CheckpointError: the file is missing, and the checkpoints belong to different runs.
    """
    if found := read(workdir):
        return str(found['id'])
    ids = {run for run in in_checkpoints.values() if run}
    if len(ids) > 1:
        named = ', '.join(f'step {step}: run {run}' for step, run in sorted(in_checkpoints.items()) if run)
        raise CheckpointError(
            f'the checkpoints in {workdir} belong to different runs ({named}), and {FILE} is missing',
            remedy=f'restore {FILE} from a copy, or move the checkpoints of the other run away',
        )
    return ids.pop() if ids else ''


def begin(workdir: Path, in_checkpoints: Mapping[int, str]) -> str:
    """The id of the run in a workdir, which is written there if it is new.

    Args, Raises: as `id_of`; UserError if the file cannot be written.
    """
    run = id_of(workdir, in_checkpoints) or secrets.token_hex(8)
    if not read(workdir):
        write(workdir, {'id': run})
    return run
