"""Facts about data: the number of images, their stored sizes and whether they are gray."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import folder
from contrastive_jax.data.facts import DataFacts, measure
from contrastive_jax.data.sources import ArraySource, Subset


def test_a_folder_of_files_of_several_sizes(tmp_path: Path, rng: np.random.Generator) -> None:
    """The median of the shorter sides, in the header's pixels: the reduced decoding of JPEGs does not count."""
    for i, (height, width) in enumerate([(900, 1200), (1200, 900), (640, 480), (2000, 1000), (50, 60)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / f'{i}.jpg')
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    assert measure(folder.load(tmp_path, image_size=16)) == DataFacts(images=6, side=900, gray=False)


@pytest.mark.parametrize(('color', 'gray'), [(False, True), (True, False)])
def test_arrays(rng: np.random.Generator, color: bool, gray: bool) -> None:
    images = rng.integers(0, 256, (100, 20, 30), np.uint8)
    pixels = np.stack([images, images, images], axis=-1)
    if color:
        pixels[..., 2] //= 2
    source = ArraySource(pixels)
    assert measure(source) == DataFacts(100, 20, gray)
    assert measure(Subset(source, np.arange(3))) == DataFacts(3, 20, gray)


def test_a_16_bit_file(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 90), 3000, np.uint16)).save(tmp_path / 'x.png')
    assert measure(folder.load(tmp_path)) == DataFacts(1, 40, True)
