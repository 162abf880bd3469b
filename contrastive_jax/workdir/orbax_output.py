"""Makes what Orbax prints and raises readable: one line for an error, and no stages of a save."""

import contextlib
import gc
import logging
import sys
import warnings
from collections.abc import Iterator

WAITING = 'Waiting for previous save to complete'  # Orbax says it also where the loop does not wait
LONGEST = 300  # the largest number of characters of an error of Orbax in a message


def brief(error: BaseException) -> str:
    """An error of Orbax in one line: the file and the reason are at the end of its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = ' '.join(str(error).split(' [tensorstore_spec=')[0].split())
    return f'{type(error).__name__}: {"..." if len(text) > LONGEST else ""}{text[-LONGEST:]}'


@contextlib.contextmanager
def quiet_absl() -> Iterator[None]:
    """Hides Orbax's warnings that a checkpoint is opened for reading only."""
    logger = logging.getLogger('absl')
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def collect_quietly() -> None:
    """Collects the reads that Orbax has given up now, without output: later each would print several pages."""
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            gc.collect()
    finally:
        sys.unraisablehook = before


def worth_showing(record: logging.LogRecord) -> bool:
    """Filters the log of Orbax: no stages of a save or waiting for it, no tracebacks of errors that it also raises."""
    shown = record.levelno >= logging.WARNING and not record.exc_info and not str(record.msg).startswith(WAITING)
    return 'orbax' not in record.pathname or shown
