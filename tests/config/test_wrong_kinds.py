"""Values of the wrong kind, for every field of every config: one line each, on the command line and in a config file.

Whether a text is a value of a kind is said by Python's own literals, not by the parser of overrides.
"""

import ast
import importlib
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.check import check, check_examples
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


@pytest.mark.parametrize(
    ('recipe', 'field', 'value', 'remedy'),
    [
        ('mocov3_vit', 'encoder.depth', 10**9, 'use at most 1,000 layers'),
        ('mocov3_vit', 'encoder.width', 10**9, 'use at most 16,777,216 values'),
        ('mocov2', 'encoder.stage_sizes', (10**6,), 'use at most 1,000 layers'),
        ('mocov2', 'encoder.stage_sizes', (), 'give the blocks of each stage, e.g. (2, 2)'),
        ('mocov2', 'encoder.stage_sizes', (2, 0), 'give the blocks of each stage, e.g. (2, 2)'),
        ('mocov2', 'projector.num_layers', 10**9, 'use at most 1,000 layers'),
        ('byol', 'predictor.hidden_dim', 10**15, 'use at most 16,777,216 values'),
        ('mocov2', 'steps', 10**30, 'it must be at least 0 and at most 2147483647'),
        ('mocov2', 'data.image_size', 10**9, 'it must be at least 1 and at most 16384'),
        ('mocov2', 'method.queue_size', 256 * 10**15, 'it must be at most 1073741824'),
        ('swav', 'method.queue_size', 256 * 10**15, 'it must be at most 1073741824'),
        ('instdis', 'method.num_negatives', 10**12, 'it must be at least 0 and at most 1073741824'),
        ('dino', 'augment.local_crops', 10**6, 'it must be at least 0 and at most 256'),
        ('mocov2', 'eval.knn_k', 10**12, 'it must be at least 1 and at most 2147483647'),
    ],
)
def test_absurd_sizes_are_one_line_at_once(recipe: str, field: str, value: object, remedy: str) -> None:
    config = importlib.import_module(f'contrastive_jax.configs.{recipe}').get_config('tiny')
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({field: value})
    (line,) = [x for x in check(config, devices=1) if x.field == field]
    assert line == f'{field} {value!r} is out of range -> {remedy}'


def test_more_steps_than_there_are_numbers() -> None:
    config = importlib.import_module('contrastive_jax.configs.mocov2').get_config('tiny')
    config.steps, config.epochs = 0, 1e300
    (line,) = check_examples(config, num_examples=1000)
    assert line.field == 'epochs' and 'are more than 2147483647 steps' in line
