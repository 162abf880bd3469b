"""Features of a data set: each example once and in order, on any number of devices, without unreadable images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import loader, sources
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.devices import REPLICATED, find_devices
from contrastive_jax.distributed.stopping import heeding
from contrastive_jax.errors import DataError, Interrupted
from contrastive_jax.evaluate.features import FeatureExtractor
from tests.evaluate import pixel_encoder

MODES = [('jit', 1), ('jit', 8), ('pmap', 1), ('pmap', 8)]


def extract(
    source: sources.Source, indices: np.ndarray, mode: str = 'jit', count: int = 8, batch_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    devices = find_devices(mode, count)
    extractor = FeatureExtractor(
        pixel_encoder.NETWORK, pixel_encoder.POLICY, devices, image_size=pixel_encoder.SIZE, batch_size=batch_size
    )
    params, stats = (devices.place(tree, REPLICATED) for tree in (pixel_encoder.PARAMS, pixel_encoder.STATS))
    return extractor(params, stats, source, indices)


@pytest.mark.parametrize(('mode', 'count'), MODES)
@pytest.mark.parametrize('n', [1, 16, 37])
def test_each_example_once_and_in_order(mode: str, count: int, n: int) -> None:
    """Fewer examples than devices, one full batch, and a padded last batch."""
    source = pixel_encoder.source(n)
    h, index = extract(source, np.arange(n), mode, count)
    np.testing.assert_array_equal(index, np.arange(n))
    assert h.dtype == np.float32 and h.shape == (n, 3 * pixel_encoder.SIZE)
    np.testing.assert_allclose(h, pixel_encoder.features(source.array), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('mode', 'count'), [('jit', 8), ('pmap', 8)])
def test_chosen_examples_in_the_given_order(mode: str, count: int) -> None:
    source = pixel_encoder.source(40)
    chosen = np.array([39, 0, 7, 7, 21, 3, 38, 1, 2, 30, 4])
    h, index = extract(source, chosen, mode, count, batch_size=8)
    np.testing.assert_array_equal(index, chosen)
    np.testing.assert_allclose(h, pixel_encoder.features(source.array[chosen]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('batch_size', [1, 7, 9, 1000])
def test_a_batch_size_that_the_devices_do_not_divide(batch_size: int) -> None:
    source = pixel_encoder.source(21)
    h, index = extract(source, np.arange(21), batch_size=batch_size)
    np.testing.assert_array_equal(index, np.arange(21))
    np.testing.assert_allclose(h, pixel_encoder.features(source.array), rtol=1e-4, atol=1e-5)


def test_a_signal_ends_it_between_two_batches() -> None:
    asked: list[str | None] = [None, None, 'SIGUSR1']
    with heeding(lambda: asked.pop(0)), pytest.raises(Interrupted, match='SIGUSR1 while features were computed'):
        extract(pixel_encoder.source(80), np.arange(80))
    assert asked == [], 'of five batches two were computed'
    assert len(extract(pixel_encoder.source(40), np.arange(40))[1]) == 40, 'outside of the context nobody is asked'


def folder(path: Path, n: int, damaged: tuple[int, ...]) -> sources.Source:
    images = pixel_encoder.source(n).array
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f'{i:03}.png')
    for i in damaged:
        (path / f'{i:03}.png').write_bytes(b'no image')
    return open_source('folder', path=str(path), image_size=pixel_encoder.SIZE)


@pytest.mark.parametrize(('mode', 'count'), MODES)
def test_unreadable_images_are_left_out(tmp_path: Path, mode: str, count: int) -> None:
    damaged = (0, 10, 18)  # the first image, one in the middle, and one of the padded batch
    source = folder(tmp_path, 19, damaged)
    h, index = extract(source, np.arange(19), mode, count)
    kept = np.setdiff1d(np.arange(19), damaged)
    np.testing.assert_array_equal(index, kept)
    np.testing.assert_allclose(h, pixel_encoder.features(pixel_encoder.source(19).array[kept]), rtol=1e-4, atol=1e-5)


def test_too_many_unreadable_images_are_an_error(tmp_path: Path) -> None:
    source = folder(tmp_path, 12, tuple(range(loader.MAX_BAD_FEW + 1)))
    with pytest.raises(DataError, match=r'6 of 12 images cannot be read'):
        extract(source, np.arange(12))
