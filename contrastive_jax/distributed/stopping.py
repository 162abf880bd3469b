"""Lets a long computation end early, between two of its batches, when the run was asked to stop.

The loop of a training looks at signals itself. What it calls in between, such as an evaluation, calls `check`.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from contrastive_jax.errors import Interrupted

Asked = Callable[[], str | None]  # the name of the signal that asked the run to stop, if any

_ASKED: contextvars.ContextVar[Asked | None] = contextvars.ContextVar('asked', default=None)


@contextlib.contextmanager
def heeding(asked: Asked) -> Iterator[None]:
    """Inside this context `check` ends what is running as soon as the run was asked to stop."""
    token = _ASKED.set(asked)
    try:
        yield
    finally:
        _ASKED.reset(token)


def check() -> None:
    """Call it between two batches; on several processes, the same number of times on each.

    Raises:
      Interrupted: inside of `heeding`, when the run was asked to stop.
    """
    asked = _ASKED.get()
    if asked is not None and (what := agreed(asked())):
        raise Interrupted(f'{what} while features were computed; the same command computes them again')


def agreed(asked: str | None) -> str | None:
    """Whether any process was asked to stop: all of them must stop at the same step.

    Args:
      asked: what asked this process to stop, if anything.

    Returns:
      `asked`, or that another process was asked.
    """
    if jax.process_count() == 1:
        return asked
    flags = multihost_utils.process_allgather(np.array(asked is not None))
    return (asked or 'a signal to another host') if flags.any() else None
