"""Trains: python -m contrastive_jax.main --config=configs/mocov2.py:digits --workdir=runs/digits [--config.field=value]

The same command again continues a run that was stopped. With a config of configs/eval/ it evaluates the encoder of a
run, which --config.init=WORKDIR names. Exit codes: 0 finished; 42 interrupted and saved, start the command again; 2 a
mistake in config, flags or workdir; 3 a problem of the data; 4 too many steps in a row were not finite; 5 no checkpoint
can be read or written; 6 another run uses the workdir. errors.py has the table of all of them.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict

from contrastive_jax.config import command_line
from contrastive_jax.distributed.hosts import CONNECT_S, connect, enable_compilation_cache, end_alone
from contrastive_jax.distributed.watchdog import PATIENCE_S
from contrastive_jax.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string('workdir', None, 'Folder of the run: config, checkpoints, metrics, pictures.')
flags.DEFINE_string('coordinator_address', None, 'host:port of process 0; Cloud TPU and Slurm provide it themselves.')
flags.DEFINE_integer('num_processes', None, 'Number of hosts, with --coordinator_address.')
flags.DEFINE_integer('process_id', None, 'Number of this host, with --coordinator_address.')
flags.DEFINE_float('connect_timeout', CONNECT_S, 'Seconds in which all hosts have to come together.', 1)
flags.DEFINE_float(
    'stall_timeout',
    PATIENCE_S,
    'Seconds that a host may wait for a batch, and all hosts for a step, before they end; six times that for the first '
    'reading of the data and for the first step.',
    1,
)
flags.DEFINE_integer(
    'rollback', None, 'Take the run back to the checkpoint of this step first; fields may change then.'
)
flags.DEFINE_bool('verbose', False, 'Print a table of all parameters before the training.')
flags.DEFINE_bool('verbose_errors', False, 'Show the traceback also of errors that the user can correct.')

FLAG_NAMES = (
    'workdir', 'coordinator_address', 'num_processes', 'process_id', 'connect_timeout', 'stall_timeout', 'rollback',
    'verbose', 'verbose_errors',
)  # fmt: skip


def run(argv: list[str]) -> int:
    """Parses, connects the hosts, trains; returns the exit code."""
    for name in FLAG_NAMES:
        FLAGS[name].unparse()  # an earlier call in this process may have set it
    if command_line.wants_help(argv):
        command_line.print_help(argv, __doc__ or '', FLAG_NAMES, lambda: _describe_fields(argv))
        return 0
    config, config_path = command_line.parse(argv, _check, _sections)
    address, count, number = FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id
    connect(address, count, number, FLAGS.connect_timeout, FLAGS.stall_timeout)
    enable_compilation_cache()
    from contrastive_jax.training.fit import fit  # after the hosts are connected: jax finds its devices once

    try:
        if 'protocol' in config:
            from contrastive_jax.protocols.run import run_protocol

            if FLAGS.rollback is not None:
                raise UserError(
                    f'--rollback={FLAGS.rollback} is for pretraining', remedy='give the evaluation another workdir'
                )
            run_protocol(config, FLAGS.workdir)
        else:
            from contrastive_jax.config.group import is_group
            from contrastive_jax.pretrained.load import load

            if is_group(config):
                from contrastive_jax.training.group import fit_group

                if FLAGS.rollback is not None:
                    remedy = 'give it with the config and the workdir of one of them'
                    raise UserError(f'--rollback={FLAGS.rollback} is for one run, not for several', remedy=remedy)
                found = fit_group(config, FLAGS.workdir, load=load, verbose=FLAGS.verbose)
                print_next(f'{FLAGS.workdir.rstrip("/")}/{next(iter(found))}')
                return 0
            fit(config, FLAGS.workdir, rollback=FLAGS.rollback, verbose=FLAGS.verbose, load=load)
            print_next(FLAGS.workdir)
    except UserError as error:
        raise command_line.as_flags(error, config, config_path) from error
    return 0


def print_next(workdir: str) -> None:
    """The commands that a finished run is used with."""
    import jax

    if jax.process_index() == 0:
        quoted = shlex.quote(workdir)
        path = workdir.rstrip('/')
        print(
            'next:\n'
            f'  python -m contrastive_jax.report --workdir={quoted}\n'
            f'  python -m contrastive_jax.features --workdir={quoted} {shlex.quote(f"{path}/features.npz")}\n'
            f'  python -m contrastive_jax.convert {quoted} {shlex.quote(f"{path}/encoder.safetensors")}',
            flush=True,
        )


def _check(config: ConfigDict) -> Sequence[str]:
    """What is wrong with the values of a config, as far as it is known before the devices are."""
    if 'protocol' in config:
        from contrastive_jax.protocols.run import check_protocol

        return check_protocol(config)
    from contrastive_jax.config.check import check, check_init

    return [*check(config, devices=1), *check_init(config)]


def _sections(config: ConfigDict) -> Mapping[str, type]:
    """The classes that declare the fields of a config, by section."""
    if 'protocol' in config:
        from contrastive_jax.protocols import run as protocols

        return protocols.sections_of(config)
    from contrastive_jax.config.fields import sections_of

    return sections_of(config)


def _describe_fields(argv: Sequence[str]) -> str:
    """The fields of an evaluation if the command line names its config; otherwise those of every training."""
    from contrastive_jax.config.describe import describe_fields, describe_sections
    from contrastive_jax.config.load import load

    given = next((arg.partition('=')[2] for arg in argv if arg.startswith('--config=')), '')
    config = load(given) if given else ConfigDict()
    return describe_sections(_sections(config)) if 'protocol' in config else describe_fields()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: errors that the user can correct are one line each and an exit code, without a traceback.

    Args:
      argv: the arguments, without the program; None: those of the process.

    Returns:
      The exit code.
    """
    given = ['contrastive_jax.main', *(sys.argv[1:] if argv is None else argv)]
    verbose = lambda: FLAGS.is_parsed() and FLAGS.verbose_errors  # noqa: E731
    return end_alone(lambda: run(given), verbose)


if __name__ == '__main__':
    sys.exit(main())
