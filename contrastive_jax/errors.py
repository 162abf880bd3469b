"""Errors that are the user's to mend: one readable line, an exit code, no traceback."""


class UserError(Exception):
    """A wrong flag, config or path. The message says what was given, the rule, and the remedy.

    Attributes:
      exit_code: what the process ends with. 2: never worth a retry.
    """

    exit_code = 2


class DataError(UserError):
    """Data that is missing, unreadable or too small."""

    exit_code = 3


class MissingSplitError(DataError):
    """The data is there, but has no split for evaluation."""


class CheckpointError(UserError):
    """No usable checkpoint where one is needed, or one that cannot be written."""

    exit_code = 5


class MissingPartError(CheckpointError):
    """A checkpoint does not hold the part of the state that is read, such as the target network."""


class NumericalError(UserError):
    """Training went to NaN or infinity."""

    exit_code = 4


class Interrupted(Exception):
    """A signal stopped the run after it saved; the same command goes on. Exit code 42 asks for a restart."""

    exit_code = 42
