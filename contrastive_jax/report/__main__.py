"""Writes one page about a run that can be opened from disk: `report.html` in its workdir.

    python -m contrastive_jax.report --workdir=runs/digits

What was run, curves, what the augmentation does, nearest neighbours, a map of the features, a confusion matrix, what a
ViT looks at, and the numbers of the evaluations whose workdirs lie beside that of the run (or in --evaluations). The
newest checkpoint is looked through, on the data of the run; without the one or the other the page has less. The run may
be going on: it is only read.

Exit codes: 0 written, 2 a mistake in what was given.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.workdir.metrics import replace_file

FILE = 'report.html'


def run(given: argparse.Namespace) -> None:
    """The command."""
    from contrastive_jax.report import page  # --help need not wait for jax
    from contrastive_jax.report.run import read

    about = read(given.workdir, given.evaluations)
    file = Path(given.output).expanduser().absolute() if given.output else about.workdir / FILE
    if file.is_dir():
        raise UserError(f'--output {file} is a folder -> name a file, e.g. {file / FILE}')
    if not file.parent.is_dir():
        raise UserError(f'--output {file}: there is no folder {file.parent} -> make it, or choose another file')
    html, left_out = page.write(about)
    try:
        replace_file(file, html.encode())
    except OSError as error:
        raise UserError(f'cannot write {file}: {error.strerror} -> choose another with --output') from error
    for line in left_out:
        print(f'left out: {line}')
    print(f'report: {file}')


def main(argv: Sequence[str]) -> int:
    """Parses and runs; returns the exit code."""
    parser = argparse.ArgumentParser('contrastive_jax.report', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--workdir', required=True, help='of the run')
    parser.add_argument('--output', default='', help=f'the file; by default {FILE} in the workdir')
    parser.add_argument(
        '--evaluations', action='append', default=[], help='a folder with more evaluations; may be given many times'
    )
    given = parser.parse_args(argv)
    return exit_code_of(lambda: run(given))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
