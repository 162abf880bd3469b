"""What a cache of `contrastive_jax.prepare` saves: CPU time of one thread from a stored photo to two crops.

    python -m benchmarks.cache FOLDER [--size 256] [--windows 9]

FOLDER holds photos, as `config.data.path` of the source `folder`. Two caches of it are written to a temporary folder
and measured in interleaved windows beside the photos themselves.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Spread
from contrastive_jax.data import cache, images
from contrastive_jax.data.open import open_source
from contrastive_jax.data.sources import Source

SIZE, SCALE = 224, (0.2, 1.0)  # of the crops


def to_crops(source: Source, crops: int) -> float:
    """CPU milliseconds an image: reading, decoding and `crops` random crops."""
    rng, began = np.random.default_rng(0), time.thread_time()
    for i in range(len(source)):
        picture = source.image(i)
        for _ in range(crops):
            images.random_resized_crop(picture, rng, SIZE, SCALE)
    return 1e3 * (time.thread_time() - began) / len(source)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='a folder of photos')
    parser.add_argument('--size', type=int, default=256, help='the shorter side in the cache')
    parser.add_argument('--windows', type=int, default=9, help='interleaved measurements')
    args = parser.parse_args(argv)
    photos = open_source('folder', path=str(args.folder), split='all')
    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, tuple[Source, float]] = {
            'the photos': (photos, sum(os.path.getsize(photos.file_name(i)) for i in range(len(photos))))
        }
        for name, quality in (('cache, uncompressed', 0), ('cache, --quality=95', 95)):
            out = Path(folder) / str(quality)
            cache.plan(out, {'train': photos}, args.size, quality)
            cache.write(out, 'train', photos, args.size, quality, say=lambda _: None)
            size = sum(file.stat().st_size for file in out.glob('*.array_record*'))
            measured[name] = open_source('array_record', path=str(out), split='all'), size
        for crops in (0, 2):
            found: dict[str, list[float]] = {name: [] for name in measured}
            for _ in range(args.windows):
                for name, (source, _) in measured.items():
                    found[name].append(to_crops(source, crops))
            print(f'\n{len(photos)} photos, {crops} crops, n = {args.windows}; median [minimum, maximum]')
            print('| | CPU ms an image | photos / it | kB an image |\n|---|---|---|---|')
            for name, ms in found.items():
                ratio = np.array(found['the photos']) / ms
                text = [f'{s.median:.2f} [{s.low:.2f}, {s.high:.2f}]' for s in (Spread.of(ms), Spread.of(ratio))]
                print(f'| {name} | {text[0]} | {text[1]} | {measured[name][1] / len(photos) / 1e3:.0f} |')


if __name__ == '__main__':
    main()
