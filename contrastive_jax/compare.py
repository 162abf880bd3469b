"""Trains several configs one after the other and compares the accuracies of their features in a table and a picture.

    python -m contrastive_jax.compare --workdir=runs/compare
    python -m contrastive_jax.compare --config=configs/mocov2.py:digits --config=configs/simsiam.py:digits \
        --workdir=runs/two --config.epochs=20.0

Without --config, the recipe of every method is trained on the embedded digits. Each run is started by
`contrastive_jax.main` with its own workdir in the given folder, so the same command continues after an interruption.
Fields given as --config.field=value are set in all configs. The comparison is written to comparison.md and
comparison.png.

Exit codes: 0 all runs were trained, 1 a run failed, 2 an argument is wrong, 42 interrupted and saved.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contrastive_jax.config.check import check_fields
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.find import list_configs
from contrastive_jax.config.group import is_group, refuse_lists
from contrastive_jax.config.load import load
from contrastive_jax.config.overrides import override
from contrastive_jax.errors import Interrupted, UserError, exit_code_of, print_error
from contrastive_jax.evaluate.verdict import UNTRAINED, comparable, first_weights
from contrastive_jax.plots import figures
from contrastive_jax.training.child import children
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.folder import CONFIG_FILE

TABLE, PICTURE = 'comparison.md', 'comparison.png'  # files in the workdir


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of a run. Accuracies are in [0, 1]; a value that was not measured is NaN.

    Attributes:
      config: the name of the config and its variant, such as 'mocov2:digits'.
      method: the name of the method in the registry.
      encoder: the name of the encoder.
      epochs: the number of epochs that were trained; NaN if the config gives steps.
      knn, knn_before: kNN accuracy on held-out images of the trained encoder and of that at step 0, on the same images.
      probe, probe_before: the same for the linear probe.
      rate: images per second, the median over the run.
      first: what the encoder had at step 0, see `evaluate.verdict.first_weights`.
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
    first: str = UNTRAINED


def compare(configs: Sequence[str], folder: Path, fields: Sequence[str] = ()) -> list[str]:
    """Trains the configs, and writes the table and the picture after each of them.

    Args:
      configs: paths or names of configs with their variants, such as 'mocov2:digits'.
      folder: the folder of the comparison; each run has its own workdir in it.
      fields: '--config.field=value', set in all configs.

    Returns:
      The configs that failed.

    Raises:
      Interrupted: a signal arrived, and the running training has saved itself.
    """
    rows, failed = [], []
    for config, name in names(configs).items():
        workdir = folder / _place(name)
        print(f'== {config}', flush=True)
        command = [sys.executable, '-m', 'contrastive_jax.main', f'--config={config}', f'--workdir={workdir}', *fields]
        with children() as processes:
            code = processes.run(command)
        if code == Interrupted.exit_code:
            raise Interrupted(f'{config}: interrupted and saved; run the same command to continue')
        if code:
            failed.append(config)
            continue
        rows.append(read_row(name, workdir))
        folder.joinpath(TABLE).write_text(table(rows), encoding='utf-8')
        figures.comparison([(row.config, row.knn, row.knn_before) for row in rows], folder / PICTURE, first_of(rows))
    if rows:
        print(f'\n{table(rows)}\ntable: {folder / TABLE}  picture: {folder / PICTURE}')
    return failed


def read_row(name: str, workdir: Path) -> Row:
    """Reads the results of the run `name` from its workdir."""
    fields = json.loads((workdir / CONFIG_FILE).read_text(encoding='utf-8'))
    lines = metrics.read(workdir)
    last = {name: value for line in lines for name, value in line.items() if value is not None}
    rates = [line['images_per_second'] for line in lines if line.get('images_per_second') is not None]
    nan = math.nan
    knn, probe = (comparable(last, f'eval/{name}_top1') for name in ('knn', 'probe'))
    return Row(
        config=name,
        method=fields['method']['name'],
        encoder=fields['encoder']['name'],
        epochs=nan if fields['steps'] else fields['epochs'],
        knn=nan if knn is None else knn,
        knn_before=last.get('baseline/knn_top1', nan),
        probe=nan if probe is None else probe,
        probe_before=last.get('baseline/probe_top1', nan),
        rate=float(np.median(rates)) if rates else nan,
        first=first_weights(fields.get('init', '')),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, sorted by kNN accuracy, the highest first."""
    before = first_of(rows).replace(' encoder', '')
    lines = [
        f'| config | method | encoder | epochs | kNN | {before} | linear probe | {before} | images/s |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in sorted(rows, key=lambda row: (math.isnan(row.knn), -row.knn)):
        accuracies = (row.knn, row.knn_before, row.probe, row.probe_before)
        name = f'`{row.config}`' + (f' ({row.first})' if row.first not in (UNTRAINED, first_of(rows)) else '')
        cells = [name, row.method, row.encoder, f'{row.epochs:g}', *(f'{100 * x:.1f}' for x in accuracies)]
        cells = ['-' if cell == 'nan' else cell for cell in (*cells, f'{row.rate:,.0f}')]  # not measured
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def first_of(rows: Sequence[Row]) -> str:
    """What the encoders had at step 0: all of them the same, or some of each."""
    return ' or '.join(dict.fromkeys(row.first for row in rows)) or UNTRAINED


def names(configs: Sequence[str]) -> dict[str, str]:
    """A name for each config: 'configs/mocov2.py:digits' -> 'mocov2:digits', with folders where names would be equal.

    Raises:
      UserError: a config is given twice, or names no file.
    """
    paths = [Path(config.partition(':')[0]) for config in configs]
    if nameless := [config for config, path in zip(configs, paths, strict=True) if not path.name]:
        raise UserError(f'--config={nameless[0]} names no file', remedy='give a recipe, or the path of a file')
    places: list[str] = []
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        found = [_name(config, parts) for config in configs]
        places = [_place(name) for name in found]
        if len({*places}) == len(configs):
            return dict(zip(configs, found, strict=True))
    i = next(i for i, place in enumerate(places) if place in places[:i])
    first, second = configs[places.index(places[i])], configs[i]
    if first == second:
        raise UserError(f'--config={first} is given twice', remedy='give each config once')
    raise UserError(f'--config={first} and --config={second} would share a workdir', remedy='leave one of them out')


def _place(name: str) -> str:
    """The workdir of a name, in the folder of the comparison."""
    return re.sub('[:,/]', '_', name)


def _name(config: str, parts: int) -> str:
    """The last `parts` parts of the path, without the ending of the file, and the variant."""
    file, _, variant = config.partition(':')
    path = '/'.join(Path(file).with_suffix('').parts[-parts:])
    return f'{path}:{variant}' if variant else path


def every_method() -> list[str]:
    """The recipes of all methods, on the embedded digits."""
    # Without evaluations ('eval/...') and without `dictionary`, which compares variants of one method.
    return [f'{name}:digits' for name in list_configs() if '/' not in name and name != 'dictionary']


def refuse_other_than_one_run(config: str) -> None:
    """Refuses a config whose workdir has no accuracies for a row.

    Raises:
      UserError: it is an evaluation, or describes several runs.
    """
    try:
        loaded = load(config)
    except UserError:
        return  # its training says so, and the others go on
    if 'protocol' in loaded:
        raise UserError(f'--config={config} is an evaluation', remedy='give configs of pretrainings')
    if is_group(loaded):
        raise UserError(f'--config={config} describes several runs', remedy='give configs of one run each')


def refuse_fields_of_none(configs: Sequence[str], fields: Sequence[str]) -> None:
    """Refuses fields with which no config can train; where one can, the others fail by themselves when they start.

    Raises:
      UserError: what is wrong in all configs; where that differs, what is wrong in each of them.
    """
    wrong: dict[str, list[str]] = {}
    for config in configs:
        with contextlib.suppress(UserError):  # its training says so
            loaded = load(config)
            wrong[config] = [*(override(loaded, fields, sections_of) or check_fields(loaded))]
    if not wrong or not all(wrong.values()):
        return
    first, *others = wrong.values()
    common = [problem for problem in first if all(problem in other for other in others)]
    raise UserError.of(common or [f'--config={config}: {x}' for config, found in wrong.items() for x in found])


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.compare', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--config', action='append', help='a config file with its variant; may be given several times')
    parser.add_argument(
        '--workdir', required=True, help='the folder for the workdirs of all runs, the table and the picture'
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments, trains and compares the configs, and returns the exit code."""

    def parse_and_run() -> int:
        parser = options()
        given, rest = parser.parse_known_args(argv)
        if unknown := [arg for arg in rest if not arg.startswith('--config.')]:
            parser.error(f'unexpected {" ".join(unknown)} -> set fields of the configs with --config.field=value')
        return run(given.config, given.workdir, rest)

    return exit_code_of(parse_and_run)


def run(configs: Sequence[str] | None, workdir: str, fields: Sequence[str]) -> int:
    """Trains and compares the configs, and returns the exit code.

    Raises:
      UserError: a config is not that of one pretraining, or is given twice; a field is wrong; the workdir cannot be
        written.
      Interrupted: a signal arrived.
    """
    refuse_lists(fields, 'train the runs of one config with contrastive_jax.main')
    for config in configs or ():
        refuse_other_than_one_run(config)
    configs, folder = configs or every_method(), Path(workdir).expanduser().absolute()
    names(configs)
    refuse_fields_of_none(configs, fields)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        failed = compare(configs, folder, fields)
    except OSError as error:
        raise UserError(f'cannot write to --workdir {folder}: {error.strerror}', remedy='choose another') from error
    for config in failed:
        print_error(f'{config} failed, see above -> correct it and run the same command again')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
