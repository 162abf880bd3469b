"""Columns of Parquet files and of saved data sets: which are read, and what their values become."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import parquet
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.errors import DataError, UserError
from tests.data.record_files import CLASSES, encoded, examples, write_huggingface

PICTURES = [encoded(np.full((4, 5, 3), i, np.uint8)) for i in range(12)]


def write(path: Path, row_group_size: int = 100, **columns: Any) -> Path:
    """A Parquet file."""
    pa = pytest.importorskip('pyarrow')
    from pyarrow import parquet as files

    files.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def opened(path: Path, split: str = 'all', kind: str = 'parquet', **keys: str) -> Any:
    return open_source(kind, path=str(path), split=split, **keys)


@pytest.mark.parametrize(('kind', 'file'), [('parquet', 'a.parquet'), ('huggingface', 'state.json')])
def test_pyarrow_is_missing(kind: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / file).write_text(json.dumps({'_data_files': [{'filename': 'a.arrow'}]}))
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(DataError, match=r"needs pyarrow .* -> pip install 'contrastive_jax\[arrow\]'") as raised:
        opened(tmp_path, kind=kind)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ('labels', 'expected', 'classes'),
    [
        ([2, 0, None, 1], [2, 0, -1, 1], None),
        (['dog', 'cat', 'cat', None], [1, 0, 0, -1], ('cat', 'dog')),
        (['7', '3', '3', '10'], [7, 3, 3, 10], None),
        ([True, False, True, True], [1, 0, 1, 1], None),
        ([1.0, None, 0.0, 2.0], [1, -1, 0, 2], None),
        ([2**40, 5, 5, 2**40], [1, 0, 0, 1], ('5', str(2**40))),
        ([0.5, 1, 2, 3], None, None),
    ],
)
def test_labels(labels: list, expected: list | None, classes: tuple | None, tmp_path: Path) -> None:
    source = opened(write(tmp_path / 'x.parquet', img=PICTURES[:4], target=labels))
    assert (None if source.labels is None else source.labels.tolist()) == expected and source.classes == classes
    said = 'skipped: 4 labels that are not one class for each image'
    assert (said in summary(source, None)) == (expected is None)


def test_names_are_numbered_alike_in_all_splits(tmp_path: Path) -> None:
    write(tmp_path / 'train.parquet', image=PICTURES[:2], label=['dog', 'cat'])
    write(tmp_path / 'validation.parquet', image=PICTURES[2:4], label=['eel', 'dog'])
    write(tmp_path / 'extra-00000-of-00001.parquet', image=PICTURES[4:5], label=['ant'])
    sources = [opened(tmp_path, split) for split in ('train', 'test', 'extra')]
    assert [source.labels.tolist() for source in sources] == [[2, 1], [3, 2], [0]]
    assert all(source.classes == ('ant', 'cat', 'dog', 'eel') for source in sources)


def test_several_columns(tmp_path: Path) -> None:
    file = write(tmp_path / 'x.parquet', left=PICTURES[:2], right=PICTURES[2:4], coarse=[0, 1], fine=[2, 3])
    with pytest.raises(UserError, match=r'has 2 columns of images: left, right -> set data.image_key') as raised:
        opened(file)
    assert (raised.value.field, raised.value.value) == ('data.image_key', 'left')
    source = opened(file, image_key='right', label_key='fine')
    assert source.image(0)[0, 0, 0] == 2 and source.labels.tolist() == [2, 3]
    assert source.place == '1 Parquet file, columns right and fine'
    assert opened(file, image_key='right').labels is None
    with pytest.raises(UserError, match=r"no column 'rihgt' -> choose from left, right, coarse, fine"):
        opened(file, image_key='rihgt')
    with pytest.raises(UserError, match=r"column 'left' is binary, not one class"):
        opened(file, image_key='right', label_key='left')
    with pytest.raises(UserError, match=r'no column of encoded images: text \(string\) -> set data.image_key'):
        opened(write(tmp_path / 'y.parquet', text=['a']))
    with pytest.raises(UserError, match=r"data.label_key 'x' is not used by data.source 'folder', only by hugg"):
        opened(tmp_path, kind='folder', label_key='x')


def test_paths_of_images(tmp_path: Path) -> None:
    """Relative ones start from the folder of the data; nothing is downloaded."""
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / '9.png')
    paths = ['9.png', str(tmp_path / '9.png'), 'https://x/9.png', 'none.png', None]
    source = opened(write(tmp_path / 'x.parquet', image=[{'bytes': None, 'path': path} for path in paths]))
    assert source.image(0)[0, 0, 0] == source.image(1)[0, 0, 0] == 9
    for i, message in (
        (2, 'https://x/9.png is not a local path'),
        (3, 'No such file'),
        (4, 'neither bytes nor a path'),
    ):
        with pytest.raises(ImageError, match=message):
            source.image(i)
    mixed = opened(write(tmp_path / 'y.parquet', image=[{'bytes': PICTURES[3], 'path': 'none.png'}]))
    assert mixed.image(0)[0, 0, 0] == 3


def test_row_groups_in_memory_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = [np.random.default_rng(i).bytes(1000) for i in range(40)]
    path = write(tmp_path / 'x.parquet', row_group_size=4, image=noise)
    source = opened(path)
    assert not source.remarks
    monkeypatch.setattr(parquet, 'KEPT_BYTES', 10_000)
    monkeypatch.setattr(parquet, 'SLOW_BYTES', 1000)
    again = pickle.loads(pickle.dumps(source))
    for i in [*range(40), *range(39, -1, -1)]:
        assert again.encoded(i) == noise[i]
        assert len(again._records._kept) <= 2
    assert source.file_name(17) == f'{path}[17]'
    assert opened(path).remarks[-1].startswith('warning: each image takes reading a row group of 4 images')


def test_a_damaged_row_group_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / 'x.parquet', row_group_size=4, image=PICTURES, label=[0] * 12)
    source = opened(path)
    content = bytearray(path.read_bytes())
    content[4:40] = b'\xff' * 36
    path.write_bytes(content)
    damaged = opened(path)
    assert damaged.image(11)[0, 0, 0] == source.image(11)[0, 0, 0] == 11
    with pytest.raises(ImageError, match='row group 0'):
        damaged.image(0)


def test_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip('datasets')
    write_huggingface(tmp_path / 'pets', {'train': examples('train')})
    loaded = datasets.load_from_disk(str(tmp_path / 'pets'))['train']
    chosen = loaded.shuffle(seed=0).select(range(7))
    chosen.save_to_disk(str(tmp_path / 'chosen'))
    source = opened(tmp_path / 'chosen', kind='huggingface')
    assert source.classes == CLASSES and source.labels.tolist() == chosen['label'][:]
    for i, example in enumerate(chosen):
        np.testing.assert_array_equal(source.image(i), np.asarray(example['image']))
    (tmp_path / 'mine' / 'a').mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / 'mine' / 'a' / '9.png')
    files = datasets.Dataset.from_dict({'image': [str(tmp_path / 'mine' / 'a' / '9.png')]})
    files.cast_column('image', datasets.Image()).save_to_disk(str(tmp_path / 'files'))
    assert opened(tmp_path / 'files', kind='huggingface').image(0)[0, 0, 0] == 9
    chosen.to_parquet(str(tmp_path / 'chosen.parquet'))
    again = opened(tmp_path / 'chosen.parquet')
    assert again.classes == CLASSES and all((again.image(i) == source.image(i)).all() for i in range(7))
    state = json.loads((tmp_path / 'chosen' / 'state.json').read_text())
    (tmp_path / 'chosen' / 'state.json').write_text(json.dumps(state | {'_indices_data_files': [{'filename': 'x'}]}))
    with pytest.raises(DataError, match='refers to rows of other files'):
        opened(tmp_path / 'chosen', kind='huggingface')
    with pytest.raises(DataError, match=r"neither dataset_dict.json nor state.json; data.source 'parquet' reads these"):
        opened(tmp_path, kind='huggingface')


def test_records_of_tensorflow_are_refused(tmp_path: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / 'x.array_record'), 'group_size:1')
    for i in range(3):
        writer.write(b'\x0a\x10\x0a\x0e\x0a\x05label\x12\x05\x1a\x03\x0a\x01' + bytes([i]))
    writer.close()
    with pytest.raises(DataError, match=r'are not encoded images -> .* tf.train.Example.* set data.source to tfds'):
        opened(tmp_path, kind='array_record')
