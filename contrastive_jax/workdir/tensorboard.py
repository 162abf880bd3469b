"""TensorBoard's event files: the tracker that every run has."""

import contextlib
import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

EVENTS = 'events.out.tfevents.'


class TensorBoard:
    """Writes metrics and pictures to an event file of a folder; each call reaches the operating system.

    The first call opens the file, so a run without new metrics changes nothing.

    Args:
      folder: the folder; it exists.
      resume_step: the step that a run goes on from; TensorBoard forgets later steps of older files. 0 for a new run.

    Raises:
      OSError: from any call, when the folder cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int = 0):
        self._folder, self._resume_step = folder, resume_step
        self._file: _EventFile | None = None

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        self._open().add(step, [summary_pb2.Summary.Value(tag=name, simple_value=x) for name, x in metrics.items()])

    def picture(self, step: int, name: str, png: bytes) -> None:
        with Image.open(io.BytesIO(png)) as picture:
            image = summary_pb2.Summary.Image(
                width=picture.width, height=picture.height, colorspace=3, encoded_image_string=png
            )
        self._open().add(step, [summary_pb2.Summary.Value(tag=name, image=image)])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> '_EventFile':
        if self._file is None:
            self._file = _EventFile(self._folder, self._resume_step)
        return self._file


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
        with contextlib.suppress(OSError):  # the write that failed has raised it already
            self._file.close()

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
