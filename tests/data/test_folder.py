"""Image folders in every form, and folders that are not image folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import folder, sources
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import DataError, UserError


def write(path: Path, gray: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (4, 3), gray).save(path, format='PNG')


def names(source: sources.Source) -> list[str]:
    return [os.path.relpath(source.file_name(i), source.root) for i in range(len(source))]


def test_train_and_validation_folders(tmp_path: Path) -> None:
    for k, name in enumerate(['train/b/2.png', 'train/b/10.JPG', 'train/a/deep/er/x.jpeg', 'val/b/v.png']):
        write(tmp_path / name, k * 10)
    train = open_source('folder', path=str(tmp_path), split='train')
    assert train.classes == ('a', 'b')
    assert names(train) == ['a/deep/er/x.jpeg', 'b/10.JPG', 'b/2.png']
    assert train.labels.tolist() == [0, 1, 1]
    assert (train.image(0) == 20).all() and train.image(0).shape == (3, 4, 3)
    assert train.array is None and train.name == tmp_path.name
    # One class in the evaluation split keeps its number.
    for split in ('test', 'val', 'validation'):
        write(tmp_path / 'val/a/w.png')
        held = open_source('folder', path=str(tmp_path), split=split)
        assert held.labels.tolist() == [0, 1] and names(held) == ['a/w.png', 'b/v.png']
    assert train.fingerprint != held.fingerprint


def test_class_folders_hold_out_a_tenth_of_each(tmp_path: Path) -> None:
    sizes = {'one': 1, 'five': 5, 'twenty': 20, 'thirty': 31}
    for name, size in sizes.items():
        for k in range(size):
            write(tmp_path / name / f'{k:03}.png')
    train, test = (folder.load(tmp_path, split) for split in ('train', 'test'))
    held = {name: sum(file.startswith(f'{name}/') for file in names(test)) for name in sizes}
    assert held == {'one': 0, 'five': 1, 'twenty': 2, 'thirty': 3}
    everything = sorted(names(train) + names(test))
    assert len(everything) == len(set(everything)) == sum(sizes.values())
    assert train.classes == test.classes == ('five', 'one', 'thirty', 'twenty')
    for source in (train, test):
        assert [source.classes[label] for label in source.labels] == [file.split('/')[0] for file in names(source)]
    assert names(folder.load(tmp_path, 'val')) == names(test)


@pytest.mark.parametrize('below', ['', 'train', 'images', 'train/images'])
def test_unlabeled(tmp_path: Path, below: str) -> None:
    for name in ('c.png', 'a.png', 'b.webp'):
        write(tmp_path / below / name)
    source = folder.load(tmp_path)
    assert [Path(name).name for name in names(source)] == ['a.png', 'b.webp', 'c.png']
    assert source.labels is None and source.classes is None and source.example(0)[1] == -1
    with pytest.raises(DataError, match=r"unlabeled.*no split 'test'"):
        folder.load(tmp_path, 'test')


def test_order_is_by_bytes_hidden_files_are_skipped_links_followed(tmp_path: Path) -> None:
    for name in ('Z.png', 'a.png', 'é.png', '.hidden.png', '.cache/x.png', 'notes.txt'):
        write(tmp_path / 'data' / 'k' / name)
    write(tmp_path / 'elsewhere' / 'linked.png')
    (tmp_path / 'data' / 'linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'data' / 'k' / 'loop').symlink_to(tmp_path / 'data' / 'k')
    source = folder.load(tmp_path / 'data')
    files = ['k/Z.png', 'k/a.png', 'k/é.png', 'linked/linked.png']
    held = folder.load(tmp_path / 'data', 'test')
    assert sorted(names(source) + names(held), key=os.fsencode) == files
    assert names(source) == sorted(names(source), key=os.fsencode)


@pytest.mark.parametrize('name', ['$(touch x)', 'new\nline', '-dash', "quo'te"])
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    for label in ('a', name):
        write(tmp_path / label / f'{name}.png', 7)
    source = folder.load(tmp_path)
    assert set(source.classes) == {'a', name} and (source.image(0) == 7).all()


def test_missing_empty_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' does not exist; a folder of images.*\.jpg.*-> set data\.path"):
        open_source('folder', path=str(tmp_path / 'nowhere'))
    with pytest.raises(DataError, match=r'has 0 other files, none ends in \.jpg.* -> set data\.path'):
        folder.load(tmp_path)
    (tmp_path / 'k').mkdir()
    for name in ('a.txt', 'k/b.mp4', 'k/c'):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match='has 3 other files') as raised:
        folder.load(tmp_path)
    assert raised.value.exit_code == 3 and '\n' not in str(raised.value)
    with pytest.raises(DataError, match='is a file'):
        folder.load(tmp_path / 'a.txt')


def test_wrong_split_and_wrong_classes(tmp_path: Path) -> None:
    for name in ('train/a/1.png', 'train/b/1.png', 'test/c/1.png'):
        write(tmp_path / name)
    with pytest.raises(UserError, match="'trani'; did you mean 'train'"):
        folder.load(tmp_path, 'trani')
    with pytest.raises(DataError, match=r"classes that '.*train' lacks: c"):
        folder.load(tmp_path, 'test')


def test_much_larger_jpegs_are_decoded_smaller_but_never_below_any_crop(tmp_path: Path) -> None:
    gradient = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (512, 1))
    for name in ('a/1.jpg', 'b/1.jpg'):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(gradient).save(tmp_path / name, quality=95)
    small = folder.load(tmp_path, image_size=32).image(0)
    assert small.shape == (128, 256, 3)
    assert np.abs(small[:, :, 0].astype(float) - np.linspace(0, 255, 256)).max() < 4
    assert folder.load(tmp_path, image_size=224).image(0).shape == (512, 1024, 3)
