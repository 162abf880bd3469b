"""Images of any depth and number of channels: as arrays, in files, their statistics and their crops on the host."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.augment.policy import Policy
from contrastive_jax.augment.styles import STYLES
from contrastive_jax.data import channels, images, loader, sources
from contrastive_jax.data.open import open_source, summary
from contrastive_jax.data.pixels import image_array
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.evaluate.pixels import _pixels

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (6, 7, 5, 13), np.uint16)
BYTES = np.uint8(DEEP >> 8)


@pytest.mark.parametrize('C', [1, 2, 4, 13, 16])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_levels_of_any_number_of_channels_stay_as_they_are(C: int, dtype: type) -> None:
    given = RNG.integers(0, 256, (3, 5, 4, C)).astype(dtype)
    source = sources.ArraySource(given, channels=C)
    np.testing.assert_array_equal(source.array, given)
    assert (source.channels, source.dtype) == (C, given.dtype)
    assert sources.Subset(source, np.array([2])).channels == C


def test_gray_becomes_rgb_unless_one_channel_is_wanted() -> None:
    gray = DEEP[..., :1]
    assert image_array(gray, 'x')[0].shape[3] == image_array(gray[..., 0], 'x', 3)[0].shape[3] == 3
    np.testing.assert_array_equal(image_array(gray[..., 0], 'x', 1)[0], gray)
    for given, wanted in ((DEEP, 4), (DEEP[..., :4], 3), (gray, 2)):
        with pytest.raises(DataError, match=f'the network takes {wanted} -> give images with {wanted} channel'):
            image_array(given, 'x', wanted)


def test_other_numbers_need_their_range() -> None:
    x = RNG.normal(0.5, 0.4, (2, 5, 5, 4))
    levels, remarks = image_array(x.astype(np.float32), 'x', value_range=1)
    np.testing.assert_allclose(levels / 65535, x.clip(0, 1), atol=1e-5)
    assert 'negative values (down to -' in remarks[-1]
    twelve = RNG.integers(0, 4096, (2, 5, 5, 4))
    for dtype in (np.uint16, np.int32, np.float64):
        np.testing.assert_allclose(
            image_array(twelve.astype(dtype), 'x', value_range=4095)[0] / 65535, twelve / 4095, atol=1e-5
        )
    assert image_array(twelve.astype(np.uint16), 'x')[1] == (
        f'the largest of the 16-bit values is {twelve.max():,}: data.value_range=4095 would make that white',
    )
    with pytest.raises(DataError, match=r'int32.*not uint8.*or set data.value_range'):
        image_array(twelve.astype(np.int32), 'x')
    with pytest.raises(DataError, match='image 1 has values that are not finite'):
        image_array(np.where(np.arange(2)[:, None, None, None] == 1, np.nan, x), 'x', value_range=1)


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    for given, white in ((DEEP, 65535), (BYTES, 255)):
        mean, std = channels.mean_and_std(sources.ArraySource(given))
        np.testing.assert_allclose(mean, given.mean((0, 1, 2)) / white, rtol=1e-5)
        np.testing.assert_allclose(std, given.std((0, 1, 2)) / white, rtol=1e-5)
    assert channels.mean_and_std(sources.ArraySource(np.full((2, 4, 4, 2), 51, np.uint8))) == ((0.2, 0.2), (1.0, 1.0))


def test_npz_of_many_channels(tmp_path: Path) -> None:
    path = str(tmp_path / 'bands.npz')
    np.savez(path, images=DEEP, labels=np.arange(6) % 2)
    train, held_out, everything = (open_source('npz', path=path, split=split) for split in ('train', 'test', 'all'))
    assert (len(train), len(held_out), len(everything)) == (4, 2, 6)
    assert {source.channels for source in (train, held_out, everything)} == {13}
    assert '13 channels of 16 bits' in summary(train, held_out)
    np.savez(path, train_images=DEEP, test_images=BYTES)
    with pytest.raises(DataError, match='uint16 with 13 channels, uint8 with 13 channels -> store them alike'):
        open_source('npz', path=path, split='all')
    with pytest.raises(UserError, match='read as RGB'):
        open_source('tfds', 'cifar10', channels=4)


class Bands:
    """Images of 13 channels; the last one has a channel less."""

    def __init__(self, split: str, path: str):
        pass

    def __len__(self) -> int:
        return 6

    def example(self, i: int) -> tuple[np.ndarray, int]:
        return DEEP[i, ..., : 13 - (i == 5)], i


def test_a_class_of_the_users_own_may_give_any_channels() -> None:
    source = open_source(f'{__name__}:Bands')
    assert (source.channels, source.dtype) == (13, np.uint16)
    np.testing.assert_array_equal(source.image(3), DEEP[3])
    with pytest.raises(DataError, match='example 5 is uint16 with 12 channels, others are uint16 with 13'):
        source.image(5)


@pytest.mark.parametrize('style', ['pil', 'byol'])
def test_crops_of_many_channels_are_those_of_rgb_three_by_three(style: str) -> None:
    """Pillow crops the first three channels as one RGB image; 16 bits give the same to within a level of 8 bits."""
    image, deep = np.tile(BYTES[0], (5, 7, 1)), np.tile(DEEP[0], (5, 7, 1))

    def crop(given: np.ndarray) -> np.ndarray:
        return images.random_resized_crop(given, np.random.default_rng(1), 9, style=STYLES[style])

    def center(given: np.ndarray) -> np.ndarray:
        return images.center_crop(given, 12, style=STYLES[style])

    for cut in (crop, center):
        rounding = 0 if style == 'pil' else 1
        np.testing.assert_allclose(np.int16(cut(image))[..., :3], cut(image[..., :3]), rtol=0, atol=rounding)
        assert cut(deep).dtype == np.uint16
        np.testing.assert_allclose(cut(deep) / 257, cut(np.uint8(deep // 257)), atol=1.6)


def test_pixels_that_are_compared_are_in_the_unit_range() -> None:
    source = sources.ArraySource(DEEP[:, :5], np.arange(6))
    x, labels = _pixels(source, np.array([4, 1]), Policy(), 5)
    np.testing.assert_allclose(x, DEEP[[4, 1], :5].reshape(2, -1) / 65535, rtol=1e-6)
    assert labels.tolist() == [4, 1]


def test_the_loader_keeps_depth_and_channels() -> None:
    source = sources.ArraySource(np.tile(DEEP, (1, 3, 4, 1)))
    given = {'seed': 0, 'batch_size': 2, 'image_size': 8, 'num_views': 2, 'stop_step': 1}
    (batch,) = loader.train_batches(source, **given)
    assert [(x.shape, x.dtype) for x in batch['crops']] == [((2, 8, 8, 13), np.uint16)] * 2
    batches = list(loader.eval_batches(source, image_size=20, batch_size=4))
    assert batches[1]['image'].shape == (4, 20, 20, 13) and (batches[1]['image'][2:] == 0).all()


def test_gray_files_keep_their_depth_as_one_channel(tmp_path: Path) -> None:
    deep = RNG.integers(0, 4096, (2, 6, 6), np.uint16)
    for i, gray in enumerate(deep):
        Image.fromarray(gray).save(tmp_path / f'{i}.png')
    Image.fromarray(BYTES[0, ..., :3]).save(tmp_path / 'rgb.png')
    assert open_source('folder', path=str(tmp_path)).channels == 3, 'unless one channel is asked for'
    source = open_source('folder', path=str(tmp_path), channels=1)
    assert (source.channels, source.dtype, source.image(0).shape) == (1, np.uint16, (6, 6, 1))
    np.testing.assert_allclose(source.image(1)[..., 0] / 65535, deep[1] / 4095, atol=1e-5)
    luma = np.asarray(Image.fromarray(BYTES[0, ..., :3]).convert('L'))
    np.testing.assert_array_equal(source.image(2)[..., 0], luma.astype(np.uint16) * 257)


def test_bands_of_tiff_files(tmp_path: Path) -> None:
    tifffile = pytest.importorskip('tifffile')
    kinds = {'contig': DEEP[0], 'separate': DEEP[1].transpose(2, 0, 1)}
    for i, (planes, image) in enumerate(kinds.items()):
        tifffile.imwrite(tmp_path / f'{i}.tif', image, photometric='minisblack', planarconfig=planes)
    source = open_source('folder', path=str(tmp_path))
    assert (source.channels, source.dtype, source.stored_size(0)) == (13, np.uint16, (7, 5))
    for i in range(2):
        np.testing.assert_array_equal(source.image(i), DEEP[i])
    with pytest.raises(DataError, match='the images have 13 channels, and the network takes 4'):
        open_source('folder', path=str(tmp_path), channels=4)
    pages, few = tmp_path / 'pages', tmp_path / 'few'
    for folder in (pages, few):
        folder.mkdir()
    tifffile.imwrite(pages / '0.tif', DEEP[0])
    tifffile.imwrite(few / '0.tif', BYTES[0, ..., :4], photometric='rgb', extrasamples=['unspecified'])
    assert '1 of 1 sampled images have several frames or pages' in open_source('folder', path=str(pages)).remarks[0]
    with pytest.raises(DataError, match=r"axes are QYX \[7, 5, 13\].*planarconfig='contig'"):
        open_source('folder', path=str(pages), channels=13)
    assert 'data.channels=4 does it' in open_source('folder', path=str(few)).remarks[0]
    np.testing.assert_array_equal(open_source('folder', path=str(few), channels=4).image(0), BYTES[0, ..., :4])
    (tmp_path / '0.tif').write_bytes((tmp_path / '0.tif').read_bytes()[:200])
    with pytest.raises(images.ImageError):
        source.image(0)
    Image.fromarray(BYTES[0, ..., :3]).save(tmp_path / '0.tif')
    with pytest.raises(images.ImageError, match='3 channels'):
        source.image(0)
