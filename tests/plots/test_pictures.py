"""The pictures of a run: complete PNGs of the expected size that show the pixels and labels of the data."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import DataError
from contrastive_jax.evaluate.online import Neighbors
from contrastive_jax.models.cpc import cut_patches
from contrastive_jax.plots import figures, pictures
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run
from tests import train_steps


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG; it must be complete and must not have a single color."""
    with Image.open(path) as image:
        assert image.format == 'PNG'
        assert np.asarray(image.convert('RGB')).std() > 0
        return image.size


def grid_size(rows: int, columns: int, title_lines: int, below: float) -> tuple[int, int]:
    """Width and height in pixels of a grid of images in figures.py, with `below` inches below each image."""
    width = figures.GAP + columns * (figures.CELL + figures.GAP)
    height = figures.LINE_HEIGHT * title_lines + rows * (figures.CELL + below) + 2 * figures.GAP
    return int(width * figures.DPI), int(height * figures.DPI)


@pytest.fixture(scope='module')
def config() -> ConfigDict:
    # Jitter and blur are not tested here.
    return train_steps.load('mocov2:tiny', **{'augment.jitter_probability': 0.0, 'augment.blur': (0.0, 0.0)})


@pytest.fixture(scope='module')
def run(config: ConfigDict) -> Run:
    return build_run(config, 1437)


@pytest.fixture
def folder(tmp_path: Path) -> sources.Source:
    """Images of different sizes, which a grid must crop to one size."""
    (tmp_path / 'images').mkdir()
    for i in range(3):
        Image.new('RGB', (9 + 4 * i, 12), (80 * i, 20, 30)).save(tmp_path / 'images' / f'{i}.png')
    return open_source('folder', path=str(tmp_path / 'images'), image_size=8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Records the arguments of the functions of figures.py, which draw nothing."""
    recorded: list[tuple] = []
    for name in ('contact_sheet', 'nearest_neighbors'):
        monkeypatch.setattr(figures, name, lambda *arguments: recorded.append(arguments))
    return recorded


def test_the_contact_sheet(tmp_path: Path, run: Run) -> None:
    path = tmp_path / 'augmentation.png'
    pictures.contact_sheet(open_source('digits'), run.policy, run.image_size, run.seed, path)
    # A row for each of eight images: the original, and two draws of both views.
    assert size_of(path) == pytest.approx(grid_size(pictures.ROWS, 1 + 2 * pictures.DRAWS, 2, figures.GAP), abs=1)
    assert os.listdir(tmp_path) == ['augmentation.png']


def test_what_the_contact_sheet_shows(run: Run, folder: sources.Source, calls: list[tuple]) -> None:
    digits = open_source('digits')
    pictures.contact_sheet(digits, run.policy, run.image_size, run.seed, Path('x.png'))
    pictures.contact_sheet(folder, run.policy, run.image_size, run.seed, Path('y.png'))
    (images, views, path, note), (few, few_views, *_) = calls
    assert path == Path('x.png') and note == '' and images.shape == (8, 8, 8, 3)
    np.testing.assert_array_equal(images[[0, -1]], digits.array[[0, -1]])
    assert list(views) == [f'view {view}, draw {draw}' for draw in (1, 2) for view in (1, 2)]
    views, few_views = list(views.values()), list(few_views.values())
    assert all(view.shape == (8, 8, 8, 3) for view in views)
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    for i in range(8):
        assert len({view[i].tobytes() for view in views}) == 4, 'no two draws are the same'
    assert few.shape == (3, 8, 8, 3) and few_views[0].shape == (3, 8, 8, 3)


def test_small_crops_are_called_local_views() -> None:
    policy = Policy(local_crops=6, local_size=4, jitter_probability=0.0, blur=(0.0, 0.0), local_blur=0.0)
    _, views = pictures.augmented(open_source('digits'), policy, 8, seed=0)
    assert list(views)[2:5] == ['local view 1, draw 1', 'local view 2, draw 1', 'view 1, draw 2']
    assert [x.shape for x in views.values()] == 2 * [(8, 8, 8, 3), (8, 8, 8, 3), (8, 4, 4, 3), (8, 4, 4, 3)]


def test_an_image_that_cannot_be_read_is_not_shown(tmp_path: Path, folder: sources.Source) -> None:
    Path(folder.file_name(0)).write_bytes(b'no image')
    images, views = pictures.augmented(folder, Policy(jitter_probability=0.0, blur=(0.0, 0.0)), 8, seed=0)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [80, 160])
    assert all(len(view) == 2 for view in views.values())
    for i in range(1, 3):
        Path(folder.file_name(i)).write_bytes(b'no image')
    with pytest.raises(DataError, match='none of 8 images of images can be read'):
        pictures.few_images(folder, 8, 8)


def test_patches_are_shown_side_by_side(rng: np.random.Generator) -> None:
    images = rng.uniform(size=(2, 6, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(pictures.tiled(cut_patches(images, 3, 3)), images)
    assert pictures.tiled(cut_patches(images, 3, 1)).shape == (2, 12, 21, 3)
    assert pictures.tiled(images) is images


def test_neighbors(tmp_path: Path, run: Run, folder: sources.Source) -> None:
    digits, test = open_source('digits'), open_source('digits', split='test')
    rng = np.random.default_rng(0)
    found = Neighbors(rng.permutation(360)[:8], rng.integers(0, 1437, (8, 8)))
    pictures.neighbors(digits, test, found, run.policy, 8, tmp_path / 'neighbors.png')
    assert size_of(tmp_path / 'neighbors.png') == pytest.approx(grid_size(8, 9, 1, figures.CAPTION_HEIGHT), abs=1)
    pictures.neighbors(
        folder, folder, Neighbors(np.array([0]), np.array([[2, 1]])), run.policy, 8, tmp_path / 'few.png'
    )
    assert size_of(tmp_path / 'few.png') == pytest.approx(grid_size(1, 3, 1, figures.CAPTION_HEIGHT), abs=1)


def test_what_neighbors_show(run: Run, folder: sources.Source, calls: list[tuple]) -> None:
    digits, test = open_source('digits'), open_source('digits', split='test')
    found = Neighbors(np.array([3, 359]), np.array([[5, 0, 1436], [1, 2, 3]]))
    pictures.neighbors(digits, test, found, run.policy, 8, Path('x.png'))
    pictures.neighbors(folder, folder, Neighbors(np.array([0]), np.array([[2, 1]])), run.policy, 8, Path('y.png'))
    (queries, near, _, query_labels, near_labels, names, _), (flat, flat_near, _, *labels, _, _) = calls
    for i, query in enumerate(found.queries):
        np.testing.assert_array_equal(queries[i], test.array[query])
        assert query_labels[i] == test.labels[query]
        for j, example in enumerate(found.nearest[i]):
            np.testing.assert_array_equal(near[i, j], digits.array[example])
            assert near_labels[i, j] == digits.labels[example]
    assert names == tuple('0123456789')
    assert flat.shape == (1, 8, 8, 3) and flat_near.shape == (1, 2, 8, 8, 3)
    assert [x.tolist() for x in labels] == [[-1], [[-1, -1]]]
    np.testing.assert_array_equal(flat_near[0, 0, 0, 0], [160, 20, 30])


@pytest.mark.parametrize('policy', [Policy(), Policy(mean=(0.305,) * 3, std=(0.376,) * 3)])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_to_rgb_inverts_the_normalization(policy: Policy, dtype: jnp.dtype) -> None:
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    pixels = np.asarray(policy.to_rgb(policy.normalize(jnp.asarray(images), dtype)))
    np.testing.assert_allclose(pixels, images / 255, atol=1e-6 if dtype == jnp.float32 else 0.004)
    assert pixels.min() >= 0 and pixels.max() <= 1


def test_to_rgb_clips_to_the_range_of_images() -> None:
    pixels = Policy().to_rgb(jnp.array([[[-99.0, 0.0, 99.0]]]))
    np.testing.assert_allclose(pixels, [[[0.0, 0.456, 1.0]]])


def test_to_rgb_inverts_a_whole_view() -> None:
    """If the crop is the whole image and there is no other distortion, a view is the image."""
    policy = Policy(
        crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter_probability=0.0, grayscale=0.0, blur=(0.0, 0.0)
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    view = policy(jax.random.split(jax.random.key(0), 2), jnp.asarray(images), 0, 6)
    np.testing.assert_allclose(policy.to_rgb(view), images / 255, atol=1e-6)
