"""What a workdir was computed from: `inputs.json` holds fingerprints of the data and of given weights.

A config names data and weights by a path, and what lies there may change. The fingerprints are of the content, so data
that was moved elsewhere is the same, and other data under the same path is not.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from contrastive_jax.errors import UserError
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

FILE = 'inputs.json'


def check_inputs(workdir: Path, inputs: Mapping[str, tuple[str, str]], *, write: bool = True) -> None:
    """Compares the inputs of a workdir with those that it was begun with, or notes them at its first start.

    Args:
      workdir: the folder; it exists.
      inputs: name of an input -> its fingerprint, and a description for messages, such as '1,437 images of digits'.
      write: whether this process writes the file.

    Raises:
      UserError: an input is another than the one that the workdir was begun with, or the file cannot be read or
        written.
    """
    before, given = read(workdir), {name: list(value) for name, value in inputs.items()}
    compare(workdir, before, inputs)
    # What is new, and what an older version noted in its own form.
    if write and any(name not in before or before[name][0] != value[0] for name, value in given.items()):
        try:
            write_atomically(workdir / FILE, json.dumps({**before, **given}, indent=2).encode() + b'\n')
        except OSError as error:
            raise cannot_write(workdir / FILE, error) from error


def compare(workdir: Path, before: Mapping[str, tuple[str, str]], inputs: Mapping[str, tuple[str, str]]) -> None:
    """Compares inputs with those that a workdir was begun with.

    Args:
      workdir: the folder, for the message.
      before: what `read` has found in it.
      inputs: as in `check_inputs`.

    Raises:
      UserError: an input is another than the one that the workdir was begun with.
    """
    changed = [
        f'{name}: {before[name][1]} -> {inputs[name][1]}'
        + ('' if before[name][1] != inputs[name][1] else ', with other content')
        for name in inputs
        if name in before and differ(before[name][0], inputs[name][0])
    ]
    if changed:
        raise UserError(
            f'workdir {workdir} was begun with other inputs ({"; ".join(changed)}) -> choose another workdir, or give '
            'the same inputs'
        )


def differ(known: str, given: str) -> bool:
    """Whether two fingerprints are of different content. Those of older versions are shorter: nothing is known then."""
    return known != given and len(known) == len(given)


def read(workdir: Path) -> dict[str, tuple[str, str]]:
    """The inputs that a workdir was begun with, as in `check_inputs`; {} for workdirs of older versions.

    Raises:
      UserError: the file cannot be read.
    """
    file = workdir / FILE
    try:
        known = json.loads(file.read_text(encoding='utf-8'))
        return {name: (str(value[0]), str(value[1])) for name, value in known.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UserError(
            f'{file} cannot be read ({error})',
            remedy='restore it from a copy, or delete it: the inputs are noted anew at the next start',
        ) from error
