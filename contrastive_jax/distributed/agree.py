"""Makes an error of one process the error of all: a process that ends alone leaves the others waiting for it."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from contrastive_jax.errors import DataError, UserError

LONGEST = 2000  # bytes of a message that the processes exchange

T = TypeVar('T')


def together(action: Callable[[], T]) -> T:
    """Does something on every process that may fail on some of them; it must not wait for other processes.

    Args:
      action: what each process does.

    Returns:
      What `action` has returned on this process.

    Raises:
      UserError: the one of this process, or of the first one that failed, with the same exit code.
    """
    if jax.process_count() == 1:
        return action()
    failed: UserError | None = None
    try:
        result = action()
    except UserError as mine:
        failed = mine
    codes = multihost_utils.process_allgather(np.array(0 if failed is None else failed.exit_code))
    if not codes.any():
        return result
    texts = _texts('' if failed is None else str(failed))
    if failed is not None:
        raise failed
    first = int(codes.nonzero()[0][0])
    error = UserError(f'process {first}: {texts[first]}')
    error.exit_code = int(codes[first])
    raise error


def check_same(facts: Mapping[str, object]) -> None:
    """Compares facts over the processes.

    Args:
      facts: what it is -> its value on this process; the same names on all.

    Raises:
      DataError: a value differs, which would train on other data than is said, or hang.
    """
    if jax.process_count() == 1:
        return
    for name, value in facts.items():
        texts = _texts(str(value))
        if len(set(texts)) > 1:
            values = ', '.join(f'{text} on process {i}' for i, text in enumerate(texts))
            raise DataError(
                f'the processes differ in {name}: {values}', remedy='give all hosts the same data and config'
            )


def text_of_first(text: str) -> str:
    """The text of the first process, of any length, on all processes."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(data))))
    row = data if jax.process_index() == 0 else np.zeros(length, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(row))).decode()


def _texts(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    row = np.zeros(LONGEST, np.uint8)
    data = np.frombuffer(text.encode()[:LONGEST], np.uint8)
    row[: len(data)] = data
    rows = multihost_utils.process_allgather(row)
    return [bytes(x).rstrip(b'\0').decode(errors='replace') for x in rows]
