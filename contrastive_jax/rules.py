"""What a config may hold: the declaration of a field, the check against it, and rules of several fields.

A section of a config is declared by a dataclass. Its annotation is the type of a field, its default is the default, and
`field` adds the meaning and the legal values:

    @dataclasses.dataclass(frozen=True)
    class Schedule:
        final: float = field(0.0, 'Learning rate at the end of the training.', least=0)

`defaults(Schedule)` makes the section of a config; `Rules(config).declared('schedule', Schedule)` finds what is wrong
in it.
"""

import dataclasses
import difflib
import importlib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.errors import Problem, UserError


def did_you_mean(given: object, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """The part of an error message that suggests a name: "; did you mean 'x'?", or '' if no choice is similar.

    Args:
      given: the name that is not one of the choices; other types are compared as their `str`.
      choices: the legal names; the most similar one is suggested.
      cutoff: the least similarity, from 0 to 1.
    """
    near = similar(given, choices, 1, cutoff)
    return f'; did you mean {near[0]!r}?' if near else ''


def similar(given: object, choices: Iterable[str], most: int, cutoff: float = 0.6) -> list[str]:
    """The names among the choices that are similar to a given one, at most so many, the most similar first."""
    return difflib.get_close_matches(str(given), list(choices), n=most, cutoff=cutoff)


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


# ================================ declarations ================================


@dataclasses.dataclass(frozen=True)
class Legal:
    """The meaning and the legal values of a field, beside its type.

    Attributes:
      meaning: a sentence or two; '' if the docstring of the class has it, under `Attributes:`.
      least, above: lower bound of every number in the value, also of those inside tuples: included, excluded.
      most, below: upper bound, included and excluded.
      also: a number that is legal besides; None if there is none.
      choices: the legal strings; () if every string is legal.
      named: whether 'package.module:Name', something of the user's own, is legal besides `choices`.
      empty: whether '' is legal besides `choices`.
      min_items: the least length of a tuple.
      example: a legal value for messages; None: the default.
    """

    meaning: str = ''
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    also: float | None = None
    choices: tuple[str, ...] = ()
    named: bool = False
    empty: bool = False
    min_items: int = 0
    example: Any = None

    @property
    def range(self) -> str:
        """The bounds in words, e.g. 'at least 0 and below 1'; '' if there are none."""
        bounds = [('at least', self.least), ('above', self.above), ('at most', self.most), ('below', self.below)]
        text = ' and '.join(f'{word} {bound:.10g}' for word, bound in bounds if math.isfinite(bound))
        return f'{text}, or {self.also:g}' if self.also is not None else text

    def problem(self, path: str, value: Any, example: Any = None) -> Problem | None:
        """What is wrong with a value of the right type; None if nothing is.

        Args:
          path: the field.
          value: its value.
          example: a legal value, for the message; None: there is none.
        """
        several, eg = isinstance(value, tuple | list), '' if example is None else f', e.g. {example!r}'
        if several and len(value) < self.min_items:
            what = 'is empty' if not value else f'has {len(value)} values'
            return Problem(f'{path} {value!r} {what}', field=path, remedy=f'give at least {self.min_items}{eg}')
        for x in _leaves(value):
            if isinstance(x, str) and not self._offers(x):
                remedy = f'choose from {", ".join(self.choices)}' + (
                    ", or name your own as 'package.module:Name'" if self.named else ''
                )
                return Problem(f'{path} {x!r} is unknown{did_you_mean(x, self.choices)}', field=path, remedy=remedy)
            if isinstance(x, int | float) and not isinstance(x, bool) and not self._holds(x):
                legal = self.range or 'finite'
                remedy = f'every number must be {legal}{eg}' if several else f'it must be {legal}'
                return Problem(f'{path} {value!r} is out of range', field=path, remedy=remedy)
        return None

    def _offers(self, x: str) -> bool:
        return not self.choices or x in self.choices or (self.named and ':' in x) or (self.empty and not x)

    def _holds(self, x: float) -> bool:
        within = self.least <= x <= self.most and self.above < x < self.below and math.isfinite(x)
        return within or x == self.also


def field(default: Any = dataclasses.MISSING, meaning: str = '', **legal: Any) -> Any:
    """A field of a dataclass with its meaning and its legal values.

    Args:
      default: the default; left out: the field must be given.
      meaning: as in `Legal`.
      **legal: the further attributes of `Legal`.
    """
    return dataclasses.field(default=default, metadata={'legal': Legal(meaning, **legal)})


@dataclasses.dataclass(frozen=True)
class Declared:
    """A field as its section declares it.

    Attributes:
      name: its name in the section.
      kind: its type, e.g. `int`, `tuple[str, ...]`, `Patches | None`; `Any` if it is not known.
      default: its default; `dataclasses.MISSING` if it has none.
      legal: its meaning and its legal values.
    """

    name: str
    kind: Any
    default: Any
    legal: Legal

    @property
    def example(self) -> Any:
        """A legal value; None if none is known."""
        default = None if self.default is dataclasses.MISSING else self.default
        return default if self.legal.example is None else self.legal.example

    def problem(self, path: str, value: Any) -> Problem | None:
        """What is wrong with a value, its type or its range; None if nothing is."""
        return wrong_kind(path, value, self.kind, self.example) or self.legal.problem(path, value, self.example)


def declared_fields(section: type) -> dict[str, Declared]:
    """The fields that a dataclass (or a Linen module) declares for a section of a config."""
    names = [field.name for field in dataclasses.fields(section)]
    # No config sets the network of a method, nor what Linen adds to the fields of a module. `dtype` and `bn_group_size`
    # of a module are those of the top level; `bn_views` follows from the method.
    others = ('network', 'parent', 'name', 'dtype', 'bn_group_size', 'bn_views') if 'parent' in names else ('network',)
    fields = [field for field in dataclasses.fields(section) if field.init and field.name not in others]
    kinds: dict[str, Any] = {field.name: field.type for field in fields}
    if any(isinstance(kind, str) for kind in kinds.values()):  # from __future__ import annotations
        try:
            kinds = typing.get_type_hints(section)
        except (NameError, TypeError, AttributeError):  # a name that exists for type checkers alone
            kinds = {name: Any if isinstance(kind, str) else kind for name, kind in kinds.items()}
    found = {}
    for field in fields:
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        found[field.name] = Declared(field.name, kinds[field.name], default, field.metadata.get('legal', Legal()))
    return found


def defaults(section: type, **changes: Any) -> ConfigDict:
    """The section of a config that a dataclass declares, with its defaults.

    Args:
      section: the dataclass; fields without a default are left out unless `changes` has them.
      **changes: other values, and further fields such as the `name` that chooses the dataclass, which come first.
    """
    values = {name: declared.default for name, declared in declared_fields(section).items()}
    values = {**{name: value for name, value in changes.items() if name not in values}, **values, **changes}
    return ConfigDict({name: value for name, value in values.items() if value is not dataclasses.MISSING})


def field_problems(path: str, instance: Any) -> list[Problem]:
    """What is wrong with each field of a dataclass by itself: its type or its range.

    Args:
      path: the section of a config that the dataclass is made from, such as 'augment'.
      instance: the dataclass.
    """
    found = (
        declared.problem(f'{path}.{name}', getattr(instance, name))
        for name, declared in declared_fields(type(instance)).items()
    )
    return [problem for problem in found if problem is not None]


# ================================ types ================================


def wrong_kind(path: str, value: Any, kind: Any, example: Any = None) -> Problem | None:
    """The problem of a value of another type than `kind`; None if the type is right."""
    if is_of(value, kind):
        return None
    shown = value.to_dict() if isinstance(value, ConfigDict) else value
    remedy = f'e.g. {example!r}' if example is not None else 'give one'
    return Problem(f'{path} {shown!r}: {name_of(kind)} is needed', field=path, remedy=remedy, value=example)


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type: integers are also numbers, lists are also tuples, a mapping is also a dataclass."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of(value, one) for one in of)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = (of[0],) * len(value) if of[-1] is ... else of
        return len(kinds) == len(value) and all(map(is_of, value, kinds))
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (None, types.NoneType):
        return value is None
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping | ConfigDict | kind)
    return True  # a type that configs know nothing of, such as a dtype; what uses the value checks it


_NAMES = {int: 'an integer', float: 'a number', bool: 'True or False', str: 'a string', types.NoneType: 'None'}
_PLURALS = {int: 'integers', float: 'numbers', str: 'strings'}


def name_of(kind: Any) -> str:
    """A type in words: 'an integer', 'a tuple of 2 numbers'."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return ' or '.join(name_of(one) for one in of)
    if origin is tuple and of[-1] is ...:
        inner = of[0]
        items = _PLURALS.get(inner) or f'tuples, each with {_items(typing.get_args(inner))}'
        return f'a tuple of {items}'
    if origin is tuple:
        return f'a tuple of {_items(of)}'
    if dataclasses.is_dataclass(kind):
        return 'a section of fields'
    return _NAMES.get(kind, 'another value')


def _items(kinds: Sequence[Any]) -> str:
    if len(set(kinds)) == 1:
        return f'{len(kinds)} {_PLURALS.get(kinds[0], "values")}'
    return ' and '.join(map(name_of, kinds))


def _leaves(value: Any) -> Iterator[Any]:
    """A value, or those in a tuple of any depth."""
    if isinstance(value, tuple | list):
        for x in value:
            yield from _leaves(x)
    else:
        yield value


# ================================ rules ================================


class Rules:
    """Collects what is wrong with a config.

    Attributes:
      config: the config.
      found: the problems so far, a line each; those that this class adds are `errors.Problem`.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.found: list[str] = []

    def add(self, message: str, *, field: str = '', remedy: str = '', value: Any = None) -> None:
        """Adds a problem; the arguments are those of `errors.Problem`."""
        self.found.append(Problem(message, field=field, remedy=remedy, value=value))

    def rule(self, good: bool, line: str, *, field: str = '', remedy: str = '', value: Any = None) -> None:
        """Adds a problem unless `good`."""
        if not good:
            self.add(line, field=field, remedy=remedy, value=value)

    def declared(self, path: str, section: type) -> list[str]:
        """Adds what is wrong with each field of a section by itself: its name, its type, its range.

        Args:
          path: the section, such as 'optimizer'; '' for the top level.
          section: the dataclass that declares it.

        Returns:
          The paths of the fields that do not exist or have another type: rules of several fields cannot use them.
        """
        fields, given = declared_fields(section), self.value(path) if path else self.config
        unusable = []
        for name, value in given.items():
            full = f'{path}.{name}' if path else name
            if name in fields:
                declared = fields[name]
                if not is_of(value, declared.kind):
                    unusable.append(full)
                if problem := declared.problem(full, value):
                    self.found.append(problem)
            elif path and name != 'name':  # 'name' chooses the dataclass; sections stand beside top-level fields
                unusable.append(full)
                remedy = f'choose from {", ".join(fields)}'
                self.add(f'{path} has no field {name!r}{did_you_mean(name, fields)}', field=full, remedy=remedy)
        return unusable

    def one_of(self, path: str, legal: Sequence[str]) -> None:
        """The field, such as 'optimizer.name', is one of these names."""
        value = self.value(path)
        remedy = f'choose from {", ".join(legal)}'
        self.rule(value in legal, f'{path} {value!r} is unknown{did_you_mean(value, legal)}', field=path, remedy=remedy)

    def within(self, path: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
        """The field is a finite number of [low, high], or of (low, high]."""
        legal = Legal(above=low, most=high) if open_low else Legal(least=low, most=high)
        value = self.value(path)
        if problem := wrong_kind(path, value, float) or legal.problem(path, value):
            self.found.append(problem)

    def multiple(self, path: str, n: int, what: str, *, or_zero: bool = False) -> None:
        """The field is a positive multiple of n > 0, or zero where that is legal; `what` says what n is."""
        K = self.value(path)
        lower, upper = max(K // n, 1) * n, max(-(-K // n), 1) * n
        near = sorted({lower, upper, 0} if or_zero else {lower, upper})
        self.rule(
            K % n == 0 and (K >= 0 if or_zero else K > 0),
            f'{path} {K} is not a {"" if or_zero else "positive "}multiple of {what}',
            field=path,
            remedy=f'use {" or ".join(map(str, near))}',
            value=upper,
        )

    def value(self, path: str) -> Any:
        """The value of 'section.field'."""
        x = self.config
        for part in path.split('.'):
            x = x[part]
        return x
