"""Slices of splits, and several of them joined, for kinds of data other than TFDS."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.data.labels import number_classes
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.errors import DataError, UserError


def test_slices_of_the_digits() -> None:
    train, test = open_source('digits', split='train'), open_source('digits', split='test')
    assert train.array is not None and test.array is not None and train.labels is not None and test.labels is not None
    part = open_source('digits', split='train[90%:]+test[:7] + train[:-1430]')
    rows, held = [*range(round(0.9 * 1437), 1437), *range(7)], 144
    assert part.array is not None and part.labels is not None and len(part) == len(rows) + 7
    np.testing.assert_array_equal(part.array[:held], train.array[rows[:held]])
    np.testing.assert_array_equal(part.array[held : held + 7], test.array[:7])
    np.testing.assert_array_equal(part.labels[held:], [*test.labels[:7], *train.labels[:7]])
    for i in (0, held, held + 7):
        image, label = part.example(i)
        np.testing.assert_array_equal(image, part.array[i])
        assert label == part.label(i) == part.labels[i]
    assert part.classes == train.classes and part.num_classes == 10
    again = pickle.loads(pickle.dumps(part))
    assert again.fingerprint == part.fingerprint != open_source('digits', split='train[90%:]+test[:7]').fingerprint
    assert '[1293:1437], [0:7]' in summary(part, None)


@pytest.mark.parametrize(
    ('split', 'line'),
    [
        ('train[:x]', r"data.split 'train[:x]': the slice [:x] is not START:END"),
        ('train+', r"data.split 'train+': '' is not a split or a slice of one"),
        ('train]', r"'train]' is not a split or a slice of one"),
        ('train[2000:]', r'train[2000:] has no image, train has 1,437 -> give a larger slice'),
        ('train[:1shard]', r'only TFDS data has shards -> give images or percentages'),
        ('train+tset', r"digits has no split 'tset'; did you mean 'test'?"),
    ],
)
def test_bad_slices_are_one_line(split: str, line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)) as error:
        open_source('digits', split=split)
    assert ' -> ' in str(error.value) and '\n' not in str(error.value)


def test_arrays_of_images_of_two_sizes_are_not_joined(tmp_path: Path) -> None:
    file = tmp_path / 'x.npz'
    np.savez(file, train_images=np.zeros((3, 8, 8, 3), np.uint8), test_images=np.zeros((2, 8, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r'train is uint8 with 3 channels of 8 x 8 px, test is .* of 8 x 6 px -> join'):
        open_source('npz', path=str(file), split='train+test')


def test_slices_that_share_images_with_the_evaluation_are_refused() -> None:
    def check(split: str, eval_split: str) -> None:
        given = [open_source('digits', split=name) for name in (split, eval_split)]
        sources.check_apart(given[0], given[1], split, eval_split)

    check('train[:90%]', 'train[90%:]')
    check('train[:50%]', 'test')
    # The digits have no split 'validation': the evaluation split replaces it.
    with pytest.raises(UserError, match='have 360 images in common, which would not be held out'):
        check('train+validation', 'test')
    with pytest.raises(UserError, match='have 10 images in common'):
        check('train', 'test+train[:10]')


def test_splits_of_a_folder_with_different_classes(tmp_path: Path) -> None:
    """Each split numbers the classes that train/ lacks by itself; joined, and against another split, names count."""
    files = 'train/a/0 train/b/0 train/b/1 val/b/0 val/x/0 val/z/0 test/a/0 test/y/0 test/z/0'
    for level, file in enumerate(files.split()):
        path = tmp_path / f'{file}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 9, 3), 20 * level, np.uint8)).save(path)
    train = open_source('folder', path=str(tmp_path), split='train[1:]+val', image_size=4)
    assert train.classes == ('a', 'b', 'x', 'z') and train.labels is not None
    names = [Path(train.file_name(i)).parent.name for i in range(len(train))]
    assert names == ['b', 'b', 'b', 'x', 'z'] == [train.classes[label] for label in train.labels]
    assert train.stored_size(4) == (6, 9) and train.array is None
    small = train.for_image_size(2)
    np.testing.assert_array_equal(small.image(3), open_source('folder', path=str(tmp_path), split='val').image(1))
    _, test = number_classes(train, open_source('folder', path=str(tmp_path), split='test'))
    assert test is not None and test.classes == ('a', 'b', 'x', 'z', 'y') and test.labels is not None
    np.testing.assert_array_equal(test.labels, [0, 4, 3])
    assert test.label(1) == test.example(1)[1] == 4
    assert summary(train, test).startswith('train: 5 images in 3 classes (train/ [1:3], val/), held out: 3 images')
