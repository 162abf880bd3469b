"""Rules that a config keeps: each that it breaks becomes one readable line with the value, the rule and the remedy."""

import difflib
import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.errors import UserError


def did_you_mean(given: object, choices: Iterable[str]) -> str:
    """The part of an error message that suggests a name: "; did you mean 'x'?", or '' if no choice is similar.

    Args:
      given: the name that is not one of the choices; other types are compared as their `str`.
      choices: the legal names; the most similar one is suggested.
    """
    near = difflib.get_close_matches(str(given), list(choices), n=1)
    return f'; did you mean {near[0]!r}?' if near else ''


def import_named(field: str, name: str) -> Any:
    """Imports what a config field names as 'package.module:Name'.

    Args:
      field: the field, for messages.
      name: the Python module, a colon, and a name in it.

    Raises:
      UserError: the module cannot be imported, or has no such name.
    """
    module_name, _, attribute = name.partition(':')
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the code of the module runs here and may raise anything
        reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
        raise UserError(
            f'{field} {name!r} cannot be imported ({reason}) -> make `import {module_name}` work in Python'
        ) from error
    if not hasattr(module, attribute):
        defined = [key for key in vars(module) if not key.startswith('_')]
        raise UserError(
            f'{field} {name!r}: {module_name} has no {attribute!r}{did_you_mean(attribute, defined)} -> name something '
            'that the module defines'
        )
    return getattr(module, attribute)


class Rules:
    """Looks at a config, and collects what is wrong with it.

    Attributes:
      config: what is looked at.
      found: the lines so far.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.found: list[str] = []

    def rule(self, good: bool, line: str) -> None:
        """Adds the line unless all is well."""
        if not good:
            self.found.append(line)

    def one_of(self, field: str, legal: Sequence[str]) -> None:
        """The field, such as 'optimizer.name', is one of these names."""
        value = self.value(field)
        line = f'{field} {value!r} is unknown{did_you_mean(value, legal)} -> choose from {", ".join(legal)}'
        self.rule(value in legal, line)

    def within(self, field: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
        """The field is a finite number of [low, high], or of (low, high]."""
        x = self.value(field)
        good = math.isfinite(x) and (low < x if open_low else low <= x) and x <= high
        legal = f'{"above" if open_low else "at least"} {low:g}' + (f' and at most {high:g}' if high < math.inf else '')
        self.rule(good, f'{field} {x!r} is out of range -> it must be {legal}')

    def multiple(self, field: str, n: int, what: str, *, or_zero: bool = False) -> None:
        """The field is a positive multiple of n > 0, or zero where that is legal; `what` says what n is."""
        K = self.value(field)
        lower, upper = max(K // n, 1) * n, max(-(-K // n), 1) * n
        near = sorted({lower, upper, 0} if or_zero else {lower, upper})
        self.rule(
            K % n == 0 and (K >= 0 if or_zero else K > 0),
            f'{field} {K} is not a {"" if or_zero else "positive "}multiple of {what} -> '
            f'use {" or ".join(map(str, near))}',
        )

    def value(self, field: str) -> Any:
        """The value of 'section.field'."""
        x = self.config
        for part in field.split('.'):
            x = x[part]
        return x
