"""Slices of splits as TFDS writes them: 'train[:10%]', 'train[100:-50]', 'train[:2shard]', 'train[:5%]+validation'."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from contrastive_jax.errors import UserError

_PART = re.compile(r'([^\[\]+]*)(?:\[([^\[\]+]*)\])?')
_BOUND = re.compile(r'(-?)(\d[\d_]*(?:\.\d+)?)(%|shard|)')
_UNITS = {'': 'numbers of images', '%': 'percentages', 'shard': 'shards'}
_REMEDY = "e.g. 'train[:10%]', 'train[500:1000]' or 'train[:10%]+validation'"


class Part(NamedTuple):
    """One of the parts that a '+' joins.

    Attributes:
      split: the split, such as 'train'.
      text: the slice as it was given, with its brackets; '' for the whole split.
    """

    split: str
    text: str


def parse_slices(given: str, field: str) -> list[Part]:
    """The parts of a split as TFDS writes it.

    Args:
      given: the text, such as 'train[:10%]+validation'.
      field: what the text is, for messages: 'data.split'.

    Raises:
      UserError: the text is no such slice, or it is empty whatever the number of images is.
    """
    parts = []
    for text in given.split('+'):
        match = _PART.fullmatch(text.strip())
        if match is None or not match[1].strip():
            raise UserError(f'{field} {given!r}: {text.strip()!r} is not a split or a slice of one', remedy=_REMEDY)
        split, bounds = match[1].strip(), match[2]
        if bounds is None:
            parts.append(Part(split, ''))
            continue
        if problem := _problem(bounds.replace(' ', '')):
            raise UserError(f'{field} {given!r}: the slice [{bounds}] {problem}', remedy=_REMEDY)
        parts.append(Part(split, f'[{bounds.replace(" ", "")}]'))
    return parts


def rows(part: Part, shards: Sequence[int]) -> tuple[int, int]:
    """The rows [start, end) of a part of a split.

    Args:
      part: one slice, as `parse_slices` returns it.
      shards: the number of rows in each shard of the split.
    """
    n = sum(shards)
    if not part.text:
        return 0, n
    first, colon, last = part.text[1:-1].partition(':')
    unit = next(match[3] for match in map(_BOUND.fullmatch, (first, last)) if match)
    units = {'': n, '%': 100, 'shard': len(shards)}[unit]

    def position(text: str, default: int) -> int:
        match = _BOUND.fullmatch(text)
        if match is None:
            return default
        number = Fraction(match[2].replace('_', ''))
        number = min(max(units - number if match[1] else number, Fraction(0)), Fraction(units))
        if unit == 'shard':
            return sum(shards[: int(number)])
        return round(number * n / 100) if unit == '%' else int(number)

    start = position(first, 0)
    if colon:
        return start, position(last, n)
    at = int(first.removesuffix('shard'))  # one shard: '[3shard]'
    return start, start + shards[at]


def _problem(bounds: str) -> str:
    """What is wrong with the text between the brackets; '' if nothing is."""
    texts = bounds.split(':')
    matches = [_BOUND.fullmatch(text) for text in texts]
    if (
        len(texts) > 2
        or not any(texts)
        or any(text and match is None for text, match in zip(texts, matches, strict=True))
    ):
        return 'is not START:END, two numbers or percentages of which one may be left out'
    found = [match for match in matches if match]
    units = {match[3] for match in found}
    if len(units) > 1:
        return f'mixes {" and ".join(_UNITS[unit] for unit in sorted(units))}'
    (unit,) = units
    if unit != '%' and any('.' in match[2] for match in found):
        return f'has a fraction, and {_UNITS[unit]} are whole'
    if len(texts) == 1:
        return '' if unit == 'shard' else 'is one position, not START:END'
    whole = 100 if unit == '%' else None
    if whole and any(Fraction(match[2].replace('_', '')) > whole for match in found):
        return 'goes beyond 100 %'
    first, last = (0, Fraction(0)), (0, Fraction(whole)) if whole else (1, Fraction(0))
    start, end = (
        _position(match, whole) if match else edge for match, edge in zip(matches, (first, last), strict=True)
    )
    if start[0] == end[0] and start[1] >= end[1]:
        return 'is empty: its end is not behind its start'
    return ''


def _position(match: re.Match[str], whole: int | None) -> tuple[int, Fraction]:
    """A bound as (0, distance from the start) or (1, minus the distance from the end)."""
    number = Fraction(match[2].replace('_', ''))
    if not match[1]:
        return 0, number
    return (0, whole - number) if whole else (1, -number)
