"""The command line: config file and overrides, every mistake in them at once; and the connection of several hosts."""

import difflib
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from contrastive_jax.config.find import find_config
from contrastive_jax.errors import DataError, UserError


def parse(argv: list[str]) -> tuple[ConfigDict, str]:
    """Parses the command line into absl's flags and the config.

    Args:
      argv: with the program first.

    Returns:
      The config with its overrides, and the path or name that was given for its file.

    Raises:
      UserError: everything that is wrong with the flags, a line each.
    """
    if any(arg in ('--help', '-h', '--helpfull') for arg in argv[1:]):
        print(f'{sys.modules["__main__"].__doc__}\n{flags.FLAGS.main_module_help()}')
        sys.exit(0)
    program, *args = argv
    args = [f'-{arg}' if arg.startswith(('-config', '-noconfig')) else arg for arg in args]  # one dash does as well
    path = next((arg.split('=', 1)[1] for arg in args if arg.startswith('--config=')), None)
    if not path:
        given = 'no --config given' if path is None and '--config' not in args else '--config has no value'
        raise UserError(f'{given} -> e.g. --config=configs/mocov2.py:digits --workdir=runs/digits')
    name, colon, variant = path.partition(':')
    file, _ = find_config(path)
    if file == Path(name).expanduser():  # not a recipe of the package
        # A config may import its neighbours as `folder.name`, wherever the command is started.
        sys.path.insert(0, str(file.resolve().parents[1]))
    path = f'{file}{colon}{variant}'
    _load_alone(path)
    overrides = [arg for arg in args if arg.startswith(('--config.', '--noconfig.'))]
    wrong = {arg: line for arg in overrides if (line := _try_override(path, arg))}
    problems = list(wrong.values())
    config = None
    try:
        config = _read(path, [arg for arg in overrides if arg not in wrong])
    except Exception as error:  # overrides that are right one by one, and contradict each other
        problems.append(_one_line(error))
    others = [arg for arg in args if arg not in overrides and not arg.startswith('--config=')]
    try:
        rest = flags.FLAGS([program, *others], known_only=True)[1:]
        problems += map(_unexpected, rest)
        if not flags.FLAGS['workdir'].value:
            problems.append('no --workdir given -> name a folder for checkpoints, metrics, pictures, e.g. runs/digits')
    except (flags.Error, ValueError) as error:
        problems.append(_one_line(error))
    if problems or config is None:
        # Whoever mends these should not meet the next mistakes one run later.
        raise UserError('\n'.join([*problems, *_impossible(config)]))
    return config, name


def with_hint(error: UserError, config: ConfigDict, path: str) -> UserError:
    """Adds to an error about missing data which variant of the config runs at once."""
    about_data = isinstance(error, DataError) or 'tfds' in str(error).lower()
    if not about_data or config.data.source != 'tfds' or 'protocol' in config:
        return error
    hinted = type(error)(f'{error}\nto try the method at once, on embedded data: --config={path}:digits')
    hinted.exit_code = error.exit_code
    return hinted


def _load_alone(path: str) -> None:
    """Loads a config file without overrides, so that a mistake in it is told from one in them."""
    file = Path(path.split(':')[0])
    try:
        config = _read(path, [])
    except UserError as error:
        raise UserError(f'--config={path}: {error}') from error
    except Exception as error:
        raise UserError(f'config {path} fails at {_line_of(file, error)}: {_one_line(error)}') from error
    if not isinstance(config, ConfigDict):
        raise UserError(f'get_config of {path} returns {type(config).__name__} -> return the config that it makes')


def _read(path: str, overrides: list[str]) -> ConfigDict:
    """The config of a file with overrides. Its flags are of its own: parsing again starts afresh."""
    argv = ['', f'--config={path}', *overrides]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    values(argv)
    return holder.value


def _line_of(file: Path, error: Exception) -> str:
    """file:line of an error: the last line in the config file or beside it, rather than inside a library."""
    if isinstance(error, SyntaxError):
        return f'{error.filename}:{error.lineno}'
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().parent == file.resolve().parent]
    where = (own or frames)[-1]
    return f'{where.filename}:{where.lineno}'


def _try_override(path: str, arg: str) -> str | None:
    """What is wrong with one --config.field=value, or None."""
    try:
        _read(path, [arg])
    except Exception as error:
        reason, name = _one_line(error), arg.split('=')[0]
        if reason.startswith('Missing value'):
            return f'{arg} has no value -> write {arg}=VALUE'
        if 'Non-boolean' in reason:
            return f'{arg} is neither true nor false -> write {name}=true or {name}=false'
        if 'as a ConfigDict' in reason:
            return f'{arg}: this is a section of fields -> set one of them: {name}.FIELD=VALUE'
        if isinstance(error, AttributeError | KeyError):
            return f'{arg}: the config has no such field: {reason}'
        return f'{arg}: {reason.removeprefix(f"flag {arg}: ")}'
    return None


def _unexpected(arg: str) -> str:
    """The line about an argument that nobody takes."""
    if not arg.startswith('-'):
        hint = f'; did you mean --config.{arg}?' if '=' in arg else ''
        return f'unexpected argument {arg!r}{hint} -> options start with --'
    name = arg.lstrip('-').split('=')[0]
    near = difflib.get_close_matches(name, ['config', *flags.FLAGS], n=1)
    meant = f'; did you mean --{near[0]}?' if near else ''
    return f'unknown option {arg}{meant} -> --help lists the options, fields of the config are --config.FIELD=VALUE'


def _impossible(config: ConfigDict | None) -> list[str]:
    """What is wrong with the values, as far as it can be told before the devices are known."""
    # These bring the models along, which a right command line need not wait for here.
    if config is None:
        return []
    if 'protocol' in config:
        from contrastive_jax.protocols.run import check_protocol

        return check_protocol(config)
    from contrastive_jax.config.check import check

    return check(config, devices=1)


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(text).split()) or type(error).__name__
