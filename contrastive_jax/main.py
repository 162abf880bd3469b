"""Trains: python -m contrastive_jax.main --config=configs/mocov2.py:digits --workdir=runs/digits [--config.field=value]

The same command again goes on where the last one stopped. A config of configs/eval/ judges the encoder of a run, which
--config.init=WORKDIR names. Exit codes: 0 finished, 42 interrupted and saved (start it
again), 2 a mistake in config, flags or workdir, 3 a problem of the data, 4 loss or state went to NaN, 5 no
checkpoint can be read, or written.
"""

import sys

from absl import flags

from contrastive_jax.config import command_line
from contrastive_jax.distributed.hosts import connect, enable_compilation_cache
from contrastive_jax.errors import Interrupted, UserError

FLAGS = flags.FLAGS

flags.DEFINE_string('workdir', None, 'Folder of the run: config, checkpoints, metrics, pictures.')
flags.DEFINE_string('coordinator_address', None, 'host:port of process 0; Cloud TPU and Slurm tell it themselves.')
flags.DEFINE_integer('num_processes', None, 'Number of hosts, with --coordinator_address.')
flags.DEFINE_integer('process_id', None, 'Number of this host, with --coordinator_address.')
flags.DEFINE_bool('verbose_errors', False, "Show the traceback of errors that are the user's to mend, too.")


def run(argv: list[str]) -> int:
    """Parses, connects the hosts, trains; returns the exit code."""
    config, config_path = command_line.parse(argv)
    connect(FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    enable_compilation_cache()
    from contrastive_jax.training.fit import fit  # after the hosts are connected: jax finds its devices once

    try:
        if 'protocol' in config:
            from contrastive_jax.protocols.run import run_protocol

            run_protocol(config, FLAGS.workdir)
        else:
            fit(config, FLAGS.workdir)
    except UserError as error:
        raise command_line.with_hint(error, config, config_path) from error
    return 0


def main() -> None:
    """Entry point: user errors are one line each and an exit code, without a traceback."""
    try:
        code = run(sys.argv)
    except Interrupted as stop:
        print(f'contrastive_jax: {stop}', flush=True)
        code = stop.exit_code
    except UserError as error:
        if FLAGS.is_parsed() and FLAGS.verbose_errors:
            raise
        for line in str(error).splitlines():
            print(f'contrastive_jax: error: {line}', file=sys.stderr, flush=True)
        code = error.exit_code
    sys.exit(code)


if __name__ == '__main__':
    main()
