"""The same images in every kind of files: in folders, and in files of records as other libraries write them."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

CLASSES = ('cat', 'dog', 'eel')


class Example(NamedTuple):
    """An encoded image, its name without an ending, and its label."""

    name: str
    content: bytes
    label: int


def encoded(pixels: np.ndarray, form: str = 'PNG') -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def examples(split: str) -> list[Example]:
    """12 images to train with and 6 to test with, of three classes, in the order of their classes."""
    rng, n = np.random.default_rng(len(split)), {'train': 12, 'test': 6}[split]
    pictures = [rng.integers(0, 256, (9 + i % 3, 12 - i % 2, 3), np.uint8) for i in range(n)]
    return [Example(f'{i:03}', encoded(x), i * len(CLASSES) // n) for i, x in enumerate(pictures)]


def write_folder(path: Path, splits: dict[str, Sequence[Example]]) -> None:
    for split, given in splits.items():
        for example in given:
            file = path / split / CLASSES[example.label] / f'{example.name}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(example.content)


def write_tar(file: Path, members: Sequence[tuple[str, bytes]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, 'w') as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_webdataset(path: Path, splits: dict[str, Sequence[Example]]) -> None:
    """Two tar files for each split; the labels are in `.cls` members of one of them and in `.json` of the other."""
    for split, given in splits.items():
        half = len(given) // 2
        first = [m for x in given[:half] for m in ((f'{x.name}.png', x.content), (f'{x.name}.cls', b'%d\n' % x.label))]
        noted = [(x, json.dumps({'label': x.label, 'caption': ''}).encode()) for x in given[half:]]
        second = [m for x, note in noted for m in ((f'{x.name}.json', note), (f'{x.name}.png', x.content))]
        write_tar(path / f'pets-{split}-000000.tar', first)
        write_tar(path / f'pets-{split}-000001.tar', second)


def write_parquet(path: Path, splits: dict[str, Sequence[Example]]) -> None:
    """As the Hugging Face hub has them: `data/train-00000-of-00002.parquet`, here with row groups of 4 images."""
    pytest.importorskip('pyarrow')
    import pyarrow as pa
    from pyarrow import parquet

    (path / 'data').mkdir(parents=True)
    features = {'image': {'_type': 'Image'}, 'label': {'names': CLASSES, '_type': 'ClassLabel'}}
    metadata = {'huggingface': json.dumps({'info': {'features': features}})}
    for split, given in splits.items():
        for k, some in enumerate((given[: len(given) // 2], given[len(given) // 2 :])):
            pictures = [{'bytes': x.content, 'path': f'{x.name}.png'} for x in some]
            table = pa.table({'image': pictures, 'label': [x.label for x in some]}).replace_schema_metadata(metadata)
            parquet.write_table(table, path / 'data' / f'{split}-0000{k}-of-00002.parquet', row_group_size=4)


def write_huggingface(path: Path, splits: dict[str, Sequence[Example]]) -> None:
    """By the library `datasets`."""
    datasets = pytest.importorskip('datasets')
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES)))
    made = {
        split: datasets.Dataset.from_dict(
            {'image': [{'bytes': x.content, 'path': None} for x in given], 'label': [x.label for x in given]}, features
        )
        for split, given in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(path), num_shards=dict.fromkeys(splits, 2))


def write_array_record(path: Path, splits: dict[str, Sequence[Example]]) -> None:
    """Two files for each split; they have no labels."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path.mkdir(parents=True)
    for split, given in splits.items():
        for k, some in enumerate((given[: len(given) // 2], given[len(given) // 2 :])):
            writer = ArrayRecordWriter(str(path / f'{split}.array_record-0000{k}-of-00002'), 'group_size:1')
            for example in some:
                writer.write(example.content)
            writer.close()


WRITERS: dict[str, Callable[[Path, dict[str, Sequence[Example]]], None]] = {
    'webdataset': write_webdataset,
    'parquet': write_parquet,
    'huggingface': write_huggingface,
    'array_record': write_array_record,
}
