"""`kept.json` in a workdir: the checkpoints that are kept beside the newest ones, and which one is the best."""

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax

from contrastive_jax.distributed.agree import text_of_first, together
from contrastive_jax.errors import UserError
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

FILE = 'kept.json'
BEST = 'best'  # what commands take instead of the number of a step


@dataclasses.dataclass(frozen=True)
class Best:
    """The best checkpoint by a metric.

    Attributes:
      metric: its name, such as 'eval/knn_top1'.
      mode: 'max' or 'min': which values are better.
      step: the step of the checkpoint.
      value: the metric there.
    """

    metric: str
    mode: str
    step: int
    value: float

    def beaten_by(self, value: float) -> bool:
        """Whether a value of the metric is better; NaN never is."""
        return value > self.value if self.mode == 'max' else value < self.value


class Kept:
    """Tells Orbax which checkpoints to keep: the newest, those at a multiple of some steps, and the best.

    The kept steps are recorded, so that a run that goes on with another multiple, or with none, keeps them. All
    processes of a run hold the same; the first one writes the file.

    Args:
      workdir: the folder of the run; it exists.
      newest: number of newest checkpoints that are kept.
      every_steps: checkpoints of multiples of this are kept; 0: none.

    Raises:
      UserError: the file cannot be read.
    """

    def __init__(self, workdir: Path, newest: int, every_steps: int = 0):
        self._workdir, self._newest, self._every = workdir, newest, every_steps
        mine = together(lambda: read(workdir) if jax.process_index() == 0 else {})  # others may not see the workdir
        found = json.loads(text_of_first(json.dumps(mine)))
        self._steps = set(found.get('steps', []))
        self.best = _best_of(found)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's contract of a preservation policy: which of the checkpoints, in their order, stay."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        stay = {*sorted(steps)[-self._newest :], *self._steps, *([self.best.step] if self.best else [])}
        return [step in stay for step in steps]

    def steps_among(self, existing: Collection[int]) -> list[int]:
        """The steps that are kept as multiples, oldest first."""
        return sorted(self._steps.intersection(existing))

    def match(self, existing: Collection[int]) -> None:
        """Forgets checkpoints that do not exist, and adds those that exist and are to be kept."""
        steps = {step for step in existing if step in self._steps or self._is_multiple(step)}
        best = self.best if self.best and self.best.step in existing else None
        if (steps, best) != (self._steps, self.best):
            self._steps, self.best = steps, best
            self._write()

    def add(self, step: int) -> None:
        """Records a step that is about to be saved, if it is to be kept."""
        if self._is_multiple(step) and step not in self._steps:
            self._steps.add(step)
            self._write()

    def set_best(self, best: Best | None) -> None:
        """Records the best checkpoint; it is on disk."""
        if best != self.best:
            self.best = best
            self._write()

    def _is_multiple(self, step: int) -> bool:
        return self._every > 0 and step % self._every == 0

    def _write(self) -> None:
        if jax.process_index() != 0:
            return
        content: dict[str, Any] = {'steps': sorted(self._steps)}
        content |= {BEST: dataclasses.asdict(self.best)} if self.best else {}
        file = self._workdir / FILE
        try:
            write_atomically(file, json.dumps(content, indent=2).encode() + b'\n')
        except OSError as error:
            raise cannot_write(file, error) from error


def read(workdir: Path) -> dict[str, Any]:
    """The content of the file; {} if there is none.

    Raises:
      UserError: the file cannot be read.
    """
    file = workdir / FILE
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        steps = found.get('steps') if isinstance(found, dict) else None
        if not isinstance(steps, list) or not all(isinstance(step, int) for step in steps):
            raise ValueError('it has no steps')
        _best_of(found)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f'{file} cannot be read ({error})', remedy='restore it from a copy, or delete it: then nothing is kept'
        ) from error
    return dict(found)


def parse_step(given: int | str | None) -> int | str | None:
    """A step as a command or a config gives it: None for the newest, a number, or 'best'.

    Raises:
      UserError: it is none of these.
    """
    if given is None or given == '':
        return None
    if given == BEST or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    if isinstance(given, str) and given.isascii() and given.isdigit():
        return int(given)
    raise UserError(
        f"step {given!r} is neither a number nor 'best'", field='step', remedy='give the step of a checkpoint, or best'
    )


def find_step(workdir: Path, given: int | str, existing: Collection[int]) -> int:
    """The step that a command asks for.

    Args:
      workdir: the folder of the run.
      given: a number, or 'best'.
      existing: the steps of the complete checkpoints.

    Raises:
      UserError: there is no such checkpoint; the line lists those that exist.
    """
    best = _best_of(read(workdir))
    step = given if isinstance(given, int) else best.step if best else None
    if step is not None and step in existing:
        return step
    asked = f'checkpoint of step {given}' if isinstance(given, int) else 'best checkpoint'
    if step is not None and given == BEST:
        asked += f' (step {step})'
    names = [f'{x} (best)' if best and x == best.step else str(x) for x in sorted(existing)]
    hint = '' if given != BEST or best else "; a run with config.keep_best='eval/knn_top1' keeps the best"
    raise UserError(
        f'there is no {asked} in {workdir}',
        field='step',
        remedy=(f'choose from {", ".join(names)}' if names else 'train the run: it has no checkpoint') + hint,
    )


def _best_of(found: dict[str, Any]) -> Best | None:
    """The record of the best checkpoint in the content of the file; None if it has none."""
    given = found.get(BEST)
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ValueError('its best is no record')
    best = Best(**given)
    if not isinstance(best.step, int) or not isinstance(best.value, int | float):
        raise ValueError('its best has no step or no value')
    return best
