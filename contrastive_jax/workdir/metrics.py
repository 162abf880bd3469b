"""The metrics of a run: `metrics.jsonl`, one JSON object a line, which trackers such as TensorBoard get as well."""

import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from contrastive_jax.errors import UserError
from contrastive_jax.workdir import lock
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write
from contrastive_jax.workdir.tensorboard import TensorBoard
from contrastive_jax.workdir.trackers import Tracker

FILE = 'metrics.jsonl'


class MetricWriter:
    """Appends metrics to a workdir. After a kill the files are as if the run had not been interrupted.

    On opening, metrics of steps after `resume_step` are removed: their lines are deleted from `metrics.jsonl`, an
    incomplete last line is repaired, lines of another form are kept; TensorBoard hides the removed steps. Each write
    reaches the operating system before it returns. The first write opens the files, so a run without new metrics
    changes nothing.

    Args:
      workdir: the folder; it is made if it is missing.
      resume_step: the step of the checkpoint that training resumes from; 0 for a new run.
      enabled: False makes every method do nothing: only one process of a run may write.
      trackers: get the same as TensorBoard; `close` closes them.

    Raises:
      UserError: from here or from any write, when the folder cannot be written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resume_step: int = 0,
        enabled: bool = True,
        trackers: Sequence[Tracker] = (),
    ):
        self.workdir = Path(workdir)
        self.resume_step = resume_step
        self.enabled = enabled
        self._lines: IO[bytes] | None = None
        self._trackers: tuple[Tracker, ...] = (TensorBoard(self.workdir, resume_step), *trackers)
        if enabled:
            try:
                self.workdir.mkdir(parents=True, exist_ok=True)
                _rewind(self.workdir / FILE, resume_step)
            except OSError as error:
                raise self._cannot_write(error) from error

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds one line: the step and the scalars (Python numbers, NumPy or jax scalars).

        JSON has neither NaN nor infinity: both are written as null. Trackers get them unchanged.
        """
        if not self.enabled:
            return
        lock.check(self.workdir)
        values = {name: _number(value) for name, value in scalars.items()}
        line = {'step': int(step)} | {name: x if math.isfinite(x) else None for name, x in values.items()}
        try:
            if self._lines is None:
                self._lines = open(self.workdir / FILE, 'ab', buffering=0)  # noqa: SIM115 (held until close)
            _append(self._lines, json.dumps(line, allow_nan=False).encode() + b'\n')
            for tracker in self._trackers:
                tracker.write(int(step), values)
        except OSError as error:
            raise self._cannot_write(error) from error

    def write_image(self, step: int, name: str, png: str | os.PathLike[str]) -> None:
        """Gives the picture in the file `png` to the trackers."""
        if not self.enabled:
            return
        lock.check(self.workdir)
        data = Path(png).read_bytes()
        try:
            for tracker in self._trackers:
                tracker.picture(int(step), name, data)
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        for tracker in self._trackers:
            tracker.close()

    def _cannot_write(self, error: OSError) -> UserError:
        return cannot_write(self.workdir / FILE, error, f'metrics to {self.workdir}')


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in order, null as NaN; [] without the file.

    Lines of another form, and values that are no numbers, are skipped: others may have written them.
    """
    try:
        lines = (Path(workdir) / FILE).read_bytes().split(b'\n')
    except FileNotFoundError:
        return []
    parsed = (_parse(line) for line in lines)
    return [
        {name: math.nan if x is None else x for name, x in line.items() if x is None or isinstance(x, int | float)}
        for line in parsed
        if line is not None
    ]


def summarize(stacked: Mapping[str, Any]) -> dict[str, float]:
    """Means of metrics [S] that a compiled scan over S steps has stacked; one NaN makes the mean NaN."""
    return {name: float(np.mean(np.asarray(values, np.float64))) for name, values in stacked.items()}


def _append(file: IO[bytes], line: bytes) -> None:
    """Writes a whole line, or nothing: on a disk that becomes full, the system may write its beginning alone."""
    before = os.fstat(file.fileno()).st_size
    if (written := file.write(line)) != len(line):
        os.ftruncate(file.fileno(), before)
        raise OSError(errno.ENOSPC, f'{os.strerror(errno.ENOSPC)} after {written} of {len(line)} bytes')


def _rewind(path: Path, resume_step: int) -> None:
    """Keeps in metrics.jsonl the lines up to `resume_step` and lines of another form."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    *lines, last = content.split(b'\n')  # `last` follows the last newline: empty unless a kill tore it
    if _parse(last) is not None:
        lines.append(last)
    parsed = ((line, _parse(line)) for line in lines)
    kept = b''.join(line + b'\n' for line, fields in parsed if fields is None or fields['step'] <= resume_step)
    if kept != content:
        write_atomically(path, kept)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The fields of a line of metrics; None for other lines."""
    try:
        fields = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get('step'), int) else None


def _number(value: Any) -> int | float:
    """A Python number; float32 0.1 as 0.1 rather than 0.10000000149."""
    x = np.asarray(value)
    if x.shape != ():
        raise TypeError(f'a metric is a scalar, got shape {x.shape} -> reduce it first')
    return int(x) if x.dtype.kind in 'iub' else float(str(x))
