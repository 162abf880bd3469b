"""contrastive_jax trains encoders on images without labels, by contrastive learning, and evaluates them.

    python -m contrastive_jax COMMAND ...      or, where the package is installed:  contrastive-jax COMMAND ...

Each command is also a module: `python -m contrastive_jax.features` is `contrastive-jax features`.
"""

import importlib
import sys
from collections.abc import Sequence

from contrastive_jax import __version__
from contrastive_jax.config.find import list_configs, variants_of
from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.rules import did_you_mean

# command -> (its module, whose `main(argv)` returns the exit code; what it does)
COMMANDS = {
    'train': ('contrastive_jax.main', 'train a config, or evaluate an encoder by a config of eval/'),
    'report': ('contrastive_jax.report.__main__', 'write a page about a run that opens from disk'),
    'doctor': ('contrastive_jax.doctor', 'say how a run is and what to do next, without changing anything'),
    'features': ('contrastive_jax.features', 'write the features of a data set to an .npz file'),
    'convert': ('contrastive_jax.convert', 'convert weights: published checkpoints in, PyTorch and ONNX out'),
    'compare': ('contrastive_jax.compare', 'train several configs and compare them in a table and a picture'),
    'ablate': ('contrastive_jax.ablate.__main__', 'train an ablation of a paper, and show it on a page'),
    'reproduce': ('contrastive_jax.reproduce.__main__', 'train and evaluate what a reference number was measured on'),
    'plan': ('contrastive_jax.plan.__main__', 'say what a run will cost on devices that need not be here'),
    'prepare': ('contrastive_jax.prepare', 'write a cache of resized images, for long trainings on large photos'),
    'configs': ('', 'list the recipes and their variants'),
}


def overview() -> str:
    """What there is: the commands, and how to start."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {what}' for name, (_, what) in COMMANDS.items()]
    return '\n'.join(
        [
            __doc__ or '',
            f'commands (version {__version__}):',
            *lines,
            '',
            'COMMAND --help describes a command. To start:',
            '  contrastive-jax train --config=mocov2:digits --workdir=runs/digits',
            '  contrastive-jax report --workdir=runs/digits',
        ]
    )


def configs() -> str:
    """The recipes, a line each, with the variants that may follow the colon."""
    names = list_configs()
    width = max(map(len, names))
    return '\n'.join(f'{name:{width}}  {" ".join(variants_of(name))}' for name in names)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: the command and its arguments, without the program; None: those of the process.

    Returns:
      The exit code.
    """
    return exit_code_of(lambda: run([*(sys.argv[1:] if argv is None else argv)] or ['--help']))


def run(argv: Sequence[str]) -> int:
    """Runs a command, given with its arguments, and returns the exit code.

    Raises:
      UserError: there is no such command.
    """
    command, *rest = argv
    if command in ('--help', '-h', 'help'):
        print(overview())
        return 0
    if command == '--version':
        print(__version__)
        return 0
    if command not in COMMANDS:
        meant = did_you_mean(command, COMMANDS)
        raise UserError(f'unknown command {command!r}{meant}', remedy=f'choose from {", ".join(COMMANDS)}')
    if command == 'configs':
        print(configs())
        return 0
    return importlib.import_module(COMMANDS[command][0]).main(rest)


if __name__ == '__main__':
    sys.exit(main())
