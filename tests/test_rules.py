"""Declarations of fields, and what is wrong with a value."""

import dataclasses
import json
import math
from typing import Any

import pytest
from ml_collections import ConfigDict

from contrastive_jax.rules import Legal, Rules, declared_fields, defaults, did_you_mean, field, is_of, name_of


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Section:
    needed: int = field(least=0)
    count: int = field(2, 'How many.', least=1, most=9)
    rate: float = field(0.1, above=0, below=1)
    final: float = field(-1.0, least=0, also=-1)
    kind: str = field('red', choices=('red', 'green'))
    places: tuple[float, ...] = field((1.0,), above=0, min_items=1)
    pair: tuple[int, int] = (1, 2)
    inner: Inner | None = None


def problems(**changes: Any) -> list[str]:
    config = ConfigDict({'s': {**defaults(Section, needed=1).to_dict()}})
    for name, value in changes.items():
        with config.s.ignore_type():
            config.s[name] = value
    rules = Rules(config)
    rules.declared('s', Section)
    return rules.found


def test_defaults_have_the_order_of_the_class() -> None:
    order = list(json.loads(defaults(Section).to_json()))
    assert order == ['count', 'rate', 'final', 'kind', 'places', 'pair', 'inner']
    made = defaults(Section, count=5, name='x')
    assert next(iter(json.loads(made.to_json()))) == 'name' and made.count == 5
    assert problems() == []


@pytest.mark.parametrize(
    ('name', 'value', 'line'),
    [
        ('count', 0, 's.count 0 is out of range -> it must be at least 1 and at most 9'),
        ('count', 10, 's.count 10 is out of range -> it must be at least 1 and at most 9'),
        ('count', 1.0, 's.count 1.0: an integer is needed -> e.g. 2'),
        ('count', True, 's.count True: an integer is needed -> e.g. 2'),
        ('rate', 0.0, 's.rate 0.0 is out of range -> it must be above 0 and below 1'),
        ('rate', math.nan, 's.rate nan is out of range -> it must be above 0 and below 1'),
        ('final', -0.5, 's.final -0.5 is out of range -> it must be at least 0, or -1'),
        ('final', math.inf, 's.final inf is out of range -> it must be at least 0, or -1'),
        ('kind', 'gren', "s.kind 'gren' is unknown; did you mean 'green'? -> choose from red, green"),
        ('kind', 3, "s.kind 3: a string is needed -> e.g. 'red'"),
        ('places', (), 's.places () is empty -> give at least 1, e.g. (1.0,)'),
        ('places', (1, 0), 's.places (1, 0) is out of range -> every number must be above 0, e.g. (1.0,)'),
        ('places', ('a',), "s.places ('a',): a tuple of numbers is needed -> e.g. (1.0,)"),
        ('places', 1.0, 's.places 1.0: a tuple of numbers is needed -> e.g. (1.0,)'),
        ('pair', (1,), 's.pair (1,): a tuple of 2 integers is needed -> e.g. (1, 2)'),
        ('inner', 3, 's.inner 3: a section of fields or None is needed -> give one'),
        ('needed', -1, 's.needed -1 is out of range -> it must be at least 0'),
    ],
)
def test_each_problem_is_one_line(name: str, value: Any, line: str) -> None:
    (problem,) = problems(**{name: value})
    assert problem == line and problem.field == f's.{name}'


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('count', 9),
        ('rate', 0.5),
        ('final', -1),
        ('final', 0),
        ('places', [1, 2.5]),
        ('pair', [1, 2]),
        ('inner', {'a': 1}),
    ],
)
def test_legal_values(name: str, value: Any) -> None:
    assert problems(**{name: value}) == []


def test_fields_that_do_not_exist() -> None:
    config = ConfigDict({'s': {'cuont': 3, 'name': 'x'}})
    rules = Rules(config)
    assert rules.declared('s', Section) == ['s.cuont'], 'a name chooses the class'
    assert rules.found[0].startswith("s has no field 'cuont'; did you mean 'count'? -> choose from needed, count, ")


def test_types_in_words() -> None:
    for kind, words in (
        (int | None, 'an integer or None'),
        (tuple[str, ...], 'a tuple of strings'),
        (tuple[float, float, float], 'a tuple of 3 numbers'),
        (tuple[tuple[str, float], ...], 'a tuple of tuples, each with a string and a number'),
    ):
        assert name_of(kind) == words
    assert is_of(None, int | None) and not is_of('x', int | None)
    assert is_of([['a', 1]], tuple[tuple[str, float], ...]) and not is_of([['a']], tuple[tuple[str, float], ...])
    assert is_of(object(), Any)


def test_declarations() -> None:
    declared = declared_fields(Section)
    assert declared['count'].legal == Legal('How many.', least=1, most=9) and declared['count'].example == 2
    assert declared['needed'].default is dataclasses.MISSING and declared['needed'].example is None


def test_did_you_mean() -> None:
    assert did_you_mean('tset', ['train', 'test']) == "; did you mean 'test'?"
    assert did_you_mean('zzz', ['train', 'test']) == did_you_mean(3, ['train']) == did_you_mean('x', []) == ''
