"""Writes a page about a run, `report.html` in its workdir. A browser can open the file from disk.

    python -m contrastive_jax.report --workdir=runs/digits

The page says at its head whether the run went well and what to try next (docs/health.md).
It shows learning curves, augmented views, nearest neighbors, projections of the features, a confusion matrix, the
attention of a ViT, feature maps, the settings of the run, and the results of evaluations. Workdirs of evaluations are
searched in the folder that contains the workdir of the run, and in --evaluations. The newest checkpoint is analyzed
on the data of the run. Sections whose checkpoint or data is missing are left out. The run may still be training: its
files are only read.

Exit codes: 0 the page was written, 2 an argument is wrong or the page cannot be written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.workdir.atomic import write_atomically

FILE = 'report.html'


def run(given: argparse.Namespace) -> None:
    """Writes the page.

    Args:
      given: the parsed arguments of the command.

    Raises:
      UserError: an argument is wrong, or the page cannot be written.
    """
    from contrastive_jax.distributed.hosts import enable_compilation_cache  # here, so that --help does not wait for jax
    from contrastive_jax.report.page import render
    from contrastive_jax.report.record import read_record

    record = read_record(given.workdir, given.evaluations)
    file = Path(given.output).expanduser().absolute() if given.output else record.workdir / FILE
    if file.is_dir():
        raise UserError(f'--output {file} is a folder -> give a file, e.g. {file / FILE}')
    if not file.parent.is_dir():
        raise UserError(f'--output {file}: the folder {file.parent} does not exist -> create it, or give another file')
    enable_compilation_cache()
    html, left_out = render(record, lambda line: print(line, file=sys.stderr, flush=True))
    try:
        write_atomically(file, html.encode('utf-8', 'backslashreplace'))  # paths need not be UTF-8
    except OSError as error:
        raise UserError(f'cannot write {file}: {error.strerror} -> give another file with --output') from error
    for line in left_out:
        print(f'left out: {line}')
    print(f'report: {file}')


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.report', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--workdir', required=True, help='the workdir of the run')
    parser.add_argument('--output', default='', help=f'the file to write; default: {FILE} in the workdir')
    parser.add_argument(
        '--evaluations',
        action='append',
        default=[],
        help='a folder that contains more workdirs of evaluations; may be given several times',
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments, writes the page, and returns the exit code."""
    return exit_code_of(lambda: run(options().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
