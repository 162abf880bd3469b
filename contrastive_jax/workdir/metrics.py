"""The metrics of a run: `metrics.jsonl`, one JSON object a line, and TensorBoard events with scalars and pictures."""

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from contrastive_jax.errors import UserError
from contrastive_jax.workdir import lock
from contrastive_jax.workdir.atomic import write_atomically

FILE = 'metrics.jsonl'
EVENTS = 'events.out.tfevents.'


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

    Raises:
      UserError: from here or from any write, when the folder cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike[str], resume_step: int = 0, enabled: bool = True):
        self.workdir = Path(workdir)
        self.resume_step = resume_step
        self.enabled = enabled
        self._lines: IO[bytes] | None = None
        self._events: _EventFile | None = None
        if enabled:
            try:
                self.workdir.mkdir(parents=True, exist_ok=True)
                _rewind(self.workdir / FILE, resume_step)
            except OSError as error:
                raise _cannot_write(self.workdir, error) from error

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds one line: the step and the scalars (Python numbers, NumPy or jax scalars).

        JSON has neither NaN nor infinity: both are written as null. TensorBoard gets them unchanged.
        """
        if not self.enabled:
            return
        lock.check(self.workdir)
        values = {name: _number(value) for name, value in scalars.items()}
        line = {'step': int(step)} | {name: x if math.isfinite(x) else None for name, x in values.items()}
        try:
            if self._lines is None:
                self._lines = open(self.workdir / FILE, 'ab', buffering=0)  # noqa: SIM115 (held until close)
            self._lines.write(json.dumps(line, allow_nan=False).encode() + b'\n')
            self._open_events().add(step, [summary_pb2.Summary.Value(tag=n, simple_value=x) for n, x in values.items()])
        except OSError as error:
            raise _cannot_write(self.workdir, error) from error

    def write_image(self, step: int, name: str, png: str | os.PathLike[str]) -> None:
        """Adds the picture in the file `png` to TensorBoard."""
        if not self.enabled:
            return
        lock.check(self.workdir)
        data = Path(png).read_bytes()
        with Image.open(png) as picture:
            image = summary_pb2.Summary.Image(
                width=picture.width, height=picture.height, colorspace=3, encoded_image_string=data
            )
        try:
            self._open_events().add(step, [summary_pb2.Summary.Value(tag=name, image=image)])
        except OSError as error:
            raise _cannot_write(self.workdir, error) from error

    def close(self) -> None:
        for file in (self._lines, self._events):
            if file is not None:
                file.close()

    def _open_events(self) -> '_EventFile':
        if self._events is None:
            self._events = _EventFile(self.workdir, self.resume_step)
        return self._events


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


class _EventFile:
    """A TensorBoard event file, written record by record.

    `tensorboard.summary.Writer` would do for scalars, but it cannot purge, and it loads TensorFlow where that is
    installed (through `tf.io.gfile`). The records and protocol buffers are TensorBoard's own.
    """

    def __init__(self, folder: Path, resume_step: int):
        # TensorBoard reads a folder's files in the order of their names, which begin with the time in seconds: stay
        # behind the older files even if the clock went back.
        taken = [int(p.name.removeprefix(EVENTS).split('.')[0]) for p in folder.glob(f'{EVENTS}[0-9]*')]
        stamp = max([int(time.time()), *(second + 1 for second in taken)])
        name = f'{EVENTS}{stamp:010d}.{socket.gethostname()}.{os.getpid()}'
        self._file = open(folder / name, 'wb')  # noqa: SIM115 (held until close)
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(file_version='brain.Event:2'))
        # A session start at step s makes TensorBoard forget what earlier files hold from step s on. Its Python reader
        # (--load_fast=false) ignores the first start of a folder, and first files of older versions have none.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        for _ in range(2 if taken else 1):
            self._write(event_pb2.Event(step=resume_step + 1, session_log=start))

    def add(self, step: int, values: list[summary_pb2.Summary.Value]) -> None:
        self._write(event_pb2.Event(step=int(step), summary=summary_pb2.Summary(value=values)))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()


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


def _cannot_write(workdir: Path, error: OSError) -> UserError:
    return UserError(f'cannot write metrics to {workdir}: {error.strerror} -> make room, or choose another workdir')
