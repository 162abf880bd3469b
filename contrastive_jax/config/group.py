"""Groups: the lists `seeds`, `learning_rates` and `temperatures` of a config describe several runs of one program."""

import dataclasses
import itertools
from collections.abc import Sequence

from ml_collections import ConfigDict

from contrastive_jax.errors import UserError
from contrastive_jax.rules import Rules, is_of

# The list of a config, and the field of a member that has one of its values.
LISTS = {'learning_rates': 'optimizer.learning_rate', 'temperatures': 'method.temperature', 'seeds': 'seed'}


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a group.

    Attributes:
      name: the name of its workdir in that of the group, such as 'learning_rate0.1_seed0'.
      setting: its name without the seed; '' if the members differ in their seeds alone.
      config: the config that it would have if it were trained alone.
      values: what differs between the members, by the last part of the field: 'seed', 'learning_rate', 'temperature'.
    """

    name: str
    setting: str
    config: ConfigDict
    values: dict[str, int | float]


def is_group(config: ConfigDict) -> bool:
    """Whether a config describes several runs."""
    return any(config.get(name) for name in LISTS)


def members_of(config: ConfigDict) -> list[Member]:
    """The runs that the lists of a config describe: each value of one list with each of the others."""
    given = {field: tuple(config[name]) for name, field in LISTS.items() if config.get(name)}
    found = []
    for chosen in itertools.product(*given.values()):
        member = config.copy_and_resolve_references()
        member.update(dict.fromkeys(LISTS, ()))
        values = dict(zip(given, chosen, strict=True))
        member.update_from_flattened_dict(values)
        if member.get('auto'):  # as for the run alone, whose command line sets these fields
            member.auto.fields = tuple(field for field in member.auto.fields if field not in given)
        parts = {field.rpartition('.')[2]: value for field, value in values.items()}
        names = {part: f'{part}{value:g}' if part != 'seed' else f'seed{value}' for part, value in parts.items()}
        setting = '_'.join(text for part, text in names.items() if part != 'seed')
        found.append(Member('_'.join(names.values()), setting, member.lock(), parts))
    return found


def refuse_lists(arguments: Sequence[str], remedy: str) -> None:
    """Refuses a command line that asks for several runs where a command starts each of its runs by itself.

    Args:
      arguments: '--config.field=value'.
      remedy: what to do instead.

    Raises:
      UserError: one of them sets a list.
    """
    for argument in arguments:
        if (name := argument.partition('=')[0].removeprefix('--config.')) in LISTS:
            raise UserError(f'{argument}: this command trains one run in each workdir', field=name, remedy=remedy)


def check_group(c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` what is wrong with the lists of a config.

    Args:
      c: a config whose fields have the right type.
      rules: the rules of the config.
    """
    if not is_group(c):
        return
    for name in LISTS:
        given = [f'{x:g}' if name != 'seeds' else str(x) for x in c.get(name, ())]
        rules.rule(
            len(set(given)) == len(given),
            f'{name} {tuple(c.get(name, ()))!r} has a value twice',
            field=name,
            remedy='give different values',
        )
    first = ', '.join(name for name in LISTS if c.get(name))
    rules.rule(
        not c.get('temperatures') or is_of(c.method.get('temperature'), float),
        f'temperatures {tuple(c.get("temperatures", ()))!r}: the method {c.method.name!r} has no field temperature',
        field='temperatures',
        remedy='leave it out',
    )
    rules.rule(
        c.parallel == 'jit',
        f'parallel {c.parallel!r} is for one run, and {first} gives several',
        field='parallel',
        remedy="it must be 'jit'",
        value='jit',
    )
    for name, of_one in (('trackers', bool(c.trackers)), ('profile_steps', c.profile_steps > 0)):
        rules.rule(
            not of_one,
            f'{name} {c[name]!r} is for one run, and {first} gives several',
            field=name,
            remedy=f'leave it out, or give one run a command of its own, without {first}',
        )
    rules.rule(
        c.data.on_device,
        f'data.on_device is False, and {first} gives several runs, which share the images on the device',
        field='data.on_device',
        remedy='set it to True',
        value=True,
    )
