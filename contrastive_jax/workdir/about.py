"""`about.json` in a workdir: devices, versions and commit of each session of a run.

A session is one start of the command. Training does not read it: a run without the file, or with an unreadable one,
continues.
"""

import datetime
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from contrastive_jax.workdir import lock
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

FILE = 'about.json'


class About:
    """Writes `about.json` of a workdir.

    Steps that a kill has lost are removed, as in `metrics.jsonl`: a run that is resumed from step s keeps no session
    that began at s or later, and no session that ends after s.

    Args:
      workdir: the folder of the run; it exists.
      start: the step that this session begins with.
      run: further facts about the run, plain data.
      mode: the value of `config.parallel`.
      enabled: False makes every method do nothing: only one process of a run may write.

    Raises:
      UserError: from here or from `update`, when the file cannot be written.
    """

    def __init__(self, workdir: Path, start: int, run: Mapping[str, Any], mode: str, enabled: bool = True):
        self._file, self._enabled, self._began = workdir / FILE, enabled, time.monotonic()
        before = [session for session in sessions(read(workdir)) if session['from_step'] < start]
        for session in before:
            session['to_step'] = min(session['to_step'], start)
        self._session = {
            'from_step': start,
            'to_step': start,
            'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'seconds': 0.0,
            **environment(),
            'parallel': mode,
        }
        self._content = {'run': dict(run), 'sessions': [*before, self._session]}
        self.update(start)

    def update(self, step: int) -> None:
        """Records the step that the session has reached."""
        if not self._enabled:
            return
        lock.check(self._file.parent)
        self._session |= {'to_step': step, 'seconds': round(time.monotonic() - self._began, 1)}
        try:
            write_atomically(self._file, json.dumps(self._content, indent=2).encode() + b'\n')
        except OSError as error:
            raise cannot_write(self._file, error) from error


def read(workdir: Path) -> dict[str, Any]:
    """The content of the file; {} where it is missing or has another form."""
    try:
        found = json.loads((workdir / FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run(found: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about the whole run in the result of `read`."""
    given = found.get('run')
    return given if isinstance(given, dict) else {}


def sessions(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The complete sessions in the result of `read`, in order."""
    given = found.get('sessions')
    given = given if isinstance(given, list) else []
    return [x for x in given if isinstance(x, dict) and all(isinstance(x.get(k), kind) for k, kind in _KINDS.items())]


_KINDS: dict[str, Any] = {
    'from_step': int,
    'to_step': int,
    'started': str,
    'seconds': int | float,
    'devices': int,
    'device_kind': str,
    'hosts': int,
    'jax': str,
    'commit': str | None,
    'parallel': str,
}


def environment() -> dict[str, Any]:
    """Devices, version of jax, and commit of this code (None outside of a git checkout)."""
    return {
        'devices': jax.device_count(),
        'device_kind': jax.devices()[0].device_kind,
        'hosts': jax.process_count(),
        'jax': jax.__version__,
        'commit': commit(),
    }


def commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """The commit of a checkout, with a '+' behind it where tracked files were changed.

    Args:
      root: the folder of the checkout; by default the one that holds this package.

    Returns:
      None where `root` is no git checkout, as in an installed wheel.
    """
    if not (root / '.git').exists():  # a repository further up is another one
        return None

    def git(*args: str) -> str:
        command = ['git', '-C', str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        changed = git('status', '--porcelain', '--untracked-files=no')
        return git('rev-parse', 'HEAD') + ('+' if changed else '')
    except (OSError, subprocess.SubprocessError):
        return None
