"""Computes the features of a data set with a trained encoder, and writes them to an .npz file.

    python -m contrastive_jax.features --workdir=runs/digits --split=test digits_test.npz
    python -m contrastive_jax.features --workdir=runs/mine --source=folder --path=~/photos photos.npz

The data is that of the run unless --source, --name or --path name other data. The file contains, for each example
once and in the order of the data: 'features' float32[n, D], 'labels' int32[n] (-1: unknown), 'index' int64[n] (the
number of the example) and 'files' str[n] (its file); and 'classes' str[C], the names of the labels, if they have names.
'inputs' is a JSON text: the run or the file of weights, the step, the data, and fingerprints of encoder and data.
Images that cannot be read are left out. All devices are used. On several hosts, start the command on each; the first
one writes.

--neighbours=3 also writes a table, photos.neighbours.csv beside photos.npz: for each example its 3 nearest others with
the cosine similarity of the features, one line for each pair: file, neighbour, similarity. Near-duplicates have a
similarity close to 1.

Exit codes: 0 written, 42 interrupted by a signal (nothing is written), 2 a mistake in the arguments, 3 a problem with
the data, 5 no checkpoint that can be read.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.data.open import SOURCES, open_source
from contrastive_jax.distributed.devices import REPLICATED, Devices, find_devices
from contrastive_jax.distributed.hosts import connect, end_alone
from contrastive_jax.distributed.stopping import heeding
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.neighbors import check_count, nearest_others
from contrastive_jax.pretrained.encoder import WEIGHTS, Encoder
from contrastive_jax.pretrained.load import load
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir.atomic import write_atomically


def extract(encoder: Encoder, source: sources.Source, devices: Devices, batch_size: int) -> dict[str, Any]:
    """Computes the arrays of the file; they are the same on every host.

    Args:
      encoder: the encoder.
      source: the data set.
      devices: the devices to use.
      batch_size: the number of images at a time, over all devices.
    """
    extractor = FeatureExtractor(
        encoder.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=batch_size
    )
    params, stats = devices.place((encoder.params, encoder.stats), REPLICATED)
    features, index = extractor(params, stats, source, np.arange(len(source)))
    labels = np.full(len(source), -1, np.int32) if source.labels is None else source.labels
    found = {
        'features': features,
        'labels': labels[index],
        'index': index.astype(np.int64),
        'files': np.array([source.file_name(i) for i in index.tolist()], dtype=str),
    }
    return found if source.classes is None else {**found, 'classes': np.array(source.classes, dtype=str)}


def inputs_of(encoder: Encoder, source: sources.Source, given: argparse.Namespace) -> dict[str, Any]:
    """What the features are computed from."""
    return {
        'encoder': str(Path(given.workdir).expanduser().absolute()),
        'step': encoder.step,
        'weights': given.weights or '',
        'encoder_fingerprint': encoder.fingerprint,
        'data': source.name,
        'split': given.split,
        'data_fingerprint': source.fingerprint,
    }


def table(features: np.ndarray, files: Sequence[str], k: int) -> bytes:
    """The table of the k nearest others of each example, as CSV: file, neighbour, similarity."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator='\n')
    lines.writerow(('file', 'neighbour', 'similarity'))
    for file, nearest, similarities in zip(files, *nearest_others(features, k), strict=True):
        lines.writerows((file, files[j], f'{x:.6f}') for j, x in zip(nearest.tolist(), similarities, strict=True))
    return text.getvalue().encode('utf-8', 'surrogateescape')  # names of files may be any bytes


def write(file: Path, content: bytes | Callable[[Path], None]) -> None:
    """Writes a file, all of it or nothing, and makes its folder if it is missing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f'cannot write {file}: {error.strerror} -> choose another file') from error


def open_data(encoder: Encoder, given: argparse.Namespace) -> sources.Source:
    """Opens the data that the command line names or, if it names none, the data of the run."""
    d = encoder.config.data
    source, name, path, white = d.source, d.name, d.path, d.get('value_range', 0.0)
    keys = d.get('image_key', ''), d.get('label_key', '')
    if given.source or given.name or given.path:
        source, name, path, white = given.source or source, given.name, given.path, given.value_range
        keys = given.image_key, given.label_key
    if not source:
        raise UserError(
            f'{given.workdir} is a file of weights, which does not record its data -> choose --source from '
            f'{", ".join(SOURCES)}'
        )
    given.split = given.split or ('train' if ':' in source else 'all')
    return open_source(source, name, path, given.split, encoder.image_size, white, encoder.channels, *keys)


def run(given: argparse.Namespace) -> None:
    """Checks the arguments, computes the features and writes them."""
    file = Path(given.file).expanduser().absolute()
    if file.suffix != '.npz':
        raise UserError(f'{given.file} is not an .npz file -> e.g. features.npz')
    for flag, least in (('batch_size', 1), ('image_size', 0), ('neighbours', 0), ('value_range', 0)):
        if (value := getattr(given, flag)) < least:
            raise UserError(f'--{flag} {value} is out of range -> it must be at least {least}')
    if given.projector_layers and (given.last_blocks != 1 or given.average_pool):
        raise UserError('--projector_layers needs the last class token -> leave out --last_blocks and --average_pool')
    connect(given.coordinator_address, given.num_processes, given.process_id)
    encoder = load(given.workdir, given.weights, given.projector_layers, encoder=given.encoder, step=given.step)
    encoder = encoder.at_size(given.image_size or encoder.image_size)
    encoder = encoder.with_tokens(given.last_blocks, given.average_pool).projected()
    source = open_data(encoder, given)
    if given.neighbours:
        check_count(given.neighbours, len(source))
    devices = find_devices('jit')
    with Interrupt() as asked, heeding(lambda: asked.requested):
        arrays = extract(encoder, source, devices, given.batch_size)
    if jax.process_index() != 0:
        return
    arrays['inputs'] = np.array(json.dumps(inputs_of(encoder, source, given)))

    def save(path: Path) -> None:
        with path.open('wb') as stream:  # given a path, numpy would append '.npz' to its name
            np.savez(stream, **arrays)

    write(file, save)
    beside = file.with_suffix('.neighbours.csv')
    if given.neighbours:
        write(beside, table(arrays['features'], arrays['files'].tolist(), given.neighbours))
    n, D = arrays['features'].shape
    left_out = len(source) - n
    origin = encoder.source if encoder.step is None else f'step {encoder.step}'
    print(
        f'wrote {file}: {n} features with {D} values of {source.name} ({given.split}), by the encoder of {origin}'
        + (f'; {left_out} of {len(source)} images could not be read and are left out' if left_out else '')
        + (f'\nwrote {beside}: the {given.neighbours} nearest others of each image' if given.neighbours else '')
    )


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.features', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('file', help='the .npz file to write')
    parser.add_argument('--workdir', required=True, help='the workdir of a run, or a file of weights')
    parser.add_argument(
        '--weights',
        choices=WEIGHTS,
        help='which network: online, the trained one, or target, its moving average; default: online for a run, and '
        'for a published checkpoint the one that its authors evaluate',
    )
    parser.add_argument('--step', default='', help='the checkpoint of the run: its step, or best; default: the newest')
    parser.add_argument(
        '--encoder',
        default='',
        help='for a file of weights: its encoder, if it cannot be detected, or if it is a class of your own: '
        'package.module:Class',
    )
    parser.add_argument(
        '--split',
        default='',
        help='the split of the data; default: all images, whatever their split (of a class of your own: train)',
    )
    parser.add_argument('--source', choices=SOURCES, default='', help='the kind of data (data.source)')
    parser.add_argument('--name', default='', help='the name of the TFDS data set (data.name)')
    parser.add_argument(
        '--path', default='', help='the file or folder, a pattern of files, or the data_dir of TFDS (data.path)'
    )
    parser.add_argument('--image_key', default='', help='with --path: where the images are (data.image_key)')
    parser.add_argument('--label_key', default='', help='with --path: where the labels are (data.label_key)')
    parser.add_argument(
        '--value_range',
        type=float,
        default=0.0,
        help='for such data: the value that is white in images of more than 8 bits (data.value_range)',
    )
    parser.add_argument(
        '--last_blocks', type=int, default=1, help='for a ViT: concatenate the class tokens of this many last blocks'
    )
    parser.add_argument(
        '--average_pool', action='store_true', help='for a ViT: also concatenate the mean of the patch tokens'
    )
    parser.add_argument(
        '--projector_layers', type=int, default=0, help='the features are the output of this many projector layers'
    )
    parser.add_argument(
        '--image_size', type=int, default=0, help='height and width of the images; 0: the size used in training'
    )
    parser.add_argument(
        '--neighbours',
        '--neighbors',
        type=int,
        default=0,
        help='also write a table of this many nearest others of each example; 0: none',
    )
    parser.add_argument('--batch_size', type=int, default=512, help='the number of images at a time, over all devices')
    parser.add_argument('--coordinator_address', help='on several hosts, as in contrastive_jax.main')
    parser.add_argument('--num_processes', type=int, help='on several hosts, as in contrastive_jax.main')
    parser.add_argument('--process_id', type=int, help='on several hosts, as in contrastive_jax.main')
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments and runs; returns the exit code."""
    return end_alone(lambda: run(options().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
