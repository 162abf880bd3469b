"""Image folders in every form, and folders that are not image folders."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import folder, images, sources, tree
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.errors import DataError, MissingSplitError, UserError


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
    for name in ('Z.png', 'a.png', 'é.png', '.hidden.png', '.cache/x.png', '@eaDir/x.png', 'notes.txt'):
        write(tmp_path / 'data' / 'k' / name)
    write(tmp_path / 'data' / '__MACOSX' / 'k' / 'x.png')
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
    with pytest.raises(DataError, match=r'has 0 other files, none ends in .*\.jpg.* -> set data\.path'):
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
    unseen = folder.load(tmp_path, 'test')  # pretraining needs no labels; evaluations count it as an error
    assert unseen.classes == ('a', 'b', 'c') and unseen.labels.tolist() == [2]


def test_much_larger_jpegs_are_decoded_smaller_but_never_below_any_crop(tmp_path: Path) -> None:
    gradient = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (512, 1))
    for name in ('a/1.jpg', 'b/1.jpg'):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(gradient).save(tmp_path / name, quality=95)
    small = folder.load(tmp_path, image_size=32).image(0)
    assert small.shape == (128, 256, 3)
    assert np.abs(small[:, :, 0].astype(float) - np.linspace(0, 255, 256)).max() < 4
    assert folder.load(tmp_path, image_size=224).image(0).shape == (512, 1024, 3)


# ================================ layouts that people have ================================


def layout(root: Path, *files: str) -> dict[str, str]:
    """Writes these images; returns for each split 'classes: number of images (where from)'."""
    for k, name in enumerate(files):
        write(root / name, k)
    found = {}
    for split in ('train', 'test'):
        try:
            source = folder.load(root, split)
        except MissingSplitError:
            continue
        found[split] = f'{",".join(source.classes or ())}: {len(source)} ({source.place})'
    return found


TWO_CLASSES = [f'{split}/{label}/{i}.png' for split in ('Train', 'TEST') for label in 'ab' for i in range(2)]


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        (TWO_CLASSES, {'train': 'a,b: 4 (Train/)', 'test': 'a,b: 4 (TEST/)'}),
        (
            ['train/a/1.png', 'train/b/1.png', 'valid/a/1.png'],
            {'train': 'a,b: 2 (train/)', 'test': 'a,b: 1 (valid/)'},
        ),
        (
            ['training/a/1.png', 'training/b/1.png', 'testing/b/1.png'],
            {'train': 'a,b: 2 (training/)', 'test': 'a,b: 1 (testing/)'},
        ),
        # A lone split name beside other folders is a class.
        (
            [f'{label}/{i}.png' for label in ('bus', 'car', 'train') for i in range(3)],
            {'train': 'bus,car,train: 6 ()', 'test': 'bus,car,train: 3 (10 % of each class)'},
        ),
        # Kaggle's layout: the test images have no labels, the validation images have.
        (
            ['train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/b/1.png', 'test/1.png', 'test/2.png'],
            {'train': 'a,b: 2 (train/)', 'test': 'a,b: 2 (val/)'},
        ),
        # An empty folder is no split.
        (
            [f'train/{label}/{i}.png' for label in 'ab' for i in range(2)],
            {'train': 'a,b: 2 (train/)', 'test': 'a,b: 2 (train/ 10 % of each class)'},
        ),
        # One image a class: nothing can be held out.
        (['a/1.png', 'b/1.png', 'c/1.png'], {'train': 'a,b,c: 3 ()'}),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], expected: dict[str, str]) -> None:
    if files[0].startswith('train/a/0'):
        (tmp_path / 'val').mkdir()
    assert layout(tmp_path, *files) == expected


def test_all_images_whatever_their_split(tmp_path: Path) -> None:
    layout(tmp_path / 'split', *TWO_CLASSES)
    source = folder.load(tmp_path / 'split', 'all')
    assert len(source) == 8 and sorted(source.labels.tolist()) == [0] * 4 + [1] * 4
    assert [source.classes[label] for label in source.labels] == [Path(f).parent.name for f in names(source)]
    layout(tmp_path / 'flat', *(f'{label}/{i}.png' for label in 'ab' for i in range(5)))
    assert len(folder.load(tmp_path / 'flat', 'all')) == 10


def test_links_are_followed_once_and_nothing_blocks(tmp_path: Path) -> None:
    write(tmp_path / 'data' / 'a' / '1.png')
    write(tmp_path / 'data' / 'b' / '2.png')
    write(tmp_path / 'store' / '3.png')
    data = tmp_path / 'data'
    (data / 'b' / 'up').symlink_to(tmp_path / 'data')  # an ancestor
    (data / 'aa').symlink_to(data / 'b')  # another class
    (data / 'a' / 'again.png').symlink_to(data / 'a' / '1.png')
    (data / 'a' / 'elsewhere.png').symlink_to(tmp_path / 'store' / '3.png')
    (data / 'a' / 'self.png').symlink_to('self.png')
    (data / 'a' / 'nowhere.png').symlink_to('nothing')
    os.mkfifo(data / 'a' / 'pipe.png')
    source = folder.load(data, 'all')
    assert names(source) == ['a/1.png', 'a/elsewhere.png', 'b/2.png']
    assert source.skipped == {tree.COUNTED: 1, tree.BROKEN_LINK: 2, tree.NOT_REGULAR: 1, tree.UPWARDS: 1}


def test_what_was_skipped_is_counted_and_the_summary_says_how_the_data_was_read(tmp_path: Path) -> None:
    layout(
        tmp_path, *(f'train/{label}/{i}.png' for label in 'abc' for i in range(4)), 'valid/a/1.png', 'valid/b/1.jfif'
    )
    for i in range(30):
        (tmp_path / 'train' / 'a' / f'{i}.HEIC').touch()
    (tmp_path / 'valid' / 'a' / 'Thumbs.db').touch()
    write(tmp_path / 'train' / 'loose.png')
    train, held_out = folder.load(tmp_path), folder.load(tmp_path, 'test')
    assert summary(train, held_out) == (
        'train: 12 images in 3 classes (train/), held out: 2 images in 2 classes (valid/), skipped: 1 .db, 30 .heic, '
        f'1 {folder.LOOSE}; convert .heic files to JPEG or PNG first'
    )
    assert summary(train, None).startswith('train: 12 images in 3 classes (train/), held out: none, skipped: 30 .heic')


def test_every_ending_that_pillow_decodes_is_read(tmp_path: Path) -> None:
    for ending in ('jpg', 'jfif', 'jpe', 'jp2', 'dib', 'pbm', 'apng', 'tif', 'avif'):
        assert f'.{ending}' in images.EXTENSIONS, ending
    Image.new('RGB', (5, 4), (255, 0, 0)).save(tmp_path / 'x.jfif', format='JPEG')
    assert (folder.load(tmp_path).image(0)[..., 0] > 250).all()


@pytest.mark.parametrize(
    ('values', 'given', 'expected'),
    [
        ((0, 2047, 4095), 0, (0, 127, 255)),  # 12 bits in files of 16
        ((0, 32768, 65535), 0, (0, 128, 255)),
        ((0, 2047, 4095), 65535, (0, 8, 16)),
        ((0, 500, 1000), 1000, (0, 128, 255)),
    ],
)
def test_the_range_of_deep_images(
    tmp_path: Path, values: tuple[int, ...], given: float, expected: tuple[int, ...]
) -> None:
    """One range for the whole data set: an image that happens to be dark stays dark."""
    Image.fromarray(np.array([values], np.uint16)).save(tmp_path / 'a.png')
    Image.fromarray(np.array([[values[1]]], np.uint16)).save(tmp_path / 'b.tif')
    source = folder.load(tmp_path, value_range=given)
    assert source.image(0)[0, :, 0].tolist() == list(expected) and source.image(1)[0, 0, 0] == expected[1]
    assert f'gray values 0 to {given or (4095 if max(values) < 65535 else 65535)} become 0 to 255' in summary(
        source, None
    )


def opened(root: Path, *files: str) -> tuple[sources.Source, sources.Source, str]:
    """Training and evaluation split of a folder with these files, and the line about them."""
    for file in files:
        write(root / file)
    train, test = folder.load(root, 'train'), folder.load(root, 'test')
    return train, test, summary(train, test)


@pytest.mark.parametrize(
    ('train', 'test'),
    [
        ('training_set', 'test_set'), ('Train-Images', 'val images'), ('trn', 'tst'), ('train', 'dev'),
        ('trainset', 'EVAL'), ('TrainData', 'Holdout'),
    ],
)  # fmt: skip
def test_other_names_of_splits(tmp_path: Path, train: str, test: str) -> None:
    files = [f'{split}/{label}/{i}.png' for split in (train, test) for label in 'ab' for i in range(2)]
    training, held, _ = opened(tmp_path, *files)
    assert len(training) == len(held) == 4 and training.classes == held.classes == ('a', 'b')
    assert training.root == tmp_path / train and held.root == tmp_path / test


def test_a_lone_folder_around_the_splits_is_opened(tmp_path: Path) -> None:
    train, test, line = opened(tmp_path, *(f'data/set/{s}/{c}/1.png' for s in ('train', 'val') for c in 'abc'))
    assert len(train) == len(test) == 3 and train.name == tmp_path.name
    assert line == 'train: 3 images in 3 classes (data/set/train/), held out: 3 (data/set/val/)'
    assert len(folder.load(tmp_path, 'all')) == 6
    (tmp_path / 'data' / 'set' / 'train' / 'up').symlink_to(tmp_path)  # a link upwards adds nothing
    assert len(folder.load(tmp_path)) == 3 and folder.load(tmp_path).skipped == {tree.UPWARDS: 1}
    (tmp_path / 'wrapped' / 'loop').mkdir(parents=True)
    (tmp_path / 'wrapped' / 'loop' / 'again').symlink_to(tmp_path / 'wrapped')
    write(tmp_path / 'wrapped' / 'loop' / 'x.png')
    assert len(folder.load(tmp_path / 'wrapped')) == 1


def test_an_unlabeled_split_for_evaluation_is_not_empty(tmp_path: Path) -> None:
    labeled = [f'train/{c}/{i}.png' for c in 'ab' for i in range(2)]
    train, test, line = opened(tmp_path / 'flat', *labeled, 'test/1.png', 'test/2.png', 'cover.png', 'more/x.png')
    assert train.labels.tolist() == [0, 0, 1, 1] and len(test) == 2 and test.labels is None
    assert line.endswith('held out: 2 images without labels (test/), skipped: 2 images beside the splits')
    # Tiny ImageNet: the images of val lie in one folder that is no class.
    train, test, _ = opened(tmp_path / 'tiny', *(f'train/{c}/images/1.png' for c in 'ab'), 'val/images/1.png')
    assert train.classes == ('a', 'b') and test.labels is None and len(test) == 1


def test_classes_that_splits_spell_differently(tmp_path: Path) -> None:
    composed, decomposed = 'caf\u00e9', 'cafe\u0301'
    train, test, line = opened(
        tmp_path,
        f'train/{composed}/1.png',
        'train/Dog/1.png',
        f'val/{decomposed}/1.png',
        'val/dog/1.png',
        'val/x/1.png',
    )
    assert [(test.classes or ())[i] for i in test.labels] == ['Dog', composed, 'x'] and train.classes == (
        'Dog',
        composed,
    )
    assert '1 of them in classes without a training image' in line


def test_splits_that_are_not_used_are_counted(tmp_path: Path) -> None:
    files = [f'{split}/{label}/1.png' for split in ('train', 'val', 'test') for label in 'ab']
    assert opened(tmp_path, *files)[2].endswith('held out: 2 (test/), skipped: 2 images in val/')
    (tmp_path / 'val' / 'a' / '1.png').unlink()
    (tmp_path / 'val' / 'b' / '1.png').unlink()
    assert len(folder.load(tmp_path, 'all')) == 4  # an empty split is no reason to refuse all images
    write(tmp_path / 'Training' / 'a' / '1.png')
    with pytest.raises(DataError, match='2 training splits, Training and train -> merge or rename'):
        folder.load(tmp_path)


def test_splits_without_a_training_split(tmp_path: Path) -> None:
    for split in ('val', 'test'):
        write(tmp_path / split / 'a' / '1.png')
    with pytest.raises(DataError, match=r"test/, val/, and no split 'train' -> set data.path to one"):
        folder.load(tmp_path)
    assert names(folder.load(tmp_path, 'val')) == ['a/1.png'] and len(folder.load(tmp_path, 'all')) == 2


def test_the_fingerprint_is_of_the_content_too(tmp_path: Path) -> None:
    for name, gray in (('1.bmp', 10), ('2.bmp', 200)):
        Image.new('RGB', (40, 40), (gray, gray, gray)).save(tmp_path / name)
    before = folder.load(tmp_path).fingerprint
    (tmp_path / '1.bmp').rename(tmp_path / 'x')
    (tmp_path / '2.bmp').rename(tmp_path / '1.bmp')
    (tmp_path / 'x').rename(tmp_path / '2.bmp')
    assert os.path.getsize(tmp_path / '1.bmp') == os.path.getsize(tmp_path / '2.bmp')
    assert folder.load(tmp_path).fingerprint != before


def test_what_the_conversion_loses_is_said(tmp_path: Path) -> None:
    def line(name: str) -> str:
        return summary(folder.load(tmp_path / name, 'all'), None)

    for name in ('negative', 'transparent', 'palette', 'opaque', 'dark', 'bright'):
        (tmp_path / name).mkdir()
    Image.fromarray(np.array([[-3.5, 0.5]], np.float32)).save(tmp_path / 'negative' / 'x.tif')
    assert 'gray values 0 to 1 become 0 to 255, negative gray values (down to -3.5) become 0' in line('negative')
    Image.new('RGBA', (3, 2), (0, 0, 0, 0)).save(tmp_path / 'transparent' / 'x.png')
    Image.new('P', (3, 2)).save(tmp_path / 'palette' / 'x.png', transparency=0)
    Image.new('RGBA', (3, 2), (0, 0, 0, 255)).save(tmp_path / 'opaque' / 'x.png')
    said = [
        '1 of 1 sampled images are transparent: alpha is dropped' in line(x)
        for x in ('transparent', 'palette', 'opaque')
    ]
    assert said == [True, True, False]
    for name, value in (
        ('dark', 4095),
        ('bright', 65000),
    ):  # a PNG of 16 bits for each color, as its specification says
        rows = zlib.compress(b'\0' + struct.pack('>6H', *(value,) * 6))
        chunks = [(b'IHDR', struct.pack('>IIBBBBB', 2, 1, 16, 2, 0, 0, 0)), (b'IDAT', rows), (b'IEND', b'')]
        blocks = [struct.pack('>I', len(x)) + k + x + struct.pack('>I', zlib.crc32(k + x)) for k, x in chunks]
        (tmp_path / name / 'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(blocks))
    assert 'the images are dark (at most 15 of 255)' in line('dark') and 'dark' not in line('bright')
