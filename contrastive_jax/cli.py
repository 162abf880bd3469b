"""The command line: config file and overrides, every mistake in them at once; and the connection of several hosts."""

import importlib.util
import os
import sys
import traceback
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from contrastive_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file, e.g. configs/mocov2.py:digits', lock_config=True)


def parse(argv: list[str]) -> tuple[ConfigDict, str]:
    """Parses the command line into absl's flags and the config.

    Args:
      argv: with the program first.

    Returns:
      The config with its overrides, and the path of its file.

    Raises:
      UserError: everything that is wrong with the flags, a line each.
    """
    if any(arg in ('--help', '-h', '--helpfull') for arg in argv[1:]):
        print(f'{sys.modules["__main__"].__doc__}\n{flags.FLAGS.main_module_help()}')
        sys.exit(0)
    path = next((a.split('=', 1)[1] for a in argv[1:] if a.startswith(('--config=', '-config='))), None)
    if path is None:
        raise UserError('no --config given -> e.g. --config=configs/mocov2.py:digits --workdir=runs/digits')
    # A config may import its neighbours as `configs.name`, wherever the command is started.
    sys.path.insert(0, str(Path(path.split(':')[0]).resolve().parents[1]))
    _load_alone(path)
    overrides = [arg for arg in argv[1:] if arg.startswith('--config.')]
    problems = [line for arg in overrides if (line := _try_override(path, arg))]
    others = [arg for arg in argv if arg not in overrides]
    try:
        rest = flags.FLAGS([*others, *([] if problems else overrides)])
    except (flags.Error, AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError('\n'.join([*problems, _one_line(error)])) from error
    for arg in rest[1:]:
        hint = f'; did you mean --config.{arg}?' if '=' in arg else ''
        problems.append(f'unexpected argument {arg!r}{hint} -> options start with --')
    if flags.FLAGS['workdir'].value is None:
        problems.append('no --workdir given -> name a folder for checkpoints, metrics and pictures, e.g. runs/digits')
    if problems:
        raise UserError('\n'.join(problems))
    return CONFIG.value, path.split(':')[0]


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the hosts of a run, before any other use of jax: from flags, or what Cloud TPU, Slurm or Open MPI tell.

    Raises:
      UserError: some of the three given and some not, or the coordinator cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    managed = int(os.environ.get('SLURM_NTASKS', 1)) > 1 or int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    on_tpu = importlib.util.find_spec('libtpu') is not None and os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
    if all(x is None for x in given) and not managed and not on_tpu and 'JAX_COORDINATOR_ADDRESS' not in os.environ:
        return
    if any(x is None for x in given) and any(x is not None for x in given):
        raise UserError('give all of --coordinator_address, --num_processes and --process_id, or none of them')
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except Exception as error:
        where = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', 'found from the environment')
        raise UserError(f'cannot connect the hosts (coordinator {where}): {_one_line(error)}') from error


def with_hint(error: UserError, config: ConfigDict, path: str) -> UserError:
    """Adds to an error about missing data which variant of the config runs at once."""
    if config.data.source != 'tfds' or 'data' not in str(error):
        return error
    hinted = type(error)(f'{error}\nto try the method at once, on embedded data: --config={path}:digits')
    hinted.exit_code = error.exit_code
    return hinted


def _load_alone(path: str) -> ConfigDict:
    """Loads a config file without overrides, so that a mistake in it is told from one in them."""
    file = Path(path.split(':')[0])
    if not file.is_file():
        near = ', '.join(sorted(str(p) for p in file.parent.glob('*.py'))) if file.parent.is_dir() else ''
        raise UserError(f'config file {file} does not exist' + (f' -> choose from {near}' if near else ''))
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file('config', None, '', lock_config=True, flag_values=values)
    try:
        values(['', f'--config={path}'])
        return holder.value
    except UserError as error:
        raise UserError(f'--config={path}: {error}') from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f'config {path} fails at {where.filename}:{where.lineno}: {_one_line(error)}') from error


def _try_override(path: str, arg: str) -> str | None:
    """What is wrong with one --config.field=value, or None."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file('config', None, '', lock_config=True, flag_values=values)
    field = arg.removeprefix('--').split('=')[0]
    try:
        values(['', f'--config={path}', arg])
    except Exception as error:
        del holder
        return f'{arg}: {_one_line(error)}'
    if '=' not in arg and not isinstance(values[field].value, bool):
        return f'{arg} has no value -> write {arg}=VALUE'
    return None


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(text).split()) or type(error).__name__
