"""Configs that an earlier version stored: a field that did not exist then has its default."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.fields import SECTIONS, Training, sections_of
from contrastive_jax.methods import method_or_none
from contrastive_jax.rules import declared_fields, defaults


def complete(config: ConfigDict) -> ConfigDict:
    """A copy of a stored pre-training config in which the fields that it lacks have their defaults.

    Fields of encoder, heads and patches are not added: the classes that these sections are passed to have the defaults.

    Args:
      config: the config as `workdir.folder.read_config` returns it.
    """
    given = config.get('method')
    method = method_or_none(given.get('name')) if isinstance(given, ConfigDict) else None
    return with_defaults(config, {'': Training, **SECTIONS, **({'method': method} if method else {})})


def with_defaults(config: ConfigDict, sections: Mapping[str, type]) -> ConfigDict:
    """A copy of a stored config in which the fields that these sections lack have their defaults.

    Args:
      config: the config as `workdir.folder.read_config` returns it.
      sections: the class that declares each section, by its path; '' is the top level.
    """
    full = ConfigDict(config.to_dict())
    for path, section in sections.items():
        holder = full
        if path:
            full[path] = holder = full.get(path, ConfigDict())
        for name, value in defaults(section).items():
            if name not in holder:
                holder[name] = value
    return full


def default_values(sections: Mapping[str, type]) -> dict[str, Any]:
    """The default of every field by its path, as JSON has it: what `workdir.folder.open_workdir` compares with.

    Args:
      sections: the class that declares each section, as `fields.sections_of` returns it.
    """
    return {
        f'{path}.{name}' if path else name: json.loads(json.dumps(declared.default))
        for path, section in sections.items()
        for name, declared in declared_fields(section).items()
        if isinstance(declared.default, bool | int | float | str | tuple | None)
    }


def defaults_of(config: ConfigDict) -> dict[str, Any]:
    """`default_values` of the sections of a pre-training config."""
    return default_values(sections_of(config))
