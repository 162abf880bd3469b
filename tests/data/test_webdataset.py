"""Tar files: which samples they hold, and files that are compressed, damaged or changed."""

import gzip
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from contrastive_jax.data import images, tar_index
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.data.sources import Source
from contrastive_jax.errors import DataError
from tests.data.record_files import encoded, examples, write_tar

PICTURES = [encoded(np.full((4, 5, 3), i, np.uint8)) for i in range(12)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'contrastive_jax' / 'tar_index'


def opened(path: Path | str, split: str = 'all', **keys: str) -> Source:
    return open_source('webdataset', path=str(path), split=split, **keys)


def shades(source: Source) -> list[int]:
    """What tells the images apart."""
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    """As the library webdataset reads the file: keys up to the first dot, hidden members and directories left out."""
    webdataset = pytest.importorskip('webdataset')
    names = ('a/001.PNG', 'a/001.cls', 'b.c/001.jpg', './002.x.png', '._002.png', 'a/004.txt', 'noend')
    write_tar(tmp_path / 'x.tar', [(name, b'1' if name.endswith('cls') else PICTURES[0]) for name in names])
    samples = list(webdataset.WebDataset(str(tmp_path / 'x.tar'), shardshuffle=False, empty_check=False))
    with_image = [s for s in samples if any(key.split('.')[-1] in ('png', 'jpg') for key in s if key[0] != '_')]
    index = tar_index.scan(str(tmp_path / 'x.tar'))
    keys = [
        name.decode().rsplit('/', 1)[0] + '/' + name.decode().rsplit('/', 1)[1].split('.')[0] for name in index.names
    ]
    assert keys == [sample['__key__'] for sample in with_image] == ['a/001', 'b.c/001', './002']
    assert index.labels.tolist() == ['1', '', ''] and index.skipped == {'samples without an image': 1}


def test_members_of_a_sample_in_any_order(tmp_path: Path) -> None:
    members = [
        ('1.jpg', PICTURES[1]),
        ('2.cls', b'dog'),
        ('1.txt', b'a cat'),
        ('2.jpeg', PICTURES[2]),
        ('1.cls', b'cat'),
    ]
    write_tar(tmp_path / 'x.tar', [*members, ('3.txt', b'nothing'), ('1.jpg', PICTURES[3])])
    source = opened(tmp_path / 'x.tar')
    assert shades(source) == [3, 2] and source.classes == ('cat', 'dog') and source.labels.tolist() == [0, 1]
    assert source.file_name(1) == f'{tmp_path}/x.tar[2.jpeg]'
    assert summary(source, None) == (
        'train: 2 images in 2 classes (1 tar file), held out: none, skipped: 1 .txt, 1 members that a later one '
        'replaces, 1 samples without an image'
    )


@pytest.mark.parametrize(
    ('label_key', 'expected'), [('', [3, 4]), ('species', [7, -1]), ('id', [0, 1]), ('cls', [3, 4]), ('none', None)]
)
def test_labels(label_key: str, expected: list[int] | None, tmp_path: Path) -> None:
    notes = [b'{"label": 5, "species": 7, "id": "a"}', b'{"label": 6, "species": null, "id": "b"}']
    members = [(f'{i}.{end}', content) for i in range(2) for end, content in
               (('png', PICTURES[i]), ('cls', b' %d ' % (i + 3)), ('json', notes[i]))]  # fmt: skip
    write_tar(tmp_path / 'x.tar', members)
    source = opened(tmp_path / 'x.tar', label_key=label_key)
    assert (None if source.labels is None else source.labels.tolist()) == expected


def test_several_images_a_sample(tmp_path: Path) -> None:
    members = [(f'{i}.{end}', PICTURES[2 * i + k]) for i in range(2) for k, end in enumerate(('left.png', 'right.png'))]
    write_tar(tmp_path / 'x.tar', members)
    with pytest.raises(DataError, match=r'sample 0 has 2 images, left.png and right.png -> set data.image_key to one'):
        opened(tmp_path)
    assert shades(opened(tmp_path, image_key='right.png')) == [1, 3]
    write_tar(tmp_path / 'x.tar', [('1.png', PICTURES[5]), ('1.mask.png', PICTURES[6])])
    assert shades(opened(tmp_path)) == [5]
    write_tar(tmp_path / 'x.tar', [('trip.001.png', PICTURES[0]), ('trip.002.png', PICTURES[1])])
    with pytest.raises(DataError, match=r'sample trip has 2 images.*rename the files: .* ends at the first dot'):
        opened(tmp_path)


def test_files_of_splits(tmp_path: Path) -> None:
    """The first word of a name that is a split, in the file or in the folders above; sorted by bytes."""
    for k, name in enumerate(('train/b-1.tar', 'train/b-0.tar', 'other/x.tar', 'val2017/x-000.tar', 'Dev.tar')):
        write_tar(tmp_path / name, [(f'{k}.png', PICTURES[k])])
    train, held = opened(tmp_path, 'train'), opened(tmp_path, 'test')
    assert shades(train) == [1, 0] and shades(held) == [4] and shades(opened(tmp_path, 'val')) == [3]
    assert summary(train, held).endswith('skipped: 1 files beside the splits, 1 images in val')
    assert shades(opened(tmp_path / 'train')) == [1, 0]
    assert shades(opened(tmp_path / 'train' / 'b-{0..1}.tar')) == [1, 0] == shades(opened(tmp_path / '**' / 'b-*.tar'))
    assert shades(opened(f'{tmp_path}/{{val2017/x-{{000..000}},other/x}}.tar', 'test')) == [3]
    with pytest.raises(DataError, match=r"b-2.tar' of data.path '.*' does not exist; did you mean 'b-[01].tar'"):
        opened(tmp_path / 'train' / 'b-{0..2}.tar')
    for name in ('one/train-0.tar', 'two/train-0.tar'):
        write_tar(tmp_path / 'several' / name, [('0.png', PICTURES[0])])
    with pytest.raises(DataError, match=r'a split train in 2 folders \(one, two\), which may hold the same images'):
        opened(tmp_path / 'several')
    assert len(opened(tmp_path / 'several' / '**' / '*train*')) == 2
    write_tar(tmp_path / 'only' / 'test-0.tar', [('0.png', PICTURES[0])])
    with pytest.raises(DataError, match=r"only' has test, and no split 'train' -> set data.path"):
        opened(tmp_path / 'only', 'train')


def test_compressed_and_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / 'good.tar'
    write_tar(file, [(f'{x.name}.png', x.content) for x in examples('train')])
    good = file.read_bytes()
    with tarfile.open(file) as archive:
        third, last = archive.getmembers()[2], archive.getmembers()[-1]
    broken = good[: third.offset] + b'\xff' * 100 + good[third.offset + 100 :]
    cases = {
        'header': (broken, 'header at byte'),
        'cut': (good[: last.offset_data + 9], 'unexpected end of data'),
        'twice': (good + good, 'another archive was appended'),
        'zip': (gzip.compress(good), 'gunzip'),
    }
    for name, (content, message) in cases.items():
        (tmp_path / f'{name}.tar').write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read '.*{name}.tar' as an uncompressed tar file: .*{message}"):
            opened(tmp_path / f'{name}.tar')
    (tmp_path / 'end.tar').write_bytes(good[: last.offset_data + -(-last.size // 512) * 512])  # no block marks its end
    assert len(opened(tmp_path / 'end.tar')) == 12
    (tmp_path / 'x' / 'b').mkdir(parents=True)
    (tmp_path / 'x' / 'b' / 'shard.tar.gz').touch()
    with pytest.raises(DataError, match=r"b/shard.tar.gz' has no random access -> unpack it .*: gunzip FILE"):
        opened(tmp_path / 'x')


def test_the_index_is_kept_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / 'x.tar'
    write_tar(file, [('1.png', PICTURES[1])])
    before = opened(file)
    (index,) = cache.iterdir()
    content = index.read_bytes()
    index.write_bytes(b'damaged')
    assert opened(file).fingerprint == before.fingerprint and index.read_bytes() == content
    os.utime(index, ns=(0, 0))
    opened(file)
    assert index.stat().st_mtime_ns == 0, 'read, not written again'
    write_tar(file, [('1.png', PICTURES[2]), ('2.png', PICTURES[3])])
    os.utime(file, ns=(1, 1))
    assert shades(opened(file)) == [2, 3] and opened(file).fingerprint != before.fingerprint
    source = opened(file)
    file.write_bytes(file.read_bytes()[:520])
    with pytest.raises(images.ImageError, match=r'only \d+ of \d+ bytes'):
        source.image(0)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    write_tar(tmp_path / 'x.tar', [('1.png', PICTURES[1])])
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'x.tar'))
    assert shades(opened(tmp_path / 'x.tar')) == [1]
    assert 'cannot keep the index of tar files' in caplog.text
