"""Choices of fields by data and machine: which fields are free, what was chosen and why, and what a resume keeps."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.fields import Auto
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.rules import defaults

ESTIMATED = ('augment.mean', 'augment.std')  # () asks for an estimate from the data


@dataclasses.dataclass(frozen=True)
class Choice:
    """One field that was chosen.

    Attributes:
      field: its path, such as 'data.image_size'.
      value: the value that was chosen.
      reason: why; choices that were made together have the same reason.
    """

    field: str
    value: Any
    reason: str


class Plan:
    """A config in which free fields are chosen one after the other; later choices see the earlier ones.

    Args:
      config: the config, which is copied. `config.auto.fields` are its free fields.
      data: facts about the training images.
      machine: what the run can use.

    Attributes:
      config: the copy, with the values chosen so far.
      choices: what was chosen so far; a value that a field had already is not listed.
    """

    def __init__(self, config: ConfigDict, data: DataFacts, machine: Machine):
        self.config = config.copy_and_resolve_references()
        self.data, self.machine = data, machine
        self.choices: list[Choice] = []

    def is_free(self, field: str) -> bool:
        """Whether a field may be chosen: the recipe says so, and no override has set it; or it is to be estimated."""
        return field in self.config.auto.fields or is_estimated(self.config, field)

    def set(self, field: str, value: Any, reason: str) -> None:
        """Chooses a field if it is free."""
        if self.is_free(field) and get(self.config, field) != value:
            put(self.config, field, value)
            self.choices = [choice for choice in self.choices if choice.field != field]
            self.choices.append(Choice(field, value, reason))


def get(config: ConfigDict, field: str) -> Any:
    """The value of a field by its path; None if there is none."""
    holder: Any = config
    for part in field.split('.'):
        if not isinstance(holder, ConfigDict) or part not in holder:
            return None
        holder = holder[part]
    return holder


def is_estimated(config: ConfigDict, field: str) -> bool:
    """Whether a field is empty, which asks for an estimate from the data."""
    return field in ESTIMATED and get(config, field) in ((), [])


def put(config: ConfigDict, field: str, value: Any) -> None:
    """Sets a field by its path, also in a locked config, and also one that its section does not list yet."""
    section, _, name = field.rpartition('.')
    holder = get(config, section) if section else config
    with holder.ignore_type(), holder.unlocked():
        holder[name] = value


def keep(config: ConfigDict, stored: ConfigDict) -> None:
    """Gives the free fields of a config the values of a run that is resumed: a resume does not choose again.

    Args:
      config: the config of the command, which is changed in place.
      stored: the config of the run; an older one may lack the section `auto`.
    """
    for field in (*config.auto.fields, *(name for name in ESTIMATED if is_estimated(config, name))):
        if (value := get(stored, field)) is not None:
            put(config, field, tuple(value) if isinstance(value, list | tuple) else value)
    known = stored.get('auto') or defaults(Auto)
    put(
        config,
        'auto',
        ConfigDict(
            {
                'fields': tuple(known.get('fields', ())),
                'reference_batch': known.get('reference_batch', 0),
                'continues': config.auto.get('continues', False),
            }
        ),
    )


def describe(choices: Iterable[Choice]) -> list[str]:
    """Choices in lines: those with the same reason share one."""
    by_reason: dict[str, list[str]] = {}
    for choice in choices:
        value = f'{choice.value:,}' if isinstance(choice.value, int) else f'{choice.value}'
        by_reason.setdefault(choice.reason, []).append(f'{choice.field} {value}')
    return [f'  {", ".join(fields)}: {reason}' for reason, fields in by_reason.items()]
