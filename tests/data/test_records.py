"""Every kind of files of records gives what image folders give: images, labels, order, crops and fingerprints."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contrastive_jax.data import facts, images
from contrastive_jax.data.loader import train_batches
from contrastive_jax.data.open import SOURCES, open_source, summary
from contrastive_jax.data.sources import Source, check_apart
from contrastive_jax.errors import DataError, UserError
from tests.data.record_files import CLASSES, WRITERS, Example, encoded, examples, write_folder

SPLITS = {split: examples(split) for split in ('train', 'test')}
FILES = {'webdataset': 'tar', 'parquet': 'Parquet', 'array_record': 'array_record'}


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('records')
    write_folder(folder / 'folder', SPLITS)
    return folder


@pytest.fixture(params=sorted(WRITERS))
def kind(request: pytest.FixtureRequest, written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The kind of data; it is in the folder of this name."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    if not (written / request.param).exists():
        WRITERS[request.param](written / request.param, SPLITS)
    return request.param


def opened(kind: str, path: Path, split: str = 'train', size: int = 8) -> Source:
    return open_source(kind, 'cifar10', str(path), split, size)


def test_every_kind_of_files_is_tested() -> None:
    assert {'digits', 'npz', 'folder', 'tfds', *WRITERS} == set(SOURCES)


def test_images_and_labels_are_those_that_were_written(kind: str, written: Path) -> None:
    for split, given in SPLITS.items():
        source = opened(kind, written / kind, split)
        assert len(source) == len(given) and source.name == kind and source.array is None
        for i, example in enumerate(given):
            np.testing.assert_array_equal(source.image(i), images.decode(example.content))
            assert source.stored_size(i) == source.image(i).shape[:2]
        labels = None if kind == 'array_record' else [example.label for example in given]
        assert (None if source.labels is None else source.labels.tolist()) == labels
        assert source.label(3) == (-1 if labels is None else labels[3])
        assert source.classes == (CLASSES if kind in ('parquet', 'huggingface') else None)
    everything = opened(kind, written / kind, 'all')
    contents = [example.content for split in sorted(SPLITS) for example in SPLITS[split]]
    if kind == 'huggingface':  # the order of dataset_dict.json
        contents = [example.content for split in SPLITS for example in SPLITS[split]]
    for i, content in enumerate(contents):
        np.testing.assert_array_equal(everything.image(i), images.decode(content))


def test_crops_are_those_of_a_folder_on_one_host_and_on_two(kind: str, written: Path) -> None:
    def crops(source: Source, process: int = 0, of: int = 1) -> list[np.ndarray]:
        given = {'seed': 3, 'batch_size': 4, 'image_size': 6, 'num_views': 2, 'start_step': 1, 'stop_step': 5}
        batches = train_batches(source, **given, process_index=process, process_count=of)
        return [np.stack([*batch['crops']]) for batch in batches]

    source = opened(kind, written / kind)
    expected = crops(opened('folder', written / 'folder'))
    np.testing.assert_array_equal(crops(source), expected)
    hosts = [crops(pickle.loads(pickle.dumps(source)), process, 2) for process in range(2)]
    np.testing.assert_array_equal(np.concatenate(hosts, axis=2), expected)
    assert facts.measure(source) == facts.measure(opened('folder', written / 'folder'))


def test_threads_read_at_once(kind: str, written: Path) -> None:
    source = opened(kind, written / kind)
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(source.image, list(range(12)) * 5))
    for i, image in enumerate(read):
        np.testing.assert_array_equal(image, images.decode(SPLITS['train'][i % 12].content))


def test_fingerprints_are_of_the_content(kind: str, written: Path, tmp_path: Path) -> None:
    train, test = (opened(kind, written / kind, split) for split in SPLITS)
    check_apart(train, test, 'train', 'test')
    shutil.copytree(written / kind, tmp_path / 'moved')
    assert opened(kind, tmp_path / 'moved').fingerprint == train.fingerprint != test.fingerprint
    first = SPLITS['train'][0]
    changes = [first._replace(content=encoded(images.decode(first.content) ^ 1)), first._replace(label=1)]
    for k, changed in enumerate(changes[: 1 if kind == 'array_record' else 2]):
        WRITERS[kind](tmp_path / str(k), {'train': [changed, *SPLITS['train'][1:]], 'test': SPLITS['test']})
        assert opened(kind, tmp_path / str(k)).fingerprint != train.fingerprint


def test_the_line_about_the_data(kind: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / kind, tmp_path / 'data')
    (tmp_path / 'data' / 'README.md').touch()
    train, test = (opened(kind, tmp_path / 'data', split) for split in SPLITS)
    line = summary(train, test)
    if kind == 'array_record':
        files = '2 array_record files'
        assert line.startswith(f'train: 12 images without labels (train: {files}), held out: 6 (test: {files})')
    else:
        of = {'webdataset': '2 tar files', 'parquet': '2 Parquet files, columns image and label'}
        what = of.get(kind, 'columns image and label')
        assert line.startswith(f'train: 12 images in 3 classes (train: {what}), held out: 6 (test: {what})')
    assert line.endswith('' if kind == 'huggingface' else 'skipped: 1 .md')


def test_data_without_splits_is_held_out_in_part(kind: str, written: Path, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / 'data', {'train': SPLITS['train']})
    if kind == 'huggingface':
        path = tmp_path / 'data' / 'train'  # a Dataset instead of a DatasetDict
    else:
        path = tmp_path / 'data' / '*' / '*' if kind == 'parquet' else tmp_path / 'data' / '*'
    train = opened(kind, path)
    if kind == 'array_record':
        assert len(train) == 12
        return
    test = opened(kind, path, 'val')
    assert (len(train), len(test)) == (9, 3) and test.labels.tolist() == [0, 1, 2]
    assert '10 % of each class' in summary(train, test) and len(opened(kind, path, 'all')) == 12


def test_a_damaged_image_is_replaced_as_in_a_folder(kind: str, tmp_path: Path) -> None:
    damaged = Example('007', b'no image', SPLITS['train'][7].label)
    splits = {'train': [damaged if i == 7 else x for i, x in enumerate(SPLITS['train'])]}
    WRITERS[kind](tmp_path / 'data', splits)
    source = opened(kind, tmp_path / 'data', 'all')
    with pytest.raises(images.ImageError):
        source.image(7)
    (batch,) = train_batches(source, seed=0, batch_size=12, image_size=6, num_views=1, stop_step=1)
    assert sorted(batch['index'].tolist()) == sorted([*(i for i in range(12) if i != 7), 8])
    assert source.file_name(7).startswith(str(tmp_path / 'data')) and source.file_name(7).endswith(']')


def test_files_that_are_not_read(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'does not exist'):
        opened(kind, tmp_path / 'missing')
    (tmp_path / 'a.png').write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(DataError, match=r"data.source 'folder' reads these"):
        opened(kind, tmp_path)
    name = {'webdataset': 'a.tar', 'parquet': 'a.parquet', 'array_record': 'a.array_record'}.get(kind, 'state.json')
    for content in (b'', b'no such file' * 200):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read '.*{name}'|is empty") as raised:
            opened(kind, tmp_path)
        assert '\n' not in str(raised.value) and ' -> ' in str(raised.value)


def test_gray_images_keep_one_channel(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 4096, (5, 6)).astype(np.uint16) for _ in range(3)]
    given = [Example(f'{i}', encoded(x), i) for i, x in enumerate(pixels)]
    WRITERS[kind](tmp_path / kind, {'train': given})
    write_folder(tmp_path / 'folder', {'train': given})
    for channels in (1, 0):
        source, like = (
            open_source(k, path=str(tmp_path / k), split='all', channels=channels) for k in (kind, 'folder')
        )
        assert (source.channels, source.dtype, source.white) == (like.channels, like.dtype, like.white)
        np.testing.assert_array_equal(source.image(1), like.image(1))
    with pytest.raises(UserError, match='and 4 channels are wanted -> use image files'):
        open_source(kind, path=str(tmp_path / kind), channels=4)
