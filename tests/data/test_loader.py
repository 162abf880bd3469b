"""The loader: one order whatever the start, the hosts and the workers; damaged images; clean ends."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.augment.styles import STYLES
from contrastive_jax.data import folder, images, loader, sampler, sources
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import DataError, UserError

N, BATCH = 13, 4
PHOTOS = np.random.default_rng(0).integers(0, 256, (N, 24, 20, 3), np.uint8)
SOURCE = sources.ArraySource(PHOTOS, np.arange(N) % 3)


def train(source: sources.Source = SOURCE, **kwargs: Any) -> list[loader.Batch]:
    settings = {'seed': 5, 'batch_size': BATCH, 'image_size': 8, 'num_views': 2, 'stop_step': 7}
    return list(loader.train_batches(source, **{**settings, **kwargs}))


def assert_equal(a: loader.Batch, b: loader.Batch) -> None:
    assert a.keys() == b.keys() == {'crops', 'index', 'label'}
    for x, y in zip([*a['crops'], a['index'], a['label']], [*b['crops'], b['index'], b['label']], strict=True):
        np.testing.assert_array_equal(x, y)


def test_crops_in_the_style_of_a_recipe() -> None:
    batch = train(style='byol', interpolation='bicubic', num_views=1, stop_step=1)[0]
    for row, (index, crop) in enumerate(zip(batch['index'], batch['crops'][0], strict=True)):
        rng = np.random.default_rng((5, 0, row, 1))
        expected = images.random_resized_crop(PHOTOS[index], rng, 8, interpolation='bicubic', style=STYLES['byol'])
        np.testing.assert_array_equal(crop, expected)


class Damaged(sources.ArraySource):
    """Some images of an array cannot be read."""

    def __init__(self, bad: set[int], photos: np.ndarray = PHOTOS):
        super().__init__(photos, np.arange(len(photos)))
        self.bad = bad

    def image(self, i: int) -> np.ndarray:
        if i in self.bad:
            raise images.ImageError('truncated')
        return super().image(i)


def wait_for_threads() -> None:
    """Waits until Grain's threads have ended; fails after five seconds."""
    deadline = time.monotonic() + 5
    while any(t.name.startswith('grain-prefetch') for t in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_batches_are_those_of_the_sampler_and_the_crops_those_of_the_images() -> None:
    batches = train()
    assert len(batches) == 7
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(batch['index'], sampler.batch_index(5, step, N, BATCH))
        np.testing.assert_array_equal(batch['label'], batch['index'] % 3)
        assert batch['index'].dtype == batch['label'].dtype == np.int32
        assert [c.shape for c in batch['crops']] == [(BATCH, 8, 8, 3)] * 2
        assert all(c.dtype == np.uint8 for c in batch['crops'])
    # A crop of everything, at the image's own size, is the image.
    square = sources.ArraySource(PHOTOS[:, :20])
    whole = next(iter(train(square, image_size=20, crop_scale=(1, 1), crop_ratio=(1, 1), stop_step=1)))
    for crops in whole['crops']:
        np.testing.assert_array_equal(crops, PHOTOS[whole['index'], :20])


def test_views_steps_rows_and_seeds_differ() -> None:
    same = sources.ArraySource(np.repeat(PHOTOS[:1], N, axis=0))
    crops = np.concatenate([c for seed in (5, 6) for b in train(same, seed=seed) for c in b['crops']])
    assert len({crop.tobytes() for crop in crops}) > 0.95 * len(crops)


def test_the_start_does_not_matter() -> None:
    everything = train()
    for start in (1, 3, 6):
        for resumed, batch in zip(train(start_step=start), everything[start:], strict=True):
            assert_equal(resumed, batch)
    assert train(start_step=7) == []


@pytest.mark.parametrize('count', [2, 4])
def test_the_number_of_processes_does_not_matter(count: int) -> None:
    shares = [train(process_index=p, process_count=count) for p in range(count)]
    for whole, parts in zip(train(), zip(*shares, strict=True), strict=True):
        joined = {name: np.concatenate([part[name] for part in parts]) for name in ('index', 'label')}
        views = zip(*(part['crops'] for part in parts), strict=True)
        assert_equal({**joined, 'crops': tuple(np.concatenate(view) for view in views)}, whole)


def test_multi_crop() -> None:
    batch = train(num_views=3, image_size=(16, 8, 8), crop_scale=((0.4, 1), (0.05, 0.4), (0.05, 0.4)))[0]
    assert [c.shape[1] for c in batch['crops']] == [16, 8, 8]
    with pytest.raises(UserError, match='3 views have 2 crop sizes'):
        train(num_views=3, image_size=(16, 8))


def test_bad_batch_sizes() -> None:
    with pytest.raises(UserError, match='30 is not divisible by 8 processes -> use 24 or 32'):
        train(batch_size=30, process_count=8)
    with pytest.raises(DataError, match='13 images are fewer than batch_size 16'):
        train(batch_size=16)


def test_a_damaged_image_is_replaced_by_the_next_and_the_same_again(caplog: pytest.LogCaptureFixture) -> None:
    source = Damaged({2, 3, N - 1})
    replaced = {2: 4, 3: 4, N - 1: 0}
    first = train(source)
    for step, batch in enumerate(first):
        wanted = sampler.batch_index(5, step, N, BATCH)
        np.testing.assert_array_equal(batch['index'], [replaced.get(i, i) for i in wanted])
        np.testing.assert_array_equal(batch['label'], batch['index'])
    for again, batch in zip(train(source, start_step=2), first[2:], strict=True):
        assert_equal(again, batch)


def test_each_damaged_file_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 files, 3 of them empty, cut off, or text; and one that vanishes during the run."""
    for k in range(64):
        (tmp_path / f'{k:02}.png').parent.mkdir(exist_ok=True)
        Image.fromarray(PHOTOS[k % N]).save(tmp_path / f'{k:02}.png')
    (tmp_path / '05.png').write_bytes(b'')
    (tmp_path / '11.png').write_bytes((tmp_path / '11.png').read_bytes()[:200])
    (tmp_path / '12.png').write_text('text')
    lines: list[str] = []
    monkeypatch.setattr(loader.logging, 'warning', lambda line, *args: lines.append(line % args))
    source = folder.load(tmp_path)
    batches = loader.train_batches(source, seed=0, batch_size=16, image_size=8, num_views=1, stop_step=12)
    for _ in range(4):
        next(batches)
    os.remove(tmp_path / '40.png')
    list(batches)
    named = sorted(line.split(' (')[0].rpartition('/')[2] for line in lines)
    assert named == ['05.png', '11.png', '12.png', '40.png']


def test_too_many_damaged_images() -> None:
    photos = np.repeat(PHOTOS, 8, axis=0)
    scattered = Damaged(set(range(0, len(photos), 10)), photos)
    with pytest.raises(DataError, match='images cannot be read, more than 1%; the last was') as raised:
        train(scattered, batch_size=13, stop_step=16)
    assert raised.value.exit_code == 3
    block = Damaged(set(range(20, 40)), photos)
    with pytest.raises(DataError, match='11 images in a row cannot be read, from 2'):
        train(block, batch_size=13, stop_step=16)
    wait_for_threads()


def test_going_round_does_not_add_up() -> None:
    assert len(train(Damaged({1, 2, 3}), stop_step=60)) == 60


@pytest.mark.parametrize('size', [8, 20])  # 20: images in memory that are used as they are
def test_eval_reads_every_index_once_in_order_and_pads(size: int) -> None:
    source = SOURCE if size == 8 else sources.ArraySource(PHOTOS[:, :20], np.arange(N) % 3)
    indices = np.array([7, 1, 12, 0, 3, 3])
    for count in (1, 2):
        shares = [
            list(
                loader.eval_batches(
                    source, indices=indices, image_size=size, batch_size=4, process_index=p, process_count=count
                )
            )
            for p in range(count)
        ]
        assert {len(share) for share in shares} == {2}
        joined = [
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*shares, strict=True)
        ]
        index = np.concatenate([b['index'] for b in joined])
        assert index.tolist() == [7, 1, 12, 0, 3, 3, -1, -1]
        assert np.concatenate([b['label'] for b in joined]).tolist() == [1, 1, 0, 0, 0, 0, -1, -1]
        pictures = np.concatenate([b['image'] for b in joined])
        assert pictures.dtype == np.uint8 and pictures.shape == (8, size, size, 3) and not pictures[6:].any()
        crop = images.center_crop(PHOTOS[7], 8, fraction=1.0) if size == 8 else PHOTOS[7, :20]
        np.testing.assert_array_equal(pictures[0], crop)
        for batch in shares[0]:
            assert batch['index'].dtype == batch['label'].dtype == np.int32
    assert sum(len(b['index']) for b in loader.eval_batches(source, image_size=size, batch_size=13)) == N


def test_eval_passes_arrays_of_the_right_size_and_resizes_others() -> None:
    square = sources.ArraySource(PHOTOS[:, :20])
    (batch,) = loader.eval_batches(square, image_size=20, batch_size=N)
    np.testing.assert_array_equal(batch['image'], PHOTOS[:, :20])
    assert batch['label'].tolist() == [-1] * N  # no labels
    (batch,) = loader.eval_batches(square, image_size=10, batch_size=N)
    # Halving is a filter over neighbours; the mean stays.
    np.testing.assert_allclose(batch['image'].mean((1, 2)), PHOTOS[:, :20].mean((1, 2)), atol=4)
    # CIFAR for an encoder of ImageNet: Resize(256), CenterCrop(224), as in MoCo v3's transfer.
    (batch,) = loader.eval_batches(square, indices=np.arange(1), image_size=224, batch_size=1)
    resized = Image.fromarray(PHOTOS[0, :20]).resize((256, 256), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(batch['image'][0], np.asarray(resized)[16:240, 16:240], atol=1)


@pytest.mark.parametrize(('size', 'short'), [(64, 64), (127, 127), (128, 146), (224, 256)])
def test_eval_prepares_files_and_arrays_alike(size: int, short: int, tmp_path: Path) -> None:
    """torchvision's Resize(short) and CenterCrop(size), which exported encoders name."""
    photos = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), np.uint8).repeat(60, 1).repeat(60, 2)  # 360 x 300
    for i, photo in enumerate(photos):
        (tmp_path / 'train').mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / 'train' / f'{i}.png')
    found = [
        next(iter(loader.eval_batches(source, image_size=size, batch_size=2)))['image']
        for source in (sources.ArraySource(photos), open_source('folder', path=str(tmp_path)))
    ]
    np.testing.assert_array_equal(*found)
    assert short == round(size / images.crop_fraction(size))
    resized = Image.fromarray(photos[0]).resize((short, int(short * 360 / 300)), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in resized.size)
    expected = np.asarray(resized.crop((left, top, left + size, top + size))).astype(int)
    assert np.abs(found[0][0] - expected).max() <= 1


def test_eval_in_the_style_of_a_recipe() -> None:
    for source, crop in (
        (SOURCE, lambda picture: images.center_crop(picture, 8, 'bicubic', STYLES['simclr'], 1.0)),
        (sources.ArraySource(PHOTOS[:, :20]), lambda picture: images.interpolate(picture, 8, 'bicubic')),
    ):
        (batch,) = loader.eval_batches(source, image_size=8, batch_size=N, interpolation='bicubic', style='simclr')
        np.testing.assert_array_equal(batch['image'], [crop(source.image(i)) for i in range(N)])


def test_eval_marks_damaged_images() -> None:
    (batch,) = loader.eval_batches(Damaged({2}), image_size=8, batch_size=N)
    assert batch['index'].tolist() == [0, 1, -1, *range(3, N)]
    assert batch['label'][2] == -1 and not batch['image'][2].any()


def test_closing_early_ends_the_threads() -> None:
    batches = loader.train_batches(SOURCE, seed=0, batch_size=4, image_size=8, num_views=2, stop_step=10**9)
    next(batches)
    batches.close()
    wait_for_threads()
    train()
    wait_for_threads()


def test_examples_can_be_sent_to_workers() -> None:
    example = loader.EvalExample(
        source=SOURCE, batch_size=4, interpolation='bilinear', style='byol', process_index=0, process_count=1,
        indices=np.arange(4), image_size=8,
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(example))(1)['index'] == 1


def test_worker_processes_give_the_same_batches_and_their_death_is_an_error() -> None:
    """Starting a worker takes seconds, so one test does both."""
    batches = loader.train_batches(
        SOURCE, seed=5, batch_size=BATCH, image_size=8, num_views=2, stop_step=10**6, num_workers=2
    )
    for expected in train():
        assert_equal(next(batches), expected)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r'data loader died.*data\.workers.*exit code -9'):
        for _ in range(10**6):
            next(batches)
    assert not multiprocessing.active_children()
