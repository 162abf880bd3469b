"""Values of the wrong kind, for every field of every config: one line each, on the command line and in a config file.

Whether a text is a value of a kind is said by Python's own literals, not by the parser of overrides.
"""

import ast
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.check import check
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.find import list_configs
from contrastive_jax.config.load import load
from contrastive_jax.config.overrides import override
from contrastive_jax.protocols import run as protocols
from contrastive_jax.rules import declared_fields

SCALARS = ('abc', '1.5', 'nan', '-inf', '1e999', '', '()', '(1,', '[', '{}', '{1: 2}', '"', '\0', 'b"x"')
TUPLES = ("(1,'a')", '((1,2),3)', "('a',)", '(None,)', '(1e999,)', '(True,False)', '(((1,),),)', "(('a',1),('b',))")
OTHERS = ('None', 'True', '5', '-1', '0', '1e3', 'a,b', 'lambda: 0')


def sections(config: ConfigDict) -> dict[str, type]:
    return protocols.sections_of(config) if 'protocol' in config else sections_of(config)


def every_field() -> Iterator[tuple[ConfigDict, str, str, Any]]:
    """(config, section, field, kind) of every field of every recipe; a declaration that recipes share comes once."""
    seen = set()
    for name in list_configs():
        config = load(name)
        for path, section in sections(config).items():
            for field, declared in declared_fields(section).items():
                if (path, section, field) not in seen:
                    seen.add((path, section, field))
                    yield config, path, field, declared.kind


def value_of(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def fits(value: Any, kind: Any) -> bool:
    """Whether a Python value is of a kind, for kinds that fields have."""
    if typing.get_origin(kind) is tuple:
        of = typing.get_args(kind)
        if not isinstance(value, tuple):
            return False
        kinds = of[:1] * len(value) if of[-1] is ... else of
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    return type(value) in ((int, float) if kind is float else (kind,))


def is_wrong(text: str, kind: Any) -> bool:
    """Whether a text is of another kind for sure. Words are strings; a tuple of one may be written without comma."""
    value = value_of(text)
    if kind is int or kind is float:
        return not fits(value, kind) and text not in ('nan', '-inf')
    if kind is bool:
        return text not in ('True', '0')
    if typing.get_origin(kind) is tuple:
        is_word = isinstance(value, str) and typing.get_args(kind)[0] is str
        return not (is_word or fits(value, kind) or fits((value,), kind))
    return False


@pytest.mark.usefixtures('nothing_compiled')
def test_overrides() -> None:
    count = 0
    for config, path, field, kind in every_field():
        full = f'{path}.{field}' if path else field
        for text in (*SCALARS, *TUPLES, *OTHERS) if kind is not str else ('5', 'a b', '', '\0'):
            given = config
            if not is_wrong(text, kind):  # it may be changed
                given = ConfigDict(config.to_dict()).lock()
            lines = override(given, [f'--config.{full}={text}'], sections)
            assert all('\n' not in line and len(line) < 700 and line.field == full for line in lines), full
            if is_wrong(text, kind):
                assert len(lines) == 1 and ' is needed' in lines[0] and ' -> ' in lines[0], (full, text, lines)
                count += 1
    assert count > 1000


WRONG = (None, 'abc', (1, 'a'), {})


@pytest.mark.usefixtures('nothing_compiled')
def test_values_in_a_config_file() -> None:
    """Python sets what it likes: `check` says it, and none of its other rules stumbles over it."""
    count = 0
    for config, path, field, kind in every_field():
        full = f'{path}.{field}' if path else field
        simple = kind in (int, float, bool, str) or typing.get_origin(kind) is tuple
        for value in WRONG if simple else ():
            if fits(value, kind):
                continue
            changed = ConfigDict(config.to_dict())
            changed.batch_size = None  # beside another field of the wrong kind, so that nothing is traced
            holder = changed[path] if path else changed
            with holder.ignore_type():
                holder[field] = value
            if type(holder[field]) is not type(value):  # ConfigDict has converted it
                continue
            lines = protocols.check_protocol(changed) if 'protocol' in changed else check(changed, 8)
            assert all('\n' not in line for line in lines), (full, value, lines)
            assert any(line.startswith((full, f'the config lacks {full}')) for line in lines), (full, value, lines)
            count += 1
    assert count > 300
