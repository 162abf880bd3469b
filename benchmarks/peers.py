"""The CPU time of our work beside that of PyTorch, torchvision, lightly, faiss and scikit-learn, on one core.

    taskset -c 0 python -m benchmarks.peers                                # all rows but `jpeg`
    taskset -c 0 python -m benchmarks.peers knn jpeg --photos=FOLDER       # some of them
    python -m benchmarks.peers --table=FILE                                # of what --json has written

benchmarks/README.md says how to install the peers, what is compared, and has the results.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Threads of one side that wait must not use the time of the other side.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from benchmarks import peers_evaluation, peers_input, peers_training
from benchmarks.sides import Row, Setting, measure, table
from contrastive_jax.errors import UserError
from contrastive_jax.workdir import about

PACKAGES = ('jax', 'torch', 'torchvision', 'lightly', 'timm', 'faiss-cpu', 'scikit-learn', 'pillow', 'numpy')

ROWS = {
    'mocov2': Row(
        'step of MoCo v2, ResNet-18, 32 px', 'an image', {'PyTorch eager': 1.05, 'lightly': 1.05}, peers_training.mocov2
    ),
    'simclr': Row(
        'step of SimCLR, ResNet-18, 32 px', 'an image', {'PyTorch eager': 1.05, 'torch.compile': 1.0},
        peers_training.simclr,
    ),
    'mocov3': Row('step of MoCo v3, ViT-Ti, 96 px', 'an image', {'PyTorch eager': 1.3}, peers_training.mocov3),
    'jpeg': Row('JPEG to two crops', 'a photo', {'torchvision': 5.5}, peers_input.jpeg),
    'views224': Row('two views, 224 px', 'an image', {'torchvision': 1.0}, peers_input.views_of_photos),
    'views32': Row('two views, 32 px', 'an image', {'torchvision': 9.0}, peers_input.views_of_small_images),
    'knn': Row(
        'weighted kNN, 50,000 x 512', 'a query', {'torch': 1.2, 'faiss-cpu': 1.2}, peers_evaluation.knn
    ),
    'features': Row('features, ResNet-18, 32 px', 'an image', {'torch': 1.1}, peers_evaluation.features),
    'probe': Row('linear probe, 10,000 x 512', 'a fit', {'scikit-learn': 1.0}, peers_evaluation.probe),
    'checkpoint': Row('checkpoint of MoCo v2', 'a save', {'torch.save': 0.5}, peers_evaluation.checkpoint),
    'start': Row('warm start of two steps', 'a command', {'before': 1 / 0.35}, peers_training.start),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the rows that are named, or prints the table of those that were measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'of {", ".join(ROWS)}; default: all that are possible')
    parser.add_argument('--windows', type=int, default=7, help='interleaved measurements of each side')
    parser.add_argument('--photos', type=Path, metavar='FOLDER', help='a folder of photos, for `jpeg`')
    parser.add_argument('--before', type=Path, metavar='CHECKOUT', help='an older checkout, for `start`')
    parser.add_argument('--json', metavar='FILE', help='append a line for each row to this file')
    parser.add_argument('--table', metavar='FILE', help='print the table of the lines of this file, and exit')
    args = parser.parse_args(argv)
    if args.table:
        print(table([json.loads(line) for line in Path(args.table).read_text(encoding='utf-8').splitlines()]))
        return
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f'no row {unknown[0]!r} -> choose from {", ".join(ROWS)}')
    if args.windows < 1:
        parser.error(f'--windows {args.windows} -> it must be at least 1')
    if (cores := len(os.sched_getaffinity(0))) > 1:
        parser.error(f'{cores} cores, and threads that wait for one another use CPU time -> begin with `taskset -c 0`')
    rows = args.rows or [name for name in ROWS if name != 'jpeg' or args.photos]
    print(f'{platform.machine()}, one core of {processor()}; {versions()}; n = {args.windows}', flush=True)
    found = []
    for name in rows:
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(Path(folder), args.photos, args.before and args.before.resolve())
            try:
                line = line_of(ROWS[name], measure(ROWS[name].make(setting), args.windows))
            except UserError as error:
                parser.error(f'{name}: {error}')
        print(f'{name}: measured', file=sys.stderr, flush=True)
        found.append(line)
        if args.json:
            with open(args.json, 'a', encoding='utf-8') as file:
                file.write(json.dumps(line) + '\n')
    print(table(found))


def line_of(row: Row, measured: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a row."""
    return {
        'work': row.work,
        'item': row.item,
        'goals': dict(row.goals),
        **measured,
        'processor': processor(),
        'versions': versions(),
        'commit': about.commit(),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': shlex.join(['python', '-m', 'benchmarks.peers', *sys.argv[1:]]),
    }


def processor() -> str:
    """The name of the processor, as Linux tells it."""
    file = Path('/proc/cpuinfo')
    lines = file.read_text(encoding='utf-8').splitlines() if file.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def versions() -> str:
    """The versions of the packages that are installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f'{name} {importlib.metadata.version(name)}')
        except importlib.metadata.PackageNotFoundError:
            continue
    return ', '.join(found)


if __name__ == '__main__':
    main()
