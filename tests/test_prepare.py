"""The cache of resized images: order, labels and pixels of the data; going on after a kill; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive_jax import prepare
from contrastive_jax.data import cache
from contrastive_jax.data.images import ImageError
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.errors import DataError, DiskFullError, UserError
from tests import small_disks
from tests.data.record_files import CLASSES, examples, write_folder, write_webdataset

pytest.importorskip('array_record')
SPLITS = {'train': examples('train'), 'test': examples('test')}


def call(*argv: str) -> int:
    return prepare.main([f'--config.data.{argv[0]}', f'--config.data.path={argv[1]}', *argv[2:]])


@pytest.mark.parametrize('kind', ['folder', 'webdataset'])
def test_a_cache_is_the_data_at_another_size(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / 'data', tmp_path / 'cache'
    {'folder': write_folder, 'webdataset': write_webdataset}[kind](data, SPLITS)
    assert call(f'source={kind}', str(data), f'--out={out}', '--size=10') == 0
    said = capsys.readouterr().out
    # Sides of 9, 10 and 11 pixels in turn, so one in three is larger than 10.
    assert 'resolution is lost: 33% of 12 sampled images' in said and '11 px (median) that become 10' in said
    assert f'--config.data.source=array_record --config.data.path={out}' in said
    for split in ('train', 'test'):
        before = open_source(kind, path=str(data), split=split, image_size=10)
        after = open_source('array_record', path=str(out), split=split, image_size=10)
        assert len(after) == len(before) and after.labels is not None and before.labels is not None
        np.testing.assert_array_equal(after.labels, before.labels)
        assert after.classes == before.classes
        for i in range(len(before)):
            image = Image.fromarray(before.image(i))
            if min(image.size) > 10:
                image = image.resize((round(image.width * 10 / min(image.size)), 10), Image.Resampling.LANCZOS)
            np.testing.assert_array_equal(after.image(i), np.asarray(image))
    train, test = (open_source('array_record', path=str(out), split=split) for split in ('train', 'test'))
    assert 'skipped' not in summary(train, test) and train.num_classes == len(CLASSES)


def test_after_a_kill_only_what_is_missing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / 'data', SPLITS)
    source, out, said = open_source('folder', path=str(tmp_path / 'data')), tmp_path / 'cache', list[str]()
    cache.plan(out, {'train': source}, 8, 95, per_file=5)
    write: Any = lambda: cache.write(out, 'train', source, 8, 95, say=said.append, per_file=5)  # noqa: E731
    assert write() == 0 and [line.split(', ')[-1] for line in said] == [f'file {k} of 3' for k in (1, 2, 3)]
    files = sorted(out.glob('*.array_record*'))
    whole = open_source('array_record', path=str(out), split='all')
    pixels = [whole.image(i) for i in range(12)]
    before = files[0].stat().st_mtime_ns
    files[1].rename(f'{files[1]}{cache.PARTIAL}')  # as a kill leaves it
    with pytest.raises(DataError, match='has 2 of the 3 files of train: the cache is not complete -> run the same'):
        open_source('array_record', path=str(out))
    cache.plan(out, {'train': source}, 8, 95, per_file=5)
    assert write() == 0 and len(said) == 4 and files[0].stat().st_mtime_ns == before
    again = open_source('array_record', path=str(out), split='all')
    for i in range(12):
        np.testing.assert_array_equal(again.image(i), pixels[i])
    assert not list(out.glob(f'*{cache.PARTIAL}'))


def test_a_full_disk_is_one_line_and_costs_no_complete_file(tmp_path: Path) -> None:
    write_folder(tmp_path / 'data', SPLITS)
    source = open_source('folder', path=str(tmp_path / 'data'))
    with small_disks.mounted(tmp_path / 'disk', 1 << 20) as disk:
        out = disk / 'cache'
        write: Any = lambda: cache.write(out, 'train', source, 8, 95, say=print, per_file=5)  # noqa: E731
        cache.plan(out, {'train': source}, 8, 95, per_file=5)
        filler = small_disks.fill(disk)
        with pytest.raises(DiskFullError, match=r'No space left on device; free are .* -> make room; complete files'):
            write()
        assert not list(out.glob('*-of-00003'))
        small_disks.make_room(filler)
        assert write() == 0 and len(open_source('array_record', path=str(out), split='all')) == 12


def test_a_full_disk_and_a_kill_while_the_description_is_written(tmp_path: Path) -> None:
    write_folder(tmp_path / 'data', SPLITS)
    splits = {'train': open_source('folder', path=str(tmp_path / 'data'))}
    with small_disks.mounted(tmp_path / 'disk', 1 << 20) as disk:
        filler = small_disks.fill(disk)
        with pytest.raises(DiskFullError, match=r'No space left on device; free are .* -> make room; complete files'):
            cache.plan(disk / 'cache', splits, 8, 95)
        small_disks.make_room(filler)
        cache.plan(disk / 'cache', splits, 8, 95)
        assert set(cache.read(disk / 'cache')) == {'train'}
    killed = tmp_path / 'killed'
    killed.mkdir()
    (killed / f'{cache.FILE}{cache.PARTIAL}').write_text('{"spl')
    cache.plan(killed, splits, 8, 95)
    assert set(cache.read(killed)) == {'train'} and len(list(killed.iterdir())) == 1


def test_a_damaged_description(tmp_path: Path) -> None:
    for text in ('{"splits": []}', '{"splits": {"train": {"images": 3, "of": 1}}}', '[]', '{', ''):
        (tmp_path / cache.FILE).write_text(text)
        with pytest.raises(DataError, match=r'cannot read .* -> prepare the data again, in another folder'):
            cache.read(tmp_path)


def test_a_damaged_image_keeps_its_place(tmp_path: Path) -> None:
    write_folder(tmp_path / 'data', SPLITS)
    source, out = open_source('folder', path=str(tmp_path / 'data')), tmp_path / 'cache'
    Path(source.file_name(4)).write_bytes(b'no image')
    assert call('source=folder', str(tmp_path / 'data'), f'--out={out}') == 0
    after = open_source('array_record', path=str(out))
    assert len(after) == len(source) == 12
    with pytest.raises(ImageError):
        after.image(4)
    np.testing.assert_array_equal(after.image(5), source.image(5))


def test_other_folders_and_wrong_values_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / 'data', SPLITS)
    given = 'source=folder', str(tmp_path / 'data')
    assert call(*given, f'--out={tmp_path}/cache', '--size=8') == 0
    (tmp_path / 'file').write_text('')
    for argv, line in (
        ([f'--out={tmp_path}/cache', '--size=9'], 'holds a cache of other images, or of another size or quality'),
        ([f'--out={tmp_path}/data'], 'is not empty and holds no cache -> give another folder'),
        ([f'--out={tmp_path}/file'], "/file': File exists -> give another folder"),
        ([f'--out={tmp_path}/file/x'], "/file/x': Not a directory -> give another folder"),
        (
            [f'--out={tmp_path}/x', '--config.data.eval_split=train'],
            "data.split 'train' and data.eval_split 'train' are the same images",
        ),
        ([f'--out={tmp_path}/x', '--size=0'], '--size 0 is out of range -> give 1 to'),
        ([f'--out={tmp_path}/x', '--quality=101'], '--quality 101 is out of range -> give 0 to 100'),
    ):
        capsys.readouterr()
        assert call(*given, *argv) == 2
        err = capsys.readouterr().err
        assert line in err and err.count('\n') == 1 and not (tmp_path / 'x').exists()


def test_a_damaged_description_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / 'data', SPLITS)
    (tmp_path / 'cache').mkdir()
    (tmp_path / 'cache' / cache.FILE).write_text('{')
    assert call('source=folder', str(tmp_path / 'data'), f'--out={tmp_path}/cache') == DataError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot read '{tmp_path}/cache/{cache.FILE}': " in line


def test_deep_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / 'deep.npz', train_images=np.zeros((4, 6, 6, 1), np.uint16))
    source = open_source('npz', path=str(tmp_path / 'deep.npz'), channels=1)
    with pytest.raises(UserError, match='1 channels of 16 bits, and a cache holds RGB or gray of 8 bits'):
        cache.check_kind(source)
