"""The command line of `main`: the config file, its overrides, and all mistakes in them at once."""

from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict

from contrastive_jax.config.load import load, one_line
from contrastive_jax.config.overrides import PREFIXES, Sections, override, spelled
from contrastive_jax.errors import DataError, Problem, UserError
from contrastive_jax.rules import did_you_mean

Check = Callable[[ConfigDict], Sequence[str]]


def parse(argv: list[str], check: Check, sections: Sections) -> tuple[ConfigDict, str]:
    """Parses the command line into absl's flags and the config.

    Args:
      argv: the command line, with the program first.
      check: finds what is wrong with the values of a config as far as it is known before the devices are; it is called
        if something else is wrong, so that all mistakes are reported together.
      sections: the class that declares each section of a config, such as `fields.sections_of`.

    Returns:
      The config with its overrides, and the path or name that was given for its file.

    Raises:
      UserError: everything that is wrong with the flags, a line each.
    """
    program, *args = argv
    args = [f'-{arg}' if arg.startswith(('-config', '-noconfig')) else arg for arg in args]  # one dash does as well
    given = next((arg.split('=', 1)[1] for arg in args if arg.startswith('--config=')), None)
    if not given:
        what = 'no --config given' if given is None and '--config' not in args else '--config has no value'
        raise UserError(what, remedy='e.g. --config=configs/mocov2.py:digits --workdir=runs/digits')
    config = load(given)
    overrides = [arg for arg in args if arg.startswith(PREFIXES)]
    problems: list[str] = list(override(config, overrides, sections))
    fields = {arg.partition('=')[0] for arg in overrides}
    if '--config.epochs' in fields and '--config.steps' not in fields and config.get('steps') and not problems:
        message = f'--config.epochs has no effect, because the config has steps {config.steps}, which come first'
        problems.append(Problem(message, remedy='give --config.steps=0 as well'))
    others = [arg for arg in args if arg not in overrides and not arg.startswith('--config=')]
    try:
        rest = flags.FLAGS([program, *others], known_only=True)[1:]
        problems += map(_unexpected, rest)
        if not flags.FLAGS['workdir'].value:
            remedy = 'name a folder for checkpoints, metrics and pictures, e.g. --workdir=runs/digits'
            problems.append(Problem('no --workdir given', remedy=remedy))
    except (flags.Error, ValueError) as error:
        problems.append(one_line(error))
    if problems:
        raise UserError.of([*problems, *map(_with_flag, check(config))])
    return config, given.split(':')[0]


def wants_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for help rather than for a run."""
    return any(arg in ('--help', '-h', '--helpfull') for arg in argv[1:])


def print_help(argv: Sequence[str], about: str, names: Sequence[str], fields: Callable[[], str]) -> None:
    """Prints what the command does and its flags; with --helpfull also the fields of a config.

    Args:
      argv: the command line.
      about: what the command does.
      names: its flags.
      fields: describes the fields of a config.
    """
    print(about)
    for name in names:
        flag = flags.FLAGS[name]
        print(f'  --{name}  {flag.help}' if flag.boolean else f'  --{name}=...  {flag.help}')
    print(fields() if '--helpfull' in argv else '--helpfull also lists the fields of a config.')


def as_flags(error: UserError, config: ConfigDict, path: str) -> UserError:
    """An error in the words of the command line.

    Args:
      error: an error of the library, which names fields and no flags.
      config: the config of the run.
      path: the path of its file.

    Returns:
      An error of the same exit code: a remedy with a value is followed by the argument that sets it, and an error about
      missing data by the variant of the config that runs without any.
    """
    lines = [_with_flag(problem) for problem in error.problems]
    if isinstance(error, DataError) and config.data.source == 'tfds' and 'protocol' not in config:
        lines.append(f'to try the method at once, on embedded data: --config={path}:digits')
    spelled_out = UserError.of(lines)
    spelled_out.exit_code = error.exit_code
    return spelled_out


def _with_flag(line: str) -> str:
    """A problem with a legal value for its field, followed by the argument that sets it; other lines as they are."""
    if isinstance(line, Problem) and line.field and line.value is not None:
        return f'{line}: {spelled(line.field, line.value)}'
    return line


def _unexpected(arg: str) -> Problem:
    """The line about an argument that is not known."""
    if not arg.startswith('-'):
        hint = f'; did you mean --config.{arg}?' if '=' in arg else ''
        return Problem(f'unexpected argument {arg!r}{hint}', remedy='options start with --')
    name = arg.lstrip('-').split('=')[0]
    meant = did_you_mean(f'--{name}', [f'--{flag}' for flag in ['config', *flags.FLAGS]])
    remedy = '--help lists the options, --helpfull the fields of a config: --config.FIELD=VALUE'
    return Problem(f'unknown option {arg}{meant}', remedy=remedy)
