"""The page of an ablation: question, what the paper saw, what was seen here, picture and table, in one file."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from contrastive_jax.ablate.ablations import Ablation
from contrastive_jax.ablate.runs import Result
from contrastive_jax.evaluate.verdict import LEAST_STD, MARGIN
from contrastive_jax.plots import ablations as pictures
from contrastive_jax.workdir.atomic import write_atomically

# metric -> what it says
SIGNALS = {
    'feature_std': 'feature_std is the spread of the normalized projections at the end: 1 if they are spread over the '
    'sphere, 0 if those of all images are equal.',
    'grad_norm': 'grad_norm is the norm of the gradient of the last step.',
    'teacher_entropy': 'teacher_entropy is the entropy of the outputs of the teacher at the end, relative to the '
    'largest: 0 if each is one class, 1 if each is uniform.',
}
PAGE, TABLE, PICTURE = 'ablation.html', 'ablation.md', 'ablation.png'  # files in the folder of an ablation


def write(ablation: Ablation, results: Sequence[Result], folder: Path, command: str, data: str) -> None:
    """Writes the page, the table and the picture.

    Args:
      ablation: the ablation.
      results: the results of the runs so far.
      folder: the folder of the ablation.
      command: the command that repeats it.
      data: the name of the data.
    """
    rows = table(ablation, results)
    accuracies = {arm.name: [100 * r.knn for r in completed(results, arm.name)] for arm in ablation.arms}
    places = {arm.name: arm.place for arm in ablation.arms}
    untrained = [100 * r.untrained for r in results if math.isfinite(r.untrained)]
    mean = float(np.mean(untrained or math.nan))
    pictures.draw(ablation.picture, accuracies, places, folder / PICTURE, mean, ablation.axis)
    write_atomically(folder / TABLE, markdown(rows).encode())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('contrastive_jax.ablate', ''), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template('page.html').render(
        ablation=ablation,
        sentences=sentences(ablation, results),
        header=rows[0],
        rows=rows[1:],
        picture=base64.b64encode((folder / PICTURE).read_bytes()).decode(),
        signal=SIGNALS.get(ablation.signal, ''),
        command=command,
        data=data,
    )
    write_atomically(folder / PAGE, html.encode())


def completed(results: Sequence[Result], arm: str) -> list[Result]:
    """The results of the runs of an arm that did not fail."""
    return [result for result in results if result.arm == arm and not result.error]


def table(ablation: Ablation, results: Sequence[Result]) -> list[list[str]]:
    """The header, and a row for each arm: mean of the seeds and, of several, the lowest and the highest; in percent."""
    header = ['', 'runs', 'kNN', 'untrained', 'linear probe', 'largest fall of kNN']
    header += [ablation.signal] if ablation.signal else []
    rows = [header]
    for arm in ablation.arms:
        runs = completed(results, arm.name)
        failed = [r for r in results if r.arm == arm.name and r.error]
        count = str(len(runs)) + (f', {len(failed)} failed' if failed else '')
        cells = [percent([getattr(r, name) for r in runs]) for name in ('knn', 'untrained', 'probe', 'dip')]
        signal = [r.signal for r in runs if math.isfinite(r.signal)]
        cells += [f'{np.mean(signal):.3g}' if signal else 'not measured'] if ablation.signal else []
        rows.append([arm.name, count, *cells])
    return rows


def percent(values: Sequence[float]) -> str:
    """'96.8 (95.6 to 98.3)' of values in [0, 1]."""
    finite = [100 * x for x in values if math.isfinite(x)]
    if not finite:
        return 'not measured'
    spread = f' ({min(finite):.1f} to {max(finite):.1f})' if len(finite) > 1 else ''
    return f'{np.mean(finite):.1f}{spread}'


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table; the first one is the header."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]]) + '\n'


def sentences(ablation: Ablation, results: Sequence[Result]) -> list[str]:
    """What the results say: the best arm and whether its range overlaps with the next; what is below its untrained
    encoder, what collapsed and what failed."""
    accuracies = {
        arm.name: [r.knn for r in completed(results, arm.name) if math.isfinite(r.knn)] for arm in ablation.arms
    }
    measured = {name: values for name, values in accuracies.items() if values}
    found = []
    if len(measured) > 1:
        order = sorted(measured, key=lambda name: float(np.mean(measured[name])), reverse=True)
        best, second, worst = order[0], order[1], order[-1]
        high, low = percent(measured[best]), percent(measured[worst])
        if high == low:
            found.append(f'All arms have the same kNN accuracy, {high} %.')
        else:
            found.append(f'Highest kNN accuracy: {best}, {high} %; lowest: {worst}, {low} %.')
        if min(map(len, measured.values())) < 2:
            found.append('Each arm was run once, so a small difference says nothing: give several seeds.')
        elif min(measured[best]) <= max(measured[second]):
            found.append(f'The runs of {best} and of {second} overlap: their order is not certain.')
    for arm in ablation.arms:
        runs = completed(results, arm.name)
        if runs and all(r.knn < r.untrained - MARGIN for r in runs):
            values = f'{percent([r.knn for r in runs])} % against {percent([r.untrained for r in runs])} %'
            found.append(f'Below its untrained encoder in every run: {arm.name}, kNN {values}.')
        if collapsed := [str(r.seed) for r in runs if r.collapsed]:
            seeds = f'with seed {" and ".join(collapsed)}' if len(collapsed) < len(runs) else 'in every run'
            found.append(f'Collapsed {seeds}: {arm.name}. The features of all images are nearly the same.')
        elif runs and ablation.signal == 'feature_std' and all(r.signal < LEAST_STD for r in runs):
            found.append(
                f'The projections of all images are nearly the same: {arm.name}. The features of the encoder are not.'
            )
    found += [f'Failed: {r.arm}, seed {r.seed}, {r.error}' for r in results if r.error]
    return found or ['Nothing was measured yet.']
