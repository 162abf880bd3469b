"""Says what a run will cost on devices that need not be here: memory, operations, collectives, and a bound of its time.

    python -m contrastive_jax.plan --config=mocov2:digits
    python -m contrastive_jax.plan --config=mocov3_vit --topology=v5e:4x4 --images=1281167 --config.dtype=bfloat16
    python -m contrastive_jax.plan --config=mocov2 --topology=h100:8 --images=1281167

The training step is compiled for a described topology, from the shapes of its arrays; nothing runs. TPUs (v4, v5e, v5p,
v6e: the chips along each axis) and NVIDIA cards (a100, h100, h200: their number) need `pip install
'contrastive_jax[plan]'`; cpu:8 needs nothing. Large networks take 2 to 10 minutes for each compilation.

Exit codes: 0 the run fits; 2 it does not, or a mistake in config or topology; 3 the data is not here (--images).
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.group import LISTS, is_group
from contrastive_jax.config.load import load
from contrastive_jax.config.overrides import PREFIXES, override
from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.plan.page import page
from contrastive_jax.plan.planning import make, prepare
from contrastive_jax.plan.programs import use_least_effort
from contrastive_jax.plan.stack import restart_with_larger_stack
from contrastive_jax.plan.topologies import EXAMPLES, described


def run(given: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Makes the plan, prints it, and returns the exit code.

    Raises:
      UserError: a mistake in the arguments, or the run does not fit.
    """
    jax.config.update('jax_platforms', 'cpu')  # the described devices are not here, and jax must not look for them
    if given.effort == 'least':
        use_least_effort()
    config = load(given.config)
    if 'protocol' in config:
        raise UserError(f'{given.config} is an evaluation', remedy='plan the config of a pretraining')
    if problems := override(config, overrides, sections_of):
        raise UserError.of(problems)
    if is_group(config):
        given_lists = ', '.join(name for name in LISTS if config.get(name))
        raise UserError(f'{given_lists} give several runs', remedy='plan one of them, without these fields')
    if given.images < 0:
        raise UserError(f'--images {given.images} is out of range', remedy='give the number of training images')
    chip, devices = described(given.topology)
    setting = prepare(config, chip, devices, given.images)
    print(f'plan of {given.config} on {given.topology}', flush=True)
    plan = make(setting, given.quick, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(page(plan))
    if given.effort == 'least':
        print("effort            XLA's least: memory and its traffic are estimates, often too low (docs/devices.md)")
    if not plan.fits:
        ways = [other.flags for other in plan.alternatives if other.fits]
        smaller = f'--config.batch_size={plan.largest}' if plan.largest else 'a smaller batch, or more devices'
        raise UserError(f'the run does not fit into {chip.title}', remedy=' or '.join([*ways, smaller]))
    return 0


def options() -> argparse.ArgumentParser:
    """The arguments of the command, without the fields of the config."""
    parser = argparse.ArgumentParser('contrastive_jax.plan', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--config', required=True, help='a config file or recipe with its variants, as for training')
    parser.add_argument('--topology', default='cpu:1', help=f'the devices: {EXAMPLES}; default: %(default)s')
    parser.add_argument(
        '--images', type=int, default=0, help='number of training images, if the data is not on this machine'
    )
    parser.add_argument(
        '--quick', action='store_true', help='only the step itself: no largest batch, and no alternatives'
    )
    parser.add_argument(
        '--effort', choices=('usual', 'least'), default='usual',
        help="XLA's effort; with the least a TPU's program takes a tenth of the time, and memory is an estimate",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments and runs; returns the exit code."""
    restart_with_larger_stack(argv)

    def parse_and_run() -> int:
        given, rest = options().parse_known_args(argv)
        if unknown := [arg for arg in rest if not arg.startswith(PREFIXES)]:
            raise UserError(
                f'unexpected {" ".join(unknown)}', remedy='set fields of the config with --config.FIELD=VALUE'
            )
        return run(given, rest)

    return exit_code_of(parse_and_run)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
