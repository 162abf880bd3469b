"""Arrays, .npz files and the digits; the errors of `open_source` about names and paths that do not exist."""

import importlib.machinery
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from contrastive_jax.data import digits, sources
from contrastive_jax.data.labels import number_classes
from contrastive_jax.data.objects import ObjectSource
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.errors import DataError, MissingSplitError, UserError
from contrastive_jax.training.fit import load_data
from tests import train_steps

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


def test_digits_of_a_scikit_learn_that_keeps_them_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = importlib.machinery.ModuleSpec('sklearn', None, origin=str(tmp_path / '__init__.py'))
    monkeypatch.setattr(digits.importlib.util, 'find_spec', lambda name: elsewhere)
    for found, expected in zip(digits._read.__wrapped__(), digits._read(), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


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
        (np.zeros((6, 20, 4, 17), np.uint8), None, r'\[6, 20, 4, 17\].*give \[n, H, W, 3\]'),
        (np.zeros((6, 2, 5, 5), np.uint16), None, r'channels first.*transpose'),
        (IMAGES.astype(bool), None, 'which are no numbers'),
        (IMAGES[:0], None, 'n, H, W >= 1'),
        (IMAGES, LABELS[:5], r'\[5\] for 6 images'),
        (IMAGES, np.ones((6, 3)), 'one integer class per image'),
        (IMAGES, np.linspace(0, 1, 6), 'one integer class per image'),
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
    # The name in a recipe is that of a data set of TFDS, and not of this file.
    assert train.name == open_source('npz', 'cifar10', str(path)).name == 'a b ü'


def test_npz_of_one_split_without_labels_by_home_and_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / 'data.npz', images=IMAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for path in ('data.npz', '~/data.npz'):
        source = open_source('npz', path=path)
        assert len(source) == 6 and source.labels is None
    with pytest.raises(
        DataError, match=r"without labels and without the arrays test_images and test_labels.* has no split 'test'"
    ):
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
    assert open_source('npz', path=str(tmp_path / 'bare.npy')).fingerprint == sources.ArraySource(IMAGES).fingerprint


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'digts' is unknown; did you mean 'digits'\? -> choose from digits, npz, folder, tfds, hug"
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


# ================================ .npz files as people have them ================================


def npz(path: Path, **arrays: np.ndarray) -> dict[str, tuple[int, list[int] | None]]:
    """Writes the file; returns for each split the number of images and the labels."""
    np.savez(path, **arrays)
    found = {}
    for split in ('train', 'test'):
        try:
            source = open_source('npz', path=str(path), split=split)
        except MissingSplitError:
            continue
        found[split] = len(source), None if source.labels is None else source.labels.tolist()
    return found


def gray(n: int) -> np.ndarray:
    return np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2)


@pytest.mark.parametrize(
    'keys',
    [
        ('train_images', 'train_labels', 'val_images', 'val_labels'),
        ('X_train', 'y_train', 'X_test', 'y_test'),
        ('images', 'labels', 'test_images', 'test_labels'),
        ('data', 'targets', 'valid_data', 'valid_targets'),
        ('train_images', 'train_label', 'test_images', 'test_label'),
    ],
)
def test_names_of_arrays(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays = gray(3), np.array([0, 1, 1]), gray(2), np.array([[1], [0]])
    found = npz(tmp_path / 'x.npz', **dict(zip(keys, arrays, strict=True)))
    assert found == {'train': (3, [0, 1, 1]), 'test': (2, [1, 0])}
    source = open_source('npz', path=str(tmp_path / 'x.npz'))
    assert source.place == f'{keys[0]}, {keys[1]}'
    assert len(open_source('npz', path=str(tmp_path / 'x.npz'), split='all')) == 5


def test_one_labeled_split_is_held_out_in_part_and_one_without_labels_is_not(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 20)
    found = npz(tmp_path / 'x.npz', images=gray(40), labels=labels)
    assert found['train'] == (36, [0] * 18 + [1] * 18) and found['test'] == (4, [0, 0, 1, 1])
    assert npz(tmp_path / 'y.npz', images=gray(40)) == {'train': (40, None)}
    assert npz(tmp_path / 'z.npz', images=gray(3), labels=np.arange(3)) == {'train': (3, [0, 1, 2])}


@pytest.mark.parametrize(
    ('labels', 'expected'),
    [
        (np.array([0.0, 2.0, np.nan, 1.0]), [0, 2, -1, 1]),
        (np.array([True, False, True, True]), [1, 0, 1, 1]),
        (np.eye(3, dtype=np.float32)[[2, 0, 1, 1]], [2, 0, 1, 1]),
        (np.eye(3, dtype=bool)[[2, 0, 1, 1]], [2, 0, 1, 1]),
        (np.array([[0, 1], [0, 0], [1, 0], [0, 1]], np.uint8), [1, -1, 0, 1]),
        (np.array([[3], [1], [0], [2]]), [3, 1, 0, 2]),
    ],
)
def test_labels_in_other_forms_are_classes(labels: np.ndarray, expected: list[int], tmp_path: Path) -> None:
    assert sources.ArraySource(IMAGES[:4], labels).labels.tolist() == expected
    found = npz(tmp_path / 'x.npz', train_images=gray(4), train_labels=labels, test_images=gray(4), test_labels=labels)
    assert found == {'train': (4, expected), 'test': (4, expected)}


@pytest.mark.parametrize(
    ('labels', 'dtype'),
    [
        (np.ones((4, 3), np.uint8), 'uint8[4, 3]'),  # several classes an image
        (np.linspace(0, 1, 4), 'float64[4]'),
        (np.arange(4) - 2, 'int64[4]'),
        (np.zeros((4, 2, 2)), 'float64[4, 2, 2]'),
    ],
)
def test_labels_that_are_no_classes_are_left_out_and_said(labels: np.ndarray, dtype: str, tmp_path: Path) -> None:
    np.savez(tmp_path / 'x.npz', images=gray(4), labels=labels)
    source = open_source('npz', path=str(tmp_path / 'x.npz'))
    assert source.labels is None and len(source) == 4
    assert f'skipped: 1 array labels ({dtype}, not one class for each image)' in summary(source, None)


def test_names_as_labels_are_numbered_alike_in_both_splits(tmp_path: Path) -> None:
    given = {'train_labels': np.array(['dog', 'cat', 'dog']), 'test_labels': np.array(['eel', 'dog'])}
    found = npz(tmp_path / 'x.npz', train_images=gray(3), test_images=gray(2), **given)
    assert found == {'train': (3, [1, 0, 1]), 'test': (2, [2, 1])}
    assert open_source('npz', path=str(tmp_path / 'x.npz')).classes == ('cat', 'dog', 'eel')


def test_arrays_that_have_no_role_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / 'x.npz', images=gray(4), mean=np.zeros(3))
    source = open_source('npz', path=str(tmp_path / 'x.npz'))
    assert summary(source, None) == 'train: 4 images without labels (images), held out: none, skipped: 1 array mean'
    np.savez(tmp_path / 'y.npz', images=gray(4), train_images=gray(4))
    with pytest.raises(
        DataError, match='the arrays images and train_images have the same role -> leave one of them out'
    ):
        open_source('npz', path=str(tmp_path / 'y.npz'))
    np.savez(tmp_path / 'z.npz', images=gray(4), test_labels=np.zeros(4, int))
    with pytest.raises(DataError, match=r'has labels test_labels without images -> name the arrays'):
        open_source('npz', path=str(tmp_path / 'z.npz'))


@pytest.mark.parametrize('dtype', [np.int64, np.uint64])
def test_ids_of_more_than_32_bits_are_classes(tmp_path: Path, dtype: type) -> None:
    ids = np.array([2**62, 2**40, 2**62 + 1, 5, 2**40], dtype)
    np.savez(tmp_path / 'x.npz', train_images=gray(5), train_labels=ids, test_images=gray(2), test_labels=ids[1:3])
    train, test = (open_source('npz', path=str(tmp_path / 'x.npz'), split=split) for split in ('train', 'test'))
    assert train.classes == test.classes == ('5', str(2**40), str(2**62), str(2**62 + 1))
    assert train.labels.tolist() == [2, 1, 3, 0, 1] and test.labels.tolist() == [1, 3]
    if dtype is np.int64:
        np.savez(tmp_path / 'x.npz', train_images=gray(5), train_labels=np.where(ids == 5, -1, ids))
        source = open_source('npz', path=str(tmp_path / 'x.npz'), split='all')
        assert source.labels.tolist() == [1, 0, 2, -1, 0]


def test_ids_and_gaps_become_class_numbers(tmp_path: Path) -> None:
    """Memory depends on the number of classes, not on their largest id."""
    ids = np.array([2840764, -1, 1440764, 2140764])
    train, test = sources.ArraySource(gray(4), ids), sources.ArraySource(gray(2), ids[[3, 1]])
    numbered, held_out = number_classes(train, test)
    assert numbered.labels.tolist() == [2, -1, 0, 1] and held_out.labels.tolist() == [1, -1]
    assert numbered.classes == ('1440764', '2140764', '2840764') and numbered.fingerprint == train.fingerprint
    assert numbered.array is train.array and numbered.example(0)[1] == 2
    plain = sources.ArraySource(gray(3), np.array([0, 1, -1])), None
    assert number_classes(*plain) == plain


def test_chosen_images_are_decoded_for_the_size_of_the_crops(tmp_path: Path) -> None:
    """A run that chooses its size and one that goes on with it see the same pixels."""
    for i in range(2):
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f'{i}.jpg')
    whole, half = (open_source('folder', path=str(tmp_path), image_size=size) for size in (64, 8))
    chosen = sources.Subset(whole, np.array([1]))
    np.testing.assert_array_equal(chosen.for_image_size(8).image(0), half.image(1))
    assert chosen.for_image_size(8).image(0).shape == (32, 32, 3) and chosen.image(0).shape == (64, 64, 3)


def test_the_fingerprint_of_arrays_is_of_every_pixel_and_label() -> None:
    images = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 3), np.uint8)
    known = {sources.ArraySource(images, np.zeros(500, int)).fingerprint}
    for i in (0, 1, 499):
        other, labels = images.copy(), np.zeros(500, int)
        other[i, 3, 3, 2] ^= 1
        labels[i] = 1
        known |= {sources.ArraySource(*pair).fingerprint for pair in ((other, np.zeros(500, int)), (images, labels))}
    assert len(known) == 7
    assert sources.ArraySource(images, np.zeros(500, int)).fingerprint in known


def test_npz_names_with_other_separators_and_splits(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 5, 5, 3), np.uint8), np.arange(4) % 2
    for k, (train, test) in enumerate((('train-{}', 'dev.{}'), ('train/{}', 'val/{}'), ('{} trn', '{} eval'))):
        file = tmp_path / f'{k}.npz'
        arrays = {train.format('images'): images, train.format('labels'): labels}
        np.savez(file, **arrays, **{test.format('x'): images[:2] + 1, test.format('y'): labels[:2]})
        source, held = (open_source('npz', path=str(file), split=split) for split in ('train', 'test'))
        assert len(source) == 4 and len(held) == 2 and held.image(0).min() == 1 and held.labels.tolist() == [0, 1]


def test_a_path_that_the_digits_do_not_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not used by data.source 'digits' -> leave it out, or say what it holds"):
        open_source('digits', path=str(tmp_path))


def test_images_without_a_label_are_counted() -> None:
    train = sources.ArraySource(IMAGES, np.array([0, 1, -1, 0, 1, -1]))
    assert summary(train, None).startswith('train: 6 images in 2 classes, 2 of them without a label, held out: none')


def test_npz_of_objects_names_the_remedy(tmp_path: Path) -> None:
    np.savez(tmp_path / 'x.npz', images=np.zeros((2, 5, 5, 3), np.uint8), labels=np.array(['a', 'b'], object))
    with pytest.raises(DataError, match=r'Python objects.* -> .*labels.astype\(str\)'):
        open_source('npz', path=str(tmp_path / 'x.npz'))


class Numbered:
    """Images of one color each, and a label."""

    def __init__(self, colors: list[int]):
        self.colors = colors

    def __len__(self) -> int:
        return len(self.colors)

    def example(self, i: int) -> tuple[np.ndarray, int]:
        return np.full((4, 4, 3), self.colors[i], np.uint8), 0


def test_classes_of_a_user_with_as_many_images() -> None:
    """They are told apart by their images: as two splits, and when a run is resumed."""
    colors = list(range(100))
    one, again, other = (ObjectSource(Numbered(given), 'colors') for given in (colors, colors, colors[::-1]))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    sources.check_apart(one, other, 'train', 'test')
    with pytest.raises(UserError, match=r'are the same images: none are held out -> set'):
        sources.check_apart(one, again, 'train', 'test')


@pytest.mark.parametrize(('split', 'eval_split'), [('all', 'test'), ('train', 'all'), ('all', 'train[:5%]+test')])
def test_all_images_contain_those_of_every_split(split: str, eval_split: str) -> None:
    """kNN would find each held-out image itself. A training that measures nothing may have them all."""
    train, held_out = (open_source('digits', split=name) for name in (split, eval_split))
    with pytest.raises(UserError, match="may have images in common, because 'all' is every image"):
        sources.check_apart(train, held_out, split, eval_split)
    halves = 'all[:50%]', 'all[50%:]'
    sources.check_apart(*(open_source('digits', split=name) for name in halves), *halves)


def test_all_images_are_trained_on_where_nothing_is_measured() -> None:
    config = train_steps.load('mocov2:digits', **{'data.split': 'all'})
    with pytest.raises(UserError, match='may have images in common'):
        load_data(config)
    config.eval.evaluators = ()
    source, held_out = load_data(config)
    assert len(source) == 1797 and held_out is None
