"""Trackers: services that show the metrics and the pictures of a run, beside `metrics.jsonl`, which is the record.

`trackers.json` in the workdir holds the id of each tracker's run and what it was given last: a run that goes on
continues it, and gives it nothing twice. A service that fails while the run trains costs one warning; the training
never waits for it.
"""

import dataclasses
import importlib
import json
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from contrastive_jax.errors import UserError
from contrastive_jax.workdir import run_record
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

FILE = 'trackers.json'
NAMES = ('wandb', 'mlflow', 'trackio')  # of packages, and of our extras that install them

SECONDS = 60.0  # that the end of a run waits for a service

Say = Callable[[str], None]


class Tracker(Protocol):
    """Something that shows a run."""

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        """Adds the metrics of a step. A step may have several calls, with other names each."""

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Adds a picture, the content of a .png file."""

    def close(self) -> None:
        """Sends what is left, and ends."""


@dataclasses.dataclass(frozen=True)
class Opening:
    """What a service needs to begin or to continue a run.

    Attributes:
      project: the name of the project or experiment.
      name: the name of the run.
      id: an id that no other run has.
      goes_on: the id that the service gave to the run before; '' for a new one.
      config: the config of the run, plain data.
      workdir: the folder of the run.
    """

    project: str
    name: str
    id: str
    goes_on: str
    config: Mapping[str, Any]
    workdir: Path


class Service(Tracker, Protocol):
    """A tracker with a run of its own, made from an `Opening`.

    Attributes:
      id: the id of its run, by which it is continued.
      where: where the run can be seen, in words.
    """

    id: str
    where: str


def open_trackers(
    names: Sequence[str],
    workdir: Path,
    *,
    project: str,
    config: Mapping[str, Any],
    say: Say,
    make: Callable[[str], Callable[[Opening], Service]] | None = None,
) -> list[Tracker]:
    """Opens the trackers of a run; after a rollback they begin a new run, since a service cannot forget steps.

    Args:
      names: names of trackers, each one of NAMES.
      workdir: the folder of the run.
      project: the name of the project or experiment.
      config: the config of the run, plain data.
      say: is called with lines for the user.
      make: returns what opens the service of a name; None: that of `services.py`.

    Raises:
      UserError: a service cannot be opened for a run that is new to it, for example without a login.
    """
    opened: list[Tracker] = []
    rollbacks = len(run_record.read(workdir).get('rollbacks', []))
    for name in names:
        memory = Memory(workdir, name, rollbacks)
        label = workdir.name + (f', rolled back {rollbacks}x' if rollbacks else '')
        given = Opening(project, label, memory.new_id, memory.id, config, workdir)
        try:
            service = (make or _service)(name)(given)
        except Exception as error:  # each service raises its own types
            reason = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
            if not memory.id:
                for tracker in opened:
                    tracker.close()
                raise UserError(
                    f'the tracker {name} cannot be opened ({reason})', field='trackers', remedy=REMEDIES[name]
                ) from error
            say(f'warning: the tracker {name} cannot be opened ({reason}): this session is not shown there')
            continue
        memory.begin(service.id)
        say(f'tracker {name}: {service.where}')
        opened.append(Sender(name, service, memory, say))
    return opened


REMEDIES = {
    'wandb': 'log in by `wandb login`, or set WANDB_MODE=offline',
    'mlflow': 'set MLFLOW_TRACKING_URI, such as sqlite:///mlflow.db',
    'trackio': 'log in to Hugging Face, or unset TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to keep it on this machine',
}


class Sender:
    """A tracker that gives each value to a service once, in a thread of its own; a failure is one warning.

    Args:
      name: the name of a tracker, one of NAMES.
      service: the service.
      memory: what the service was given before.
      say: is called with the warning.
      seconds: how long `close` waits.
    """

    def __init__(self, name: str, service: Tracker, memory: 'Memory', say: Say, seconds: float = SECONDS):
        self._name, self._service, self._memory, self._say, self._seconds = name, service, memory, say, seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=f'tracker {name}', daemon=True)
        self._thread.start()

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        if self._failed:
            return
        new = {name: metrics[name] for name in self._memory.unseen(step, metrics)}
        if new:
            self._calls.put(lambda: self._service.write(step, new))

    def picture(self, step: int, name: str, png: bytes) -> None:
        if not self._failed and self._memory.unseen(step, [f'{name}.png']):
            self._calls.put(lambda: self._service.picture(step, name, png))

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join(self._seconds)
        if self._thread.is_alive():
            self._say(
                f'warning: the tracker {self._name} takes longer than {self._seconds:.0f} s: its rest is not sent'
            )

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._attempt(call)
        self._attempt(self._service.close, also_after_failure=True)

    def _attempt(self, call: Callable[[], None], also_after_failure: bool = False) -> None:
        if self._failed and not also_after_failure:
            return
        try:
            call()
        except Exception as error:  # each service raises its own types
            if not self._failed:
                reason = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
                self._say(
                    f'warning: the tracker {self._name} has failed ({reason}): from here on it gets nothing, the run '
                    'goes on, and metrics.jsonl has everything'
                )
            self._failed = True


class Memory:
    """What a workdir knows about the run of a service.

    Args:
      workdir: the folder of the run.
      name: the name of the service.
      rollbacks: how often the run was rolled back.

    Attributes:
      id: the id of the service's run; '' if there is none to continue.
      new_id: an id for a new one.
    """

    def __init__(self, workdir: Path, name: str, rollbacks: int):
        self._workdir, self._name, self.new_id = workdir, name, secrets.token_hex(8)
        found = read(workdir).get(name, {})
        same = found.get('rollbacks') == rollbacks and isinstance(found.get('id'), str)
        self.id = str(found['id']) if same else ''
        self._content: dict[str, Any] = (
            {**found} if same else {'id': '', 'rollbacks': rollbacks, 'step': -1, 'names': []}
        )

    def begin(self, id: str) -> None:
        """Records the id of the service's run."""
        if id != self.id:
            self.id = self._content['id'] = id
            self._write()

    def unseen(self, step: int, names: Iterable[str]) -> list[str]:
        """The names whose values at `step` were not given yet; from here on they count as given."""
        last, seen = self._content['step'], self._content['names']
        new = [] if step < last else [name for name in names if step > last or name not in seen]
        if new:
            self._content |= {'step': step, 'names': new if step > last else [*seen, *new]}
            self._write()
        return new

    def _write(self) -> None:
        content = json.dumps({**read(self._workdir), self._name: self._content}, indent=2)
        try:
            write_atomically(self._workdir / FILE, content.encode() + b'\n')
        except OSError as error:
            raise cannot_write(self._workdir / FILE, error) from error


def read(workdir: Path) -> dict[str, Any]:
    """The content of the file, without what has another form; {} where it is missing or cannot be read."""
    try:
        found = json.loads((workdir / FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    kinds = {'id': str, 'rollbacks': int, 'step': int, 'names': list}
    given = found.items() if isinstance(found, dict) else ()
    return {
        name: x
        for name, x in given
        if isinstance(x, dict) and all(isinstance(x.get(key), kind) for key, kind in kinds.items())
    }


def _service(name: str) -> Callable[[Opening], Service]:
    services = importlib.import_module('contrastive_jax.workdir.services')
    found: Callable[[Opening], Service] = services.SERVICES[name]
    return found
