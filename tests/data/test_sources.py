"""Arrays, .npz files and the digits; the errors of `open_source` about names and paths that do not exist."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import DataError, UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_digits() -> None:
    data = load_digits()
    train, test = open_source('digits', split='train'), open_source('digits', name='digits', split='test')
    assert len(train) == 1437 and len(test) == 360
    assert train.array is not None and train.array.dtype == np.uint8 and train.array.shape == (1437, 8, 8, 3)
    for source, first in ((train, 0), (test, 1437)):
        image, label = source.example(7)
        np.testing.assert_allclose(image[..., 0] / 255, data.images[first + 7] / 16, atol=0.5 / 255)
        assert (image == image[..., :1]).all()
        assert label == source.label(7) == data.target[first + 7]
    assert train.classes == tuple('0123456789')
    assert train.fingerprint != test.fingerprint


def test_array_source() -> None:
    source = sources.ArraySource(IMAGES, LABELS[:, None])
    assert source.labels.dtype == np.int32 and source.label(4) == 1
    assert source.array is source.array and np.array_equal(source.image(3), IMAGES[3])
    assert source.file_name(3) == '3'
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint
    unlabeled = sources.ArraySource(IMAGES)
    assert unlabeled.labels is None and unlabeled.label(0) == -1


@pytest.mark.parametrize('gray', [IMAGES[..., 0], IMAGES[..., :1]])
def test_gray_arrays_are_widened(gray: np.ndarray) -> None:
    source = sources.ArraySource(gray)
    for channel in range(3):
        np.testing.assert_array_equal(source.array[..., channel], IMAGES[..., 0])


@pytest.mark.parametrize(
    ('images', 'labels', 'message'),
    [
        (IMAGES / 255, None, r'float64.*not uint8.*255 \* x'),
        (IMAGES.transpose(0, 3, 1, 2), None, r'channels first.*transpose'),
        (IMAGES[..., :2], None, r'\[6, 5, 4, 2\].*give \[n, H, W, 3\]'),
        (IMAGES[:0], None, 'n, H, W >= 1'),
        (IMAGES, LABELS[:5], r'\[5\] for 6 images'),
        (IMAGES, np.eye(6), 'one-hot'),
        (IMAGES, LABELS - 2, 'number the classes from 0'),
    ],
)
def test_arrays_of_another_form_are_refused(images: np.ndarray, labels: np.ndarray | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sources.ArraySource(images, labels)


@pytest.mark.parametrize(
    'keys',
    [('train_images', 'train_labels', 'test_images', 'test_labels'), ('x_train', 'y_train', 'x_test', 'y_test')],
)
def test_npz(tmp_path: Path, keys: tuple[str, ...]) -> None:
    path = tmp_path / 'a b ü.npz'
    np.savez(path, **dict(zip(keys, (IMAGES[:4], LABELS[:4], IMAGES[4:], LABELS[4:]), strict=True)))
    train, test = (open_source('npz', path=str(path), split=split) for split in ('train', 'validation'))
    np.testing.assert_array_equal(train.array, IMAGES[:4])
    np.testing.assert_array_equal(test.array, IMAGES[4:])
    np.testing.assert_array_equal(test.labels, LABELS[4:])
    assert train.name == 'a b ü' and open_source('npz', 'mine', str(path)).name == 'mine'


def test_npz_of_one_split_without_labels_by_home_and_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / 'data.npz', images=IMAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for path in ('data.npz', '~/data.npz'):
        source = open_source('npz', path=path)
        assert len(source) == 6 and source.labels is None
    with pytest.raises(DataError, match="no split 'test': it holds images"):
        open_source('npz', path='data.npz', split='test')


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_malicious_npz_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / 'canary'
    objects = np.array([Canary(canary)], dtype=object)
    np.savez(tmp_path / 'objects.npz', images=objects)
    (tmp_path / 'pickle.npz').write_bytes(pickle.dumps(Canary(canary)))
    for name in ('objects.npz', 'pickle.npz'):
        with pytest.raises(DataError, match='pickled objects are refused'):
            open_source('npz', path=str(tmp_path / name))
    assert not canary.exists()


def test_damaged_npz(tmp_path: Path) -> None:
    good = tmp_path / 'good.npz'
    np.savez_compressed(good, images=IMAGES, labels=LABELS)
    data = good.read_bytes()
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, 'little')
    huge = header + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 8, 8, 3), }".ljust(117) + b'\n'
    with zipfile.ZipFile(tmp_path / 'huge.npz', 'w') as file:
        file.writestr('images.npy', huge)
    (tmp_path / 'cut.npz').write_bytes(data[: len(data) // 2])
    (tmp_path / 'flipped.npz').write_bytes(data[:100] + bytes([data[100] ^ 255]) + data[101:])
    (tmp_path / 'empty.npz').write_bytes(b'')
    (tmp_path / 'text.npz').write_text('no array')
    for name in ('huge', 'cut', 'flipped', 'empty', 'text'):
        with pytest.raises(DataError, match=f"cannot read '.*{name}.npz'"):
            open_source('npz', path=str(tmp_path / f'{name}.npz'))
    np.save(tmp_path / 'bare.npy', IMAGES)
    with pytest.raises(DataError, match='one array without a name'):
        open_source('npz', path=str(tmp_path / 'bare.npy'))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'digts' is unknown; did you mean 'digits'\? -> choose from digits, npz, folder, tfds"
    ):
        open_source('digts')
    with pytest.raises(UserError, match="'trian'; did you mean 'train'"):
        open_source('digits', split='trian')
    with pytest.raises(UserError, match=r"no data set 'cifar01' -> set data\.name to 'digits', .* npz, fold") as raised:
        open_source('digits', name='cifar01')
    assert raised.value.exit_code == 2
    with pytest.raises(UserError, match=r"data\.source 'npz' needs data\.path -> set data\.path to the \.npz file$"):
        open_source('npz')
    with pytest.raises(UserError, match=r'gs://.*gcsfuse'):
        open_source('folder', path='gs://bucket/data')
    (tmp_path / 'cifar.npz').touch()
    with pytest.raises(DataError, match=r"cifra.npz' does not exist.*did you mean 'cifar.npz'.*np\.savez") as raised:
        open_source('npz', path=str(tmp_path / 'cifra.npz'))
    assert raised.value.exit_code == 3
    with pytest.raises(DataError, match=r'is a folder; an .npz file is needed'):
        open_source('npz', path=str(tmp_path))
    for error in ('cifra.npz', ''):
        with pytest.raises(DataError) as raised:
            open_source('npz', path=str(tmp_path / error))
        assert '\n' not in str(raised.value)
