"""TFDS without TensorFlow: what is found on disk, what is said of what is not, and reading through a stand-in module.

tensorflow_datasets itself is not installed for the tests: `FakeTfds` has the four calls that are used of it.
"""

import io
import json
import socket
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import tfds
from contrastive_jax.data.open import open_source
from contrastive_jax.data.sources import Source, check_apart
from contrastive_jax.errors import DataError, UserError


def prepare(folder: Path, splits: dict[str, int], file_format: str = 'array_record') -> None:
    """What TFDS leaves on disk, as far as it is looked at."""
    folder.mkdir(parents=True)
    info = {'name': 'x', 'fileFormat': file_format, 'splits': [{'name': s, 'shardLengths': ['1']} for s in splits]}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    for split in splits:
        (folder / f'x-{split}.{file_format}-00000-of-00001').write_bytes(b'')


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (6, 5), (value, 2, 3)).save(file, 'PNG')
    return file.getvalue()


class FakeTfds(types.ModuleType):
    """builder_from_directory, as_data_source, info.features and decode.SkipDecoding of tensorflow_datasets."""

    def __init__(self, shape: tuple[int | None, ...], labeled: bool = True):
        super().__init__('tensorflow_datasets')
        self.decode = types.SimpleNamespace(SkipDecoding=lambda: 'skip')
        self.opened: list[Any] = []
        self.features: dict[str, Any] = {'image': types.SimpleNamespace(shape=shape)}
        if labeled:
            self.features['label'] = types.SimpleNamespace(names=['a', 'b'])

    def builder_from_directory(self, folder: str) -> Any:
        def as_data_source(split: str, decoders: dict) -> list[dict]:
            assert decoders == {'image': 'skip'}
            self.opened.append((folder, split))
            return [{'image': png(i), 'label': i % 2} for i in range(7)]

        info = types.SimpleNamespace(features=self.features)
        return types.SimpleNamespace(info=info, as_data_source=as_data_source)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTfds:
    module = FakeTfds((None, None, 3))
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
    return module


def test_not_prepared_is_said_at_once_and_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / 'mnist' / '3.0.1', {'train': 1})
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)  # importing it would raise
    monkeypatch.setattr(socket, 'socket', None)
    start = time.monotonic()
    with pytest.raises(DataError) as raised:
        open_source('tfds', 'imagenet2012', str(tmp_path))
    assert time.monotonic() - start < 1
    assert raised.value.exit_code == 2
    message = str(raised.value)
    for part in (
        f"looked for '{tmp_path}/imagenet2012/",
        'holds mnist',
        'pip install tensorflow-datasets tensorflow',
        f'tfds build imagenet2012 --data_dir={tmp_path} --file_format=array_record',
        'ILSVRC2012_img_train.tar',
        f'{tmp_path}/downloads/manual',
    ):
        assert part in message
    assert '\n' not in message
    with pytest.raises(DataError, match='holds no prepared data set'):
        open_source('tfds', 'cifar10', str(tmp_path / 'nowhere'))


def test_the_data_dir_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'there'))
    with pytest.raises(DataError, match=f"'{tmp_path}/there' holds no"):
        open_source('tfds', 'cifar10')
    monkeypatch.delenv('TFDS_DATA_DIR')
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(DataError, match=f"'{tmp_path}/tensorflow_datasets' holds no"):
        open_source('tfds', 'cifar10')


def test_misspelled_names(tmp_path: Path) -> None:
    prepare(tmp_path / 'my_photos' / '1.0.0', {'train': 1})
    with pytest.raises(UserError, match=r"'cifar01' is unknown; did you mean 'cifar10'.*my_photos") as raised:
        open_source('tfds', 'cifar01', str(tmp_path))
    assert raised.value.exit_code == 2
    with pytest.raises(UserError, match=r"did you mean 'my_photos'"):
        open_source('tfds', 'my_photo', str(tmp_path))
    with pytest.raises(UserError, match=r"TFDS data set '' is unknown -> choose from my_photos, caltech101"):
        open_source('tfds', '', str(tmp_path))


def test_configs_and_versions(tmp_path: Path) -> None:
    for version in ('2.0.0', '10.0.0', '9.9.9'):
        prepare(tmp_path / 'plain' / version, {'train': 1})
    for config in ('8x8', '64x64'):
        prepare(tmp_path / 'sized' / config / '1.0.0', {'train': 1})
    prepare(tmp_path / 'single' / 'only' / '1.0.0', {'train': 1})
    assert tfds.find('plain', tmp_path) == tmp_path / 'plain/10.0.0'
    assert tfds.find('plain:2.0.0', tmp_path) == tmp_path / 'plain/2.0.0'
    assert tfds.find('sized/8x8', tmp_path) == tmp_path / 'sized/8x8/1.0.0'
    assert tfds.find('single', tmp_path) == tmp_path / 'single/only/1.0.0'
    with pytest.raises(UserError, match=r'several configs -> set data\.name to one of sized/64x64, sized/8x8'):
        tfds.find('sized', tmp_path)
    with pytest.raises(UserError, match=r"config '64x6'; did you mean '64x64'"):
        tfds.find('sized/64x6', tmp_path)
    with pytest.raises(UserError, match=r"version '1.0.0'.* -> choose from 10.0.0, 2.0.0, 9.9.9"):
        tfds.find('plain:1.0.0', tmp_path)


def test_few_labels_of_imagenet(tmp_path: Path, fake: FakeTfds) -> None:
    """As TFDS has them: two configs, each with a 'train' of its own and the 'validation' of the whole."""
    for config in ('1pct', '10pct'):
        prepare(tmp_path / 'imagenet2012_subset' / config / '5.1.0', {'train': 1, 'validation': 1})
    for split, meant in (('train', 'train'), ('test', 'validation')):
        source = open_source('tfds', 'imagenet2012_subset/1pct', str(tmp_path), split)
        assert fake.opened[-1] == (str(tmp_path / 'imagenet2012_subset/1pct/5.1.0'), meant)
        assert source.name == f'imagenet2012_subset/1pct:{meant}'
    with pytest.raises(UserError, match=r'has several configs -> .*one of imagenet2012_subset/10pct, imagenet'):
        open_source('tfds', 'imagenet2012_subset', str(tmp_path))
    with pytest.raises(DataError, match=r'tfds build imagenet2012_subset/10pct .*ILSVRC2012_img_train.tar'):
        open_source('tfds', 'imagenet2012_subset/10pct', str(tmp_path / 'nowhere'))


def test_only_tfrecord_prints_the_conversion(tmp_path: Path) -> None:
    prepare(tmp_path / 'cifar10' / '3.0.2', {'train': 1}, 'tfrecord')
    with pytest.raises(DataError) as raised:
        open_source('tfds', 'cifar10', str(tmp_path))
    assert (
        f'python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={tmp_path}/cifar10/3.0.2 '
        '--out_file_format=array_record'
    ) in str(raised.value)


def test_tensorflow_datasets_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / 'cifar10' / '3.0.2', {'train': 1})
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
    with pytest.raises(UserError, match=r'-> pip install tensorflow-datasets$'):
        open_source('tfds', 'cifar10', str(tmp_path))


def test_photographs_are_read_one_by_one(tmp_path: Path, fake: FakeTfds) -> None:
    prepare(tmp_path / 'imagenet2012' / '5.1.0', {'train': 1, 'validation': 1})
    source = open_source('tfds', 'imagenet2012', str(tmp_path), 'test')
    assert fake.opened == [(str(tmp_path / 'imagenet2012/5.1.0'), 'validation')]
    assert isinstance(source, tfds.TfdsSource) and source.array is None and len(source) == 7
    image, label = source.example(5)
    assert image.shape == (5, 6, 3) and (image == (5, 2, 3)).all() and label == 1 == source.label(5)
    np.testing.assert_array_equal(source.labels, np.arange(7) % 2)
    assert source.labels.dtype == np.int32 and source.classes == ('a', 'b')
    open_source('tfds', 'imagenet2012', str(tmp_path), 'train[:10%]')
    assert fake.opened[-1][1] == 'train[:10%]'
    with pytest.raises(UserError, match=r"'trian'; did you mean 'train'"):
        open_source('tfds', 'imagenet2012', str(tmp_path), 'trian')


def test_slices_that_cannot_be_read(tmp_path: Path, fake: FakeTfds, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / 'imagenet2012' / '5.1.0', {'train': 1, 'validation': 1})
    open_source('tfds', 'imagenet2012', str(tmp_path), 'train[:10%]+test[:-1]')
    assert fake.opened[-1][1] == 'train[:10%]+validation[:-1]'
    for split, line in (('train[:x]', r'\[:x\] is not START:END'), ('all[:5%]', "no split 'all'")):
        with pytest.raises(UserError, match=line):
            open_source('tfds', 'imagenet2012', str(tmp_path), split)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError('Requested slice [:9]\nincompatible with 7 examples.')

    def none(*_: object, **__: object) -> list[dict]:
        return []

    for read, line in ((refuse, r'slice \[:9\] incompatible with 7'), (none, 'has no images -> give a larger slice')):
        info = types.SimpleNamespace(features=fake.features)
        builder = types.SimpleNamespace(info=info, as_data_source=read)
        monkeypatch.setattr(fake, 'builder_from_directory', lambda _, builder=builder: builder)
        with pytest.raises(UserError, match=line):
            open_source('tfds', 'imagenet2012', str(tmp_path), 'train[:9]')


def test_small_images_of_one_size_go_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / 'cifar10' / '3.0.2', {'train': 1, 'test': 1})
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', FakeTfds((5, 6, 3)))
    source = open_source('tfds', 'cifar10', str(tmp_path))
    assert source.array is not None and source.array.shape == (7, 5, 6, 3)
    np.testing.assert_array_equal(source.array[:, 0, 0, 0], np.arange(7))
    np.testing.assert_array_equal(source.labels, np.arange(7) % 2)
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', FakeTfds((5, 6, 3), labeled=False))
    assert open_source('tfds', 'cifar10', str(tmp_path)).labels is None


def test_data_sets_without_images(tmp_path: Path, fake: FakeTfds) -> None:
    prepare(tmp_path / 'imdb' / '1.0.0', {'train': 1})
    fake.features = {'text': None}
    with pytest.raises(DataError, match=r"no feature 'image', only text"):
        open_source('tfds', 'imdb', str(tmp_path))


def test_slices_that_overlap_are_refused(tmp_path: Path, fake: FakeTfds) -> None:
    prepare(tmp_path / 'imagenet2012' / '5.1.0', {'train': 1})
    file = tmp_path / 'imagenet2012' / '5.1.0' / 'dataset_info.json'
    file.write_text(json.dumps({'splits': [{'name': 'train', 'shardLengths': ['500', '500']}]}))

    def both(split: str, eval_split: str) -> tuple[Source, Source, str, str]:
        train, held = (open_source('tfds', 'imagenet2012', str(tmp_path), s) for s in (split, eval_split))
        return train, held, split, eval_split

    with pytest.raises(
        UserError, match=r"'train\[:90%\]' and data.eval_split 'train\[80%:\]' have 100 images in common"
    ):
        check_apart(*both('train[:90%]', 'train[80%:]'))
    with pytest.raises(UserError, match='have 10 images in common'):
        check_apart(*both('train', 'train[:5]+train[-5:]'))
    check_apart(*both('train[:90%]', 'train[90%:]'))


def test_the_fingerprint_is_of_the_records(tmp_path: Path, fake: FakeTfds, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ('5.0.0', '5.1.0'):
        prepare(tmp_path / 'imagenet2012' / version, {'train': 1})

    def fingerprint(name: str = 'imagenet2012', split: str = 'train') -> str:
        return open_source('tfds', name, str(tmp_path), split).fingerprint

    before = fingerprint()
    assert before == fingerprint('imagenet2012:5.1.0') != fingerprint('imagenet2012:5.0.0')
    monkeypatch.setattr(sys.modules[__name__], 'png', lambda value, png=png: png(value + 1))
    assert fingerprint() != before, 'the same number of other images'
