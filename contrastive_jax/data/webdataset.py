"""Tar files in the WebDataset format: samples of members with the same name, such as 0001.jpg and 0001.cls.

They are not streamed: an index says where each image lies (`tar_index`), so order and resume are exact, as for other
data, and any number of hosts and processes reads the same files.
"""

import os
import re
from concurrent import futures
from pathlib import Path

import numpy as np

from contrastive_jax.data import tar_index
from contrastive_jax.data.encoded import Records, RecordSource
from contrastive_jax.data.files import by_split, find_files
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.parts import Part, open_split

ENDING = re.compile(r'\.tar$')
UNPACK = {'gz': 'gunzip', 'bz2': 'bunzip2', 'xz': 'unxz', 'zst': 'unzstd'}
REFUSED = {
    **{
        f'.tar.{ending}': f'unpack it to an uncompressed .tar file: {command} FILE'
        for ending, command in UNPACK.items()
    },
    '.tgz': 'unpack it to an uncompressed .tar file: gunzip FILE',
}
THREADS = 16  # that read headers of tar files: for buckets, each read takes long


class TarRecords(Records):
    """The images in tar files.

    Args:
      files: the files.
      indices: the index of each file.
    """

    def __init__(self, files: list[str], indices: list[tar_index.TarIndex]):
        self._files = files
        self._file = np.repeat(np.arange(len(files), dtype=np.int32), [len(index.sizes) for index in indices])
        self._names, self._offsets, self._sizes = (
            np.concatenate([getattr(index, field) for index in indices]) for field in ('names', 'offsets', 'sizes')
        )

    def __len__(self) -> int:
        return len(self._sizes)

    def encoded(self, i: int) -> bytes:
        size = int(self._sizes[i])
        try:
            with open(self._files[self._file[i]], 'rb', buffering=0) as stream:
                stream.seek(int(self._offsets[i]))
                content = stream.read(size)
        except OSError as error:
            raise ImageError(str(error)) from error
        if len(content) < size:
            raise ImageError(f'only {len(content)} of {size} bytes can be read')
        return content

    def file_name(self, i: int) -> str:
        return f'{self._files[self._file[i]]}[{os.fsdecode(bytes(self._names[i]))}]'

    def layout(self) -> bytes:
        return self._names.tobytes() + self._sizes.tobytes()


def load(
    path: Path,
    split: str,
    image_size: int,
    value_range: float = 0,
    channels: int = 0,
    image_key: str = '',
    label_key: str = '',
) -> RecordSource:
    """Opens one split of tar files.

    Args:
      path: a file, a folder, a pattern or a sequence in braces, see `files`.
      split: 'train', the evaluation split by any of its names, or 'all'.
      image_size, value_range: see `open_source`.
      channels: 1 for gray; 0 or 3: RGB.
      image_key, label_key: see `tar_index.read`.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: there are no tar files, or one of them cannot be read.
      MissingSplitError: the data has no images for evaluation.
    """
    root, files, others = find_files(path, ENDING, 'tar files', REFUSED)
    splits, beside = by_split(path, files)
    parts = []
    with futures.ThreadPoolExecutor(THREADS) as threads:
        for name, members in splits.items():
            whole = [os.path.join(root, file) for file in members]
            indices = list(threads.map(lambda file: tar_index.read(file, image_key, label_key), whole))
            labels = np.concatenate([index.labels for index in indices])
            known = bool((labels != '').any())
            place = f'{len(whole):,} tar file{"s" * (len(whole) > 1)}'
            part = Part(name, TarRecords(whole, indices), labels if known else None, place)
            for index in indices:
                part.skipped.update(index.skipped)
            parts.append(part)
    return open_split(
        parts,
        split,
        path=path,
        image_size=image_size,
        value_range=value_range,
        channels=channels,
        skipped=others + beside,
        evaluation='files named test-*.tar',
    )
