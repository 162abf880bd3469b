"""The folder of a run: its config, and whether a new command may continue in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.errors import UserError
from contrastive_jax.workdir.atomic import write_atomically
from contrastive_jax.workdir.disk import cannot_write

CONFIG_FILE = 'config.json'
OF_A_RUN = ('run.json', 'checkpoints', 'inputs.json')  # what a run writes after its config

# The fields that may change when a run is continued; any other change makes another run.
FREE = (
    'log_every_steps',
    'eval_every_steps',
    'checkpoint_every_steps',
    'checkpoint_every_minutes',
    'keep_every_epochs',
    'keep_best',
    'keep_best_mode',
    'trackers',
    'tracker_project',
    'max_dropped_in_row',
    'profile_steps',
    'parallel',
    'epochs',
    'steps',
    'eval.',
    'data.path',
    'data.eval_split',
    'data.workers',
    'data.on_device',
)


def open_workdir(
    path: str,
    config: ConfigDict,
    *,
    write: bool = True,
    defaults: Mapping[str, Any] | None = None,
    may_differ: bool = False,
) -> Path:
    """Makes the folder, or checks that the config is the one its run was started with.

    Args:
      path: the workdir; ~ and relative paths are resolved.
      config: the config of this run.
      write: whether this process writes `config.json`.
      defaults: the defaults of fields by their paths, such as 'optimizer.name', as JSON has them. A config that lacks
        one of these fields, because an earlier version stored it, is compared as if it had the default.
      may_differ: whether the config may be another one, for a rollback; a config that is there is not replaced then.

    Raises:
      UserError: the folder is not local, cannot be made, or holds a run of another config or without its config.
    """
    workdir = resolve(path)
    file = workdir / CONFIG_FILE
    new = _flat(json.loads(config.to_json()))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if file.exists():
            old = json.loads(file.read_text(encoding='utf-8'))
            if not isinstance(old, dict):
                raise ValueError('it holds no config')
            changed = [] if may_differ else _changed(_flat(old), new, defaults or {})
            if changed:
                raise UserError(
                    f'workdir {workdir} holds a run of another config ({"; ".join(changed)}) '
                    '-> choose another workdir, or give these fields their old values'
                )
        elif write and (left := [name for name in OF_A_RUN if (workdir / name).exists()]):
            raise UserError(
                f'workdir {workdir} holds {left[0]} of a run, and its {CONFIG_FILE} is gone',
                remedy=f'restore {CONFIG_FILE} from a copy, or choose another workdir',
            )
        if write and not (may_differ and file.exists()):
            write_config(workdir, config)
    except OSError as error:
        raise cannot_write(file, error, f'to workdir {workdir}') from error
    except ValueError as error:
        raise UserError(
            f'{file} is not the JSON of a run ({error}) -> restore it from a copy, or choose another workdir'
        ) from error
    return workdir


def resolve(path: str) -> Path:
    """The absolute path of a workdir.

    Raises:
      UserError: it is not a local one.
    """
    if '://' in path:
        raise UserError(f'workdir {path} is not local -> mount the bucket (gcsfuse) and give the mounted folder')
    return Path(path).expanduser().absolute()


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run, from the JSON in its folder, as it was stored; `config.stored.complete` adds newer fields.

    Raises:
      UserError: there is none.
    """
    file = workdir / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(config, dict):
            raise ValueError('it holds no config')
        return ConfigDict(config)
    except OSError as error:
        runs = sorted(str(found.parent) for found in workdir.glob(f'*/{CONFIG_FILE}'))
        example = f', such as {runs[0]}' if runs else ''  # the folder holds several runs
        raise UserError(f'cannot read {file}: {error.strerror} -> give the workdir of a run{example}') from error
    except ValueError as error:
        raise UserError(
            f'{file} is not the JSON of a run ({error}) -> restore it from a copy, or give another workdir'
        ) from error


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Writes `config.json`.

    Raises:
      OSError: it cannot be written.
    """
    content = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True)
    write_atomically(workdir / CONFIG_FILE, content.encode() + b'\n')


def changed_fields(workdir: Path, config: ConfigDict, defaults: Mapping[str, Any]) -> list[str]:
    """The fields in which a config differs from that of a workdir, but for those that may: 'name: old -> new' each."""
    old, new = (_flat(json.loads(c.to_json())) for c in (read_config(workdir), config))
    return _changed(old, new, defaults)


def _changed(old: dict[str, Any], new: dict[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    changed = []
    for name in sorted({*old, *new}):
        before, now = (config.get(name, defaults.get(name, '(none)')) for config in (old, new))
        if before != now and not any(name == free or name.startswith(free) for free in FREE):
            changed.append(f'{name}: {before} -> {now}')
    return changed


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return flat
