"""Changes one field of a config as `--config.FIELD=VALUE` asks: the text becomes a value of the declared type."""

import ast
import dataclasses
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.group import LISTS
from contrastive_jax.errors import Problem
from contrastive_jax.rules import Declared, Legal, declared_fields, did_you_mean, is_of, name_of

PREFIXES = ('--config.', '--noconfig.')

_ENCODER = '--config.encoder.name='

_BOOLS = {'true': True, 't': True, '1': True, 'false': False, 'f': False, '0': False}  # as absl reads them


Sections = Callable[[ConfigDict], Mapping[str, type]]


def override(config: ConfigDict, arguments: Sequence[str], sections: Sections) -> list[Problem]:
    """Applies the overrides of a command line to a config.

    Args:
      config: the config, which is changed in place. An override with a problem changes nothing.
      arguments: `--config.FIELD=VALUE`, or `--config.FIELD` and `--noconfig.FIELD` for a field that is True or False.
        If a field is given twice, the last value counts; the values of a tuple are joined. An `encoder.name` of another
        class replaces the section `encoder`, whose fields were those of the class before.
      sections: the class that declares each section of a config, such as `fields.sections_of`. Fields that no class
        declares keep the type of their value.

    Returns:
      What is wrong, one line each.
    """
    found = []
    joined: dict[str, tuple[Any, ...]] = {}
    for argument in sorted(arguments, key=lambda argument: not argument.startswith(_ENCODER)):  # it decides first
        before = sections(config)
        if problem := _override(config, argument, before, joined):
            found.append(problem)
        elif argument.startswith(_ENCODER) and before.get('encoder') is not sections(config).get('encoder'):
            _replace_encoder(config)
    return found


def spelled(path: str, value: Any) -> str:
    """The argument that sets a field, quoted for a shell."""
    text = value if isinstance(value, str) else repr(value)
    return f'--config.{path}=' + (f'"{text}"' if "'" in text else shlex.quote(text))


def _override(
    config: ConfigDict, argument: str, sections: Mapping[str, type], joined: dict[str, tuple[Any, ...]]
) -> Problem | None:
    """Applies one override; `joined` has the tuples of the overrides before."""
    flag, equals, text = argument.partition('=')
    argument = _shown(argument)
    prefix = next(prefix for prefix in PREFIXES if flag.startswith(prefix))
    path = flag.removeprefix(prefix)
    section, _, name = path.rpartition('.')
    holder = _section(config, section)
    declares = declared_fields(sections[section]) if section in sections else {}
    if holder is None or not (name in holder or name in declares):
        message = f'{argument}: the config has no field {path!r}{_similar(config, path)}'
        return Problem(message, field=path, remedy='--helpfull lists all fields')
    declared = declares.get(name) or _undeclared(name, holder[name])
    may_be_none = name in declares and is_of(None, declared.kind)
    if isinstance(holder.get(name), ConfigDict) and not (text == 'None' and may_be_none):
        first = 'name' if 'name' in holder[name] else next(iter(holder[name]), 'FIELD')
        remedy = f'set one of them: {flag}.{first}={text if first == "name" and text else "VALUE"}'
        return Problem(f'{argument}: this is a section of fields', field=path, remedy=remedy)
    is_bool = declared.kind is bool
    if prefix == '--noconfig.' and (equals or not is_bool):
        remedy = f'write --config.{path}=VALUE'
        return Problem(f'{argument}: only a field that is True or False can be negated', field=path, remedy=remedy)
    if not equals and not is_bool:
        return Problem(f'{argument} has no value', field=path, remedy=f'write {argument}=VALUE')
    if not equals:
        value: Any = prefix == '--config.'
    else:
        value = parse(text, declared.kind)
        if value is _UNREADABLE or not is_of(value, declared.kind):
            return _of_another_type(argument, path, text, declared)
        if typing.get_args(declared.kind)[1:] == (...,):
            value = joined[path] = (*joined.get(path, ()), *value)
    with holder.ignore_type(), holder.unlocked():  # a module has more fields than its section lists
        holder[name] = value
    if path in (chosen := config.get('auto', {}).get('fields', ())):  # the user has chosen it
        config.auto.fields = tuple(other for other in chosen if other != path)
    return None


LONGEST = 200  # characters of an argument in a message

_UNREADABLE = object()


def parse(text: str, kind: Any) -> Any:
    """The value of a type that a text on the command line means; one of another type if there is none.

    A tuple may be written without parentheses, and one of strings without quotes: `a,b`.
    """
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if types.NoneType in of and text == 'None':
            return None
        values = (parse(text, one) for one in of if one is not types.NoneType)
        return next((value for value in values if is_of(value, kind) and value is not _UNREADABLE), _UNREADABLE)
    try:
        if kind is bool:
            return _BOOLS.get(text.lower(), _UNREADABLE)
        if kind is int:
            return int(text, 0) if text.lower().startswith(('0x', '0o')) else int(text)
        if kind is float:
            return float(text)
    except ValueError:
        return _UNREADABLE
    if origin is tuple:
        return _tuple(text, kind)
    return text if kind is str else _literal(text)


def _tuple(text: str, kind: Any) -> Any:
    value = _literal(text)
    if isinstance(value, str) and typing.get_args(kind)[0] is str:
        value = tuple(part.strip() for part in text.strip('()').split(',') if part.strip())
    elif isinstance(value, list):
        value = tuple(value)
    return value if isinstance(value, tuple) else (value,)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _shown(argument: str) -> str:
    """An argument for a message: at most a line of it."""
    return argument if len(argument) <= LONGEST else f'{argument[:LONGEST]}...'


def _of_another_type(argument: str, path: str, text: str, declared: Declared) -> Problem:
    """The problem of a text that is not a value of the type of its field."""
    example = declared.example
    if declared.kind is int and isinstance(number := _literal(text), float) and number.is_integer():
        example = int(number)  # 1e3
    remedy = f'e.g. {spelled(path, example)}' if example is not None else f'write --config.{path}=VALUE'
    if declared.kind is bool:
        remedy = f'write --config.{path}=true or --config.{path}=false'
    return Problem(f'{argument}: {name_of(declared.kind)} is needed', field=path, remedy=remedy, value=example)


def _replace_encoder(config: ConfigDict) -> None:
    """Gives the section `encoder` the usual fields of the encoder with its name."""
    from contrastive_jax.config.base import encoder_config  # imports the models, which `--help` does not need

    with config.unlocked():
        config.encoder = encoder_config(config.encoder.name)
        config.encoder.lock()


def _section(config: ConfigDict, path: str) -> ConfigDict | None:
    holder: Any = config
    for part in filter(None, path.split('.')):
        holder = holder.get(part) if isinstance(holder, ConfigDict) else None
    return holder if isinstance(holder, ConfigDict) else None


def _undeclared(name: str, value: Any) -> Declared:
    """A field that no class declares: it keeps the type of its value."""
    kind: Any = type(value)
    if kind is tuple or kind is list:
        kinds = {float if is_of(x, float) else type(x) for x in value}
        kind = types.GenericAlias(tuple, (next(iter(kinds)) if len(kinds) == 1 else Any, ...))
    return Declared(name, Any if value is None else kind, dataclasses.MISSING if value is None else value, Legal())


def _similar(config: ConfigDict, path: str) -> str:
    """The part of a message that suggests a field: of another section, with these initials, or of a similar name."""
    names = {given: given.rpartition('.')[2] for given in flat(config) if given not in LISTS}  # rather one run's field
    name = path.rpartition('.')[2]
    same = [given for given in names if names[given] == name]
    lr = [given for given in names if len(name) > 1 and ''.join(word[:1] for word in names[given].split('_')) == name]
    if near := same or lr:
        return f'; did you mean {" or ".join(map(repr, near[:3]))}?'
    sections = [name for name, value in config.items() if isinstance(value, ConfigDict)]
    in_section = did_you_mean(path, names, cutoff=0.75) or did_you_mean(path.partition('.')[0], sections)
    return in_section or did_you_mean(path, names)


def flat(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
    """The fields of a config by their paths, such as 'optimizer.name'."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f'{prefix}{name}.') if isinstance(value, ConfigDict) else {prefix + name: value}
    return found
