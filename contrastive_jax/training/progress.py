"""The progress of a run: a progress bar on a terminal, plain lines in a log file."""

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from tqdm import tqdm

# Weight of the newest measurement in the smoothed step time, from which the time left is computed.
SMOOTHING = 0.3


class Progress:
    """Prints step, loss, images/s and the time left. A context manager; `close` does the same as leaving it.

    Args:
      total_steps: the step at which the run ends.
      start_step: the step that the run starts from: 0, or the step of a checkpoint.
      batch_size: global number of images of a step.
      enabled: False prints nothing (all processes but the first); times are still measured.
      stream: the output; sys.stdout by default. A terminal gets a progress bar.
      label: stands before every line, where several runs print; there is no bar then.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        batch_size: int,
        enabled: bool = True,
        stream: IO[str] | None = None,
        label: str = '',
    ):
        self._prefix = f'{label}: ' if label else ''
        self.total_steps, self.batch_size, self.enabled = total_steps, batch_size, enabled
        self._stream = sys.stdout if stream is None else stream
        self._step = start_step
        self._paused_s = 0.0
        self._last_s = self._clock()
        self._step_s: float | None = None  # smoothed seconds a step
        self._images_per_second = math.nan
        self._bar: tqdm | None = None
        if enabled and not label and self._stream.isatty():
            bar_format = '{percentage:3.0f}%|{bar}| {desc}'
            self._bar = tqdm(
                total=total_steps, initial=start_step, bar_format=bar_format, dynamic_ncols=True, file=self._stream
            )

    def update(self, step: int, loss: float) -> float:
        """Prints that `step` steps are done, the last one with this loss.

        Returns:
          images/s since the last update (or the start), without pauses; NaN before a step was timed. Call it after the
          steps have run: jax computes asynchronously, and fetching the loss waits for them.
        """
        now = self._clock()
        if step > self._step:
            step_s = max(now - self._last_s, 1e-9) / (step - self._step)
            self._step_s = step_s if self._step_s is None else SMOOTHING * step_s + (1 - SMOOTHING) * self._step_s
            self._images_per_second = self.batch_size / step_s
        self._step, self._last_s = step, now
        left = '?' if self._step_s is None else duration((self.total_steps - step) * self._step_s)
        rate = '?' if math.isnan(self._images_per_second) else f'{self._images_per_second:.0f}'
        text = f'step {step}/{self.total_steps}  loss {loss:.4g}  {rate} images/s  left {left}'
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_description_str(text, refresh=False)
            self._bar.refresh()
        else:
            self.say(text)
        return self._images_per_second

    def forecast(self, step: int, loss: float) -> None:
        """Prints loss, images/s and the expected end after the first timed steps; `update` counts them again."""
        timed = step - self._step
        step_s = max(self._clock() - self._last_s, 1e-9) / max(timed, 1)
        left = (self.total_steps - step) * step_s
        end = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=left)
        self.say(
            f'after {timed} timed step{"s" * (timed > 1)}: loss {loss:.4g}, {self.batch_size / step_s:.4g} images/s, '
            f'{step_s:.2g} s a step; left {duration(left)} without evaluations, '
            f'until about {end:%Y-%m-%d %H:%M}'
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Names what is done inside this context, and says how long it took. The time does not count as training."""
        self.say(f'{name} ...')
        start = time.monotonic()
        with self.paused():
            yield
        self.say(f'{name}: done in {seconds(time.monotonic() - start)}')

    def untimed(self, step: int) -> None:
        """Excludes the steps up to this one from the times: the first call of a program includes its compilation."""
        self._step, self._last_s = step, self._clock()

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self.enabled:
            print(f'{self._prefix}{text}', file=self._stream, flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside this context (evaluation, compilation) does not count as training time. It may be nested."""
        before, start = self._paused_s, time.monotonic()
        try:
            yield
        finally:
            self._paused_s = before + time.monotonic() - start  # an inner pause is part of the outer one

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _clock(self) -> float:
        """Seconds of training so far, plus a constant; the monotonic clock does not jump with the machine's time."""
        return time.monotonic() - self._paused_s


def duration(seconds: float) -> str:
    """5025 -> '1:23:45'; hours may exceed 24."""
    minutes, s = divmod(max(round(seconds), 0), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{s:02d}'


def seconds(time_s: float) -> str:
    """A time for messages: '3.2 s' below 100 s, else as `duration`."""
    return f'{time_s:.1f} s' if time_s < 100 else duration(time_s)
