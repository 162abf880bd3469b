"""`ended.json` in a workdir: how the last start of a run ended, for the command `doctor`. Training does not read it."""

import contextlib
import datetime
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from contrastive_jax.workdir.atomic import write_atomically

FILE = 'ended.json'


def this_command() -> dict[str, str]:
    """The command of this process, and the folder that it was started in."""
    with contextlib.suppress(OSError):  # the folder was deleted
        return {'command': shlex.join(['python', *sys.orig_argv[1:]]), 'folder': os.getcwd()}
    return {}


def write(workdir: Path, error: BaseException | None) -> None:
    """Records the end of this process's run. A file that cannot be written, as on a full disk, stays as it was.

    Args:
      workdir: the folder of the run.
      error: what ended the run; None if it is finished.
    """
    code = 0 if error is None else getattr(error, 'exit_code', 1)
    line = '' if error is None else ' '.join(str(error).split()) or type(error).__name__
    new = {'code': code, 'line': line, **this_command()}
    before = read(workdir)
    if {name: before.get(name) for name in new} == new:  # a finished run that is started again changes nothing
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    with contextlib.suppress(OSError):
        write_atomically(workdir / FILE, json.dumps({'at': now, **new}, indent=2).encode() + b'\n')


def read(workdir: Path) -> dict[str, Any]:
    """The content of the file: 'at', 'code', 'line', 'command', 'folder'; {} if it is missing or has another form."""
    try:
        found = json.loads((workdir / FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    kinds = {'at': str, 'code': int, 'line': str}
    good = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    return dict(found) if good else {}
