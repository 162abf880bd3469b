"""Trains several configs one after the other and puts their features side by side, in a table and a picture.

    python -m contrastive_jax.compare --workdir=runs/compare
    python -m contrastive_jax.compare --config=configs/mocov2.py:digits --config=configs/simsiam.py:digits \
        --workdir=runs/two --config.epochs=20.0

Without --config: the recipes of all methods, on the embedded digits. Each run is the ordinary command in a folder of
its own below the workdir, so the same command goes on where it was stopped. Fields given as --config.field=value hold
for all. Ends with comparison.md and comparison.png, and with exit code 1 if a run failed.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contrastive_jax.config.find import list_configs
from contrastive_jax.errors import UserError, exit_code_of, print_error
from contrastive_jax.plots import figures
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.folder import CONFIG_FILE

TABLE, PICTURE = 'comparison.md', 'comparison.png'


@dataclasses.dataclass(frozen=True)
class Row:
    """What one run came to; accuracies in [0, 1], NaN where nothing was measured.

    Attributes:
      config: the file and its variant, without folder and ending: 'mocov2:digits'.
      method: its name in the registry.
      encoder: its name.
      epochs: length of the training.
      knn, knn_before: of the trained and of the untrained encoder on held-out images.
      probe, probe_before: likewise, the linear probe.
      rate: images/s, the median over the run.
    """

    config: str
    method: str
    encoder: str
    epochs: float
    knn: float
    knn_before: float
    probe: float
    probe_before: float
    rate: float


def compare(configs: Sequence[str], folder: Path, fields: Sequence[str] = ()) -> list[str]:
    """Trains the configs and writes table and picture after each, so that there is something to see early.

    Args:
      configs: paths or names of config files with their variants, such as 'mocov2:digits'.
      folder: each run gets one of its own in it.
      fields: '--config.field=value', for all.

    Returns:
      The configs that failed.
    """
    rows, failed = [], []
    for config in configs:
        run = folder / short(config).replace(':', '_').replace(',', '_')
        print(f'== {config}', flush=True)
        command = [sys.executable, '-m', 'contrastive_jax.main', f'--config={config}', f'--workdir={run}', *fields]
        if subprocess.run(command, check=False).returncode:
            failed.append(config)
            continue
        rows.append(read(config, run))
        folder.joinpath(TABLE).write_text(table(rows), encoding='utf-8')
        figures.comparison([(row.config, row.knn, row.knn_before) for row in rows], folder / PICTURE)
    if rows:
        print(f'\n{table(rows)}\ntable: {folder / TABLE}  picture: {folder / PICTURE}')
    return failed


def read(config: str, run: Path) -> Row:
    """The row of a finished run, from its workdir."""
    about = json.loads((run / CONFIG_FILE).read_text(encoding='utf-8'))
    lines = metrics.read(run)
    last = {name: value for line in lines for name, value in line.items() if value is not None}
    rates = [line['images_per_second'] for line in lines if line.get('images_per_second') is not None]
    nan = math.nan
    return Row(
        config=short(config),
        method=about['method']['name'],
        encoder=about['encoder']['name'],
        epochs=about['epochs'] if not about['steps'] else nan,
        knn=last.get('eval/knn_top1', nan),
        knn_before=last.get('baseline/knn_top1', nan),
        probe=last.get('eval/probe_top1', nan),
        probe_before=last.get('baseline/probe_top1', nan),
        rate=float(np.median(rates)) if rates else nan,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, the best kNN first."""
    lines = [
        '| config | method | encoder | epochs | kNN | untrained | linear probe | untrained | images/s |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in sorted(rows, key=lambda row: (math.isnan(row.knn), -row.knn)):
        accuracies = (row.knn, row.knn_before, row.probe, row.probe_before)
        cells = [f'`{row.config}`', row.method, row.encoder, f'{row.epochs:g}', *(f'{100 * x:.1f}' for x in accuracies)]
        lines.append(f'| {" | ".join(cells)} | {row.rate:,.0f} |')
    return '\n'.join(lines) + '\n'


def short(config: str) -> str:
    """'configs/mocov2.py:digits' -> 'mocov2:digits'."""
    file, _, variant = config.partition(':')
    return f'{Path(file).stem}:{variant}' if variant else Path(file).stem


def every_method() -> list[str]:
    """The recipes of all methods, on the embedded digits."""
    # Without the evaluations, and without `dictionary`, which is a comparison of its own.
    return [f'{name}:digits' for name in list_configs() if '/' not in name and name != 'dictionary']


def main(argv: Sequence[str]) -> int:
    """Parses, trains, compares; returns the exit code."""
    parser = argparse.ArgumentParser('contrastive_jax.compare', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--config', action='append', help='a config file with its variant; may be given many times')
    parser.add_argument('--workdir', required=True, help='folder of the runs, the table and the picture')
    given, rest = parser.parse_known_args(argv)
    if unknown := [arg for arg in rest if not arg.startswith('--config.')]:
        parser.error(f'unexpected {" ".join(unknown)} -> fields of the configs are --config.field=value')
    return exit_code_of(lambda: run(given.config, given.workdir, rest))


def run(configs: Sequence[str] | None, workdir: str, fields: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
      UserError: there are no configs, or the workdir cannot be written.
    """
    configs, folder = configs or every_method(), Path(workdir).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        failed = compare(configs, folder, fields)
    except OSError as error:
        raise UserError(f'cannot write to --workdir {folder}: {error.strerror}', remedy='choose another') from error
    for config in failed:
        print_error(f'{config} failed, see above -> correct it and give the same command')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
