"""Errors that the user can correct: one readable line each, an exit code, and no traceback."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

BROKEN_PIPE = 141  # the exit code of a command whose output was closed: 128 + SIGPIPE, as of other programs

# Exit codes: what each means, and whether the same command is worth another start.
EXIT_CODES = {
    0: ('finished', 'no'),
    42: ('interrupted and saved', 'yes'),
    1: ('an unexpected error, with a traceback', 'a few times'),
    2: ('a mistake in the config, the flags or the workdir', 'no'),
    3: ('a problem with the data', 'no'),
    4: ('too many steps in a row were not finite', 'no: with other fields'),
    5: ('the disk is full, or no checkpoint can be read or written', 'no: when there is room'),
    6: ('another run uses the workdir', 'no'),
    130: ('a second Ctrl-C ended the run at once', 'yes, it goes on from the last checkpoint'),
    134: ('jax has lost another process of the run', 'yes, on all hosts; it goes on from the last checkpoint'),
    BROKEN_PIPE: ('the output was closed, as by `... | head`', 'yes'),
    142: (
        'another process of the run was lost, or this one has stalled',
        'yes, on all hosts; it goes on from the last checkpoint',
    ),
}


class Problem(str):
    """One line about something that the user can correct: what was given and the rule, then ` -> ` and the remedy.

    It is a string, so that it can be printed and joined; the attributes are for programs, which never have to read the
    words.

    Attributes:
      field: the field of the config that the line is about, such as 'optimizer.name'; '' if there is none.
      remedy: what to do, as at the end of the line; '' if the line ends without one.
      value: a legal value for the field; None if none is known.
    """

    field: str
    remedy: str
    value: Any

    def __new__(cls, message: str, *, field: str = '', remedy: str = '', value: Any = None) -> 'Problem':
        problem = super().__new__(cls, f'{message} -> {remedy}' if remedy else message)
        problem.field, problem.remedy, problem.value = field, remedy, value
        return problem


class UserError(Exception):
    """A wrong config, flag or path.

    Args:
      message: what was given, and the rule.
      field, remedy, value: as in `Problem`.

    Attributes:
      problems: what is wrong, one line each.
      exit_code: the exit code of the process. 2 means that a retry cannot help.
    """

    exit_code = 2

    def __init__(self, message: str = '', *, field: str = '', remedy: str = '', value: Any = None):
        problem = Problem(message, field=field, remedy=remedy, value=value)
        super().__init__(str(problem))
        self.problems: tuple[Problem, ...] = (problem,)

    @classmethod
    def of(cls, problems: Sequence[str]) -> 'UserError':
        """One error for several problems, such as those that `config.check.check` finds."""
        error = cls('\n'.join(problems))
        error.problems = tuple(line if isinstance(line, Problem) else Problem(line) for line in problems)
        return error

    @property
    def field(self) -> str:
        """The field of the config that the (first) problem is about; '' if there is none."""
        return self.problems[0].field

    @property
    def remedy(self) -> str:
        """The remedy of the (first) problem; '' if the message holds it, or there is none."""
        return self.problems[0].remedy

    @property
    def value(self) -> Any:
        """A legal value for the field of the (first) problem; None if none is known."""
        return self.problems[0].value


class DataError(UserError):
    """The data is missing, unreadable or too small."""

    exit_code = 3


class MissingSplitError(DataError):
    """The data exists, but it has no split for evaluation."""


class CheckpointError(UserError):
    """There is no usable checkpoint where one is needed, or a checkpoint cannot be written."""

    exit_code = 5


class DiskFullError(UserError):
    """The disk of the workdir is full, or a quota is reached."""

    exit_code = 5


class MissingPartError(CheckpointError):
    """A checkpoint does not hold the part of the state that is read, such as the target network."""


class NumericalError(UserError):
    """Training reached NaN or infinity."""

    exit_code = 4


class BusyError(UserError):
    """Another process writes to the workdir."""

    exit_code = 6


class LostError(UserError):
    """Another process of the run has ended, or cannot be reached."""

    exit_code = 142


class Interrupted(Exception):
    """A signal stopped the run after it had saved its state; the same command continues it. Exit code 42: restart."""

    exit_code = 42


def exit_code_of(run: Callable[[], int | None], verbose: bool | Callable[[], bool] = False) -> int:
    """Runs a command and prints errors that the user can correct, one line each, without a traceback.

    Args:
      run: the command, with the parsing of its arguments; it returns its exit code, or None for 0.
      verbose: whether such errors are raised instead of printed; a function is called when an error has occurred.

    Returns:
      The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # names of files need not fit the encoding of the terminal
    try:
        try:
            return _run(run, verbose)
        finally:  # also where argparse exits after its help
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has ended, as in `... | head`. Python would flush the rest at exit, and fail.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return BROKEN_PIPE


def _run(run: Callable[[], int | None], verbose: bool | Callable[[], bool]) -> int:
    try:
        return run() or 0
    except Interrupted as stop:
        print(f'contrastive_jax: {stop}', flush=True)
        return stop.exit_code
    except UserError as error:
        if verbose() if callable(verbose) else verbose:
            raise
        print_error(str(error))
        return error.exit_code
    except PermissionError as error:  # also Path.exists raises it, below a folder that may not be entered
        if error.filename is None or (verbose() if callable(verbose) else verbose):
            raise
        remedy = 'give a path that this user may read and write'
        print_error(str(Problem(f"cannot access '{error.filename}': {error.strerror}", remedy=remedy)))
        return UserError.exit_code


def print_error(message: str) -> None:
    """Prints each line of an error message to stderr."""
    for line in message.splitlines():
        print(f'contrastive_jax: error: {line}', file=sys.stderr, flush=True)
