"""Writes a cache of resized images, for those who train long on large photos.

    python -m contrastive_jax.prepare --config.data.source=folder --config.data.path=~/photos --out=photos_256
    python -m contrastive_jax.main --config=configs/mocov2.py:folder --workdir=runs/photos \\
        --config.data.source=array_record --config.data.path=photos_256

The data is given as in a run. Both splits are written, with their labels, in the order of the data. Images whose
shorter side is larger than --size are resized to it and lose resolution, which the command says in numbers. They are
stored uncompressed, or as JPEG with --quality=95, in about a quarter of the space. The same command goes on where it
was stopped or killed. A folder that holds something else is refused.

Exit codes: 0 written, 42 interrupted by a signal (the same command goes on), 2 a mistake in the arguments, 3 a problem
with the data, 5 the disk is full.
"""

import argparse
import contextlib
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive_jax.data import cache
from contrastive_jax.data.encoded import evenly
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.open import SOURCES, open_source, summary
from contrastive_jax.data.sources import Source, check_apart
from contrastive_jax.distributed.hosts import end_alone
from contrastive_jax.errors import Interrupted, MissingSplitError, UserError
from contrastive_jax.training.interrupt import Interrupt

SAMPLED = 256  # images whose size is read, for the line about lost resolution


def loss_of_resolution(source: Source, size: int) -> str:
    """A line about how many images are resized, by how much, and what it means for crops.

    Args:
      source: the images.
      size: the shorter side that larger images get, in pixels.
    """
    sides = []
    for i in evenly(len(source), SAMPLED):
        try:
            sides.append(min(source.stored_size(i)))
        except ImageError:
            continue
    larger = [side for side in sides if side > size]
    if not larger:
        return f'no resolution is lost: none of {len(sides):,} sampled images has a shorter side above {size} px'
    side = round(0.08**0.5 * size)
    return (
        f'resolution is lost: {len(larger) / len(sides):.0%} of {len(sides):,} sampled images are larger, with shorter '
        f'sides of {statistics.median(larger):.0f} px (median) that become {size}; a crop of 8 % of the area has about '
        f'{side} px then, and is enlarged to the size of a view'
    )


def run(given: argparse.Namespace) -> int:
    """Checks the arguments and writes the cache. Returns the exit code."""
    for flag, value, least, most in (('size', given.size, 1, 1 << 14), ('quality', given.quality, 0, 100)):
        if not least <= value <= most:
            raise UserError(f'--{flag} {value} is out of range -> give {least} to {most}')
    folder = Path(given.out).expanduser().absolute()
    keys = given.image_key, given.label_key
    place = given.source, given.name, given.path

    def opened(split: str) -> Source:
        source = open_source(*place, split, given.size, given.value_range, given.channels, *keys)
        cache.check_kind(source)
        return source

    splits = {'train': opened(given.split)}
    with contextlib.suppress(MissingSplitError):
        splits['test'] = opened(given.eval_split)
        check_apart(splits['train'], splits['test'], given.split, given.eval_split)  # a training cannot tell any more
    print(summary(splits['train'], splits.get('test')), flush=True)
    print(loss_of_resolution(splits['train'], given.size), flush=True)
    cache.plan(folder, splits, given.size, given.quality)
    with Interrupt() as interrupt:

        def check() -> None:
            if interrupt.requested:
                raise Interrupted(f'{interrupt.requested}; complete files stay, the same command goes on from there')

        unreadable = 0
        for name, source in splits.items():
            unreadable += cache.write(
                folder, name, source, given.size, given.quality, say=lambda line: print(line, flush=True), check=check
            )
    if unreadable:
        print(f'{unreadable:,} images cannot be read; their records are empty, and a training skips them')
    print(f'train with --config.data.source=array_record --config.data.path={given.out}')
    return 0


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.prepare', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--out', required=True, help='the folder of the cache')
    parser.add_argument('--size', type=int, default=256, help='the shorter side of larger images; default: 256')
    parser.add_argument('--quality', type=int, default=0, help='of JPEG files, 1 to 100; default: 0, uncompressed')
    text = {
        'source': ('', f'kind of the data: {", ".join(SOURCES)}, or package.module:Class'),
        'name': ('', 'name of the TFDS data set'),
        'path': ('', 'the file or folder of the data, or a pattern of files'),
        'split': ('train', "becomes the split 'train'; default: train"),
        'eval_split': ('test', "becomes the split 'test'; default: test"),
        'image_key': ('', 'column or ending of the images'),
        'label_key': ('', 'column, ending or key of the labels'),
    }
    for field, (default, meaning) in text.items():
        parser.add_argument(
            f'--config.data.{field}', dest=field, default=default, required=field == 'source', help=meaning
        )
    parser.add_argument(
        '--config.data.value_range', dest='value_range', type=float, default=0.0, help='white of deep images'
    )
    parser.add_argument('--config.data.channels', dest='channels', type=int, default=0, help='1 keeps gray images gray')
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments, runs the command, and returns the exit code."""
    return end_alone(lambda: run(options().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
