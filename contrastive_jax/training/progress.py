"""The progress of a run: a bar on a terminal, plain lines in a log."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from tqdm import tqdm

# Weight of the newest measurement in the step time behind "left": steady, but it follows a change within a few lines.
SMOOTHING = 0.3


class Progress:
    """Shows step, loss, images/s and the time left. Used as a context manager, or closed by hand.

    Args:
      total_steps: the step at which the run ends.
      start_step: the step it starts from: 0, or that of a checkpoint.
      batch_size: images a step, over all devices.
      enabled: False shows nothing (all processes but the first); times are measured all the same.
      stream: where to; sys.stdout by default. A bar if it is a terminal.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        batch_size: int,
        enabled: bool = True,
        stream: IO[str] | None = None,
    ):
        self.total_steps, self.batch_size, self.enabled = total_steps, batch_size, enabled
        self._stream = sys.stdout if stream is None else stream
        self._step = start_step
        self._paused_s = 0.0
        self._last_s = self._clock()
        self._step_s: float | None = None  # smoothed seconds a step
        self._images_per_second = math.nan
        self._bar: tqdm | None = None
        if enabled and self._stream.isatty():
            bar_format = '{percentage:3.0f}%|{bar}| {desc}'
            self._bar = tqdm(
                total=total_steps, initial=start_step, bar_format=bar_format, dynamic_ncols=True, file=self._stream
            )

    def update(self, step: int, loss: float) -> float:
        """Shows that `step` steps are done, the last with this loss.

        Returns:
          images/s since the last update (or the start), pauses left out. Call it when the steps have really run: jax
          computes asynchronously, and fetching the loss waits for it. NaN before a step was timed.
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

    def untimed(self, step: int) -> None:
        """Leaves the steps up to this one out of the times: the first call of a program compiles it, too."""
        self._step, self._last_s = step, self._clock()

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self.enabled:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside (evaluation, compilation) does not count as training. May be nested."""
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
