"""Writes the features of a data set, made by the trained encoder of a run, to an .npz file.

    python -m contrastive_jax.features --workdir=runs/digits --split=test digits_test.npz
    python -m contrastive_jax.features --workdir=runs/mine --source=folder --path=~/photos photos.npz

The data is that of the run unless --source, --name or --path say otherwise. The file holds, in the order of the data,
each example once: 'features' float32[n, D], 'labels' int32[n] (-1: unknown), 'index' int64[n] (number of the example),
'files' str[n] (where it lies) and 'classes' str[C] (names of the labels, if they have any). Images that cannot be read
are left out. All devices are used; on several hosts start it on each: the first one writes.

Exit codes: 0 written, 2 a mistake in what was given, 3 a problem of the data, 5 no checkpoint that can be read.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.data.open import SOURCES, open_source
from contrastive_jax.distributed.devices import REPLICATED, Devices, find_devices
from contrastive_jax.distributed.hosts import connect
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.pretrained.encoder import WEIGHTS, Encoder, load_encoder


def extract(encoder: Encoder, source: sources.Source, devices: Devices, batch_size: int) -> dict[str, Any]:
    """The arrays of the file; the same on every host."""
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


def write(arrays: dict[str, Any], file: Path) -> None:
    """Writes the file whole or not at all."""
    part = file.with_name(f'{file.name}.part')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open('wb') as stream:
            np.savez(stream, **arrays)
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f'cannot write {file}: {error.strerror} -> choose another file') from error


def open_data(encoder: Encoder, given: argparse.Namespace) -> sources.Source:
    """The data of the run, or what the command line names instead."""
    d = encoder.config.data
    source, name, path = d.source, d.name, d.path
    if given.source or given.name or given.path:
        source, name, path = given.source or source, given.name, given.path
    if not source:
        raise UserError(
            f'{given.workdir} is a file of weights, which says nothing of data -> name some: '
            f'--source={"|".join(SOURCES)}'
        )
    return open_source(source, name, path, given.split, encoder.image_size)


def run(given: argparse.Namespace) -> None:
    """The command."""
    file = Path(given.file).expanduser().absolute()
    if file.suffix != '.npz':
        raise UserError(f'{given.file} is not an .npz file -> e.g. features.npz')
    for flag, least in (('batch_size', 1), ('image_size', 0)):
        if (value := getattr(given, flag)) < least:
            raise UserError(f'--{flag} {value} is out of range -> it must be at least {least}')
    if given.projector_layers and (given.last_blocks != 1 or given.average_pool):
        raise UserError('--projector_layers takes the last class token -> without --last_blocks and --average_pool')
    connect(given.coordinator_address, given.num_processes, given.process_id)
    encoder = load_encoder(given.workdir, given.weights, given.projector_layers)
    encoder = encoder.at_size(given.image_size or encoder.image_size)
    encoder = encoder.with_tokens(given.last_blocks, given.average_pool).projected()
    source = open_data(encoder, given)
    devices = find_devices('jit')
    arrays = extract(encoder, source, devices, given.batch_size)
    if jax.process_index() != 0:
        return
    write(arrays, file)
    n, D = arrays['features'].shape
    left_out = len(source) - n
    print(
        f'{n} features of {D} numbers, of {source.name} ({given.split}), by the encoder of step {encoder.step}: {file}'
        + (f'; {left_out} of {len(source)} images could not be read and are left out' if left_out else '')
    )


def main(argv: Sequence[str]) -> int:
    """Parses and runs; returns the exit code."""
    parser = argparse.ArgumentParser('contrastive_jax.features', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('file', help='what is written: an .npz file')
    parser.add_argument('--workdir', required=True, help='of the run whose encoder it is, or a file of weights')
    parser.add_argument('--split', default='train', help='of the data; default: train')
    parser.add_argument('--source', choices=SOURCES, default='', help='of the data')
    parser.add_argument('--name', default='', help='of the TFDS data set')
    parser.add_argument('--path', default='', help='the .npz file, the image folder, or the TFDS data_dir')
    parser.add_argument('--weights', choices=tuple(WEIGHTS), default='online', help="target: the moving average's")
    parser.add_argument('--last_blocks', type=int, default=1, help='of a ViT: class tokens of so many blocks, joined')
    parser.add_argument('--average_pool', action='store_true', help='of a ViT: and the mean of its patch tokens')
    parser.add_argument('--projector_layers', type=int, default=0, help='what comes out of so many of them')
    parser.add_argument('--image_size', type=int, default=0, help='of the images; 0: what it was trained with')
    parser.add_argument('--batch_size', type=int, default=512, help='images at a time, over all devices')
    parser.add_argument('--coordinator_address', help='on several hosts, as in contrastive_jax.main')
    parser.add_argument('--num_processes', type=int)
    parser.add_argument('--process_id', type=int)
    try:
        run(parser.parse_args(argv))
    except UserError as error:
        for line in str(error).splitlines():
            # What opens data names the flags of training.
            print(f'contrastive_jax: error: {line.replace("--config.data.", "--")}', file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
