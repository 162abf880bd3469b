"""What is seen through an encoder, against scikit-learn, NumPy and the encoder's own numbers."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import StandardScaler

from contrastive_jax import load_encoder
from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.report import look
from tests import saved
from tests.little import get_config


def encoder(tmp_path: Path, name: str) -> Encoder:
    saved.save(get_config(name), tmp_path)
    return load_encoder(tmp_path)


def images(n: int) -> np.ndarray:
    return open_source('digits').array[:n]


def test_principal_components_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 7)) @ rng.normal(size=(7, 7)) + 5
    found, explained = look.principal_components(x, 3)
    oracle = PCA(3).fit(x)
    scores = oracle.transform(x)
    signs = np.sign((found * scores).sum(0))
    np.testing.assert_allclose(found, signs * scores, atol=1e-9)
    np.testing.assert_allclose(explained, oracle.explained_variance_ratio_, atol=1e-9)
    flipped, _ = look.principal_components(x[::-1], 3)
    np.testing.assert_allclose(flipped[::-1], found, atol=1e-9, err_msg='the signs hang on the data alone')


def test_principal_components_that_there_are_not() -> None:
    found, explained = look.principal_components(np.ones((4, 2), np.float32), 3)
    assert found.shape == (4, 3) and not found.any() and not explained.any()


def test_tsne_keeps_classes_that_are_far_apart_together(rng: np.random.Generator) -> None:
    labels = np.arange(60) % 3
    x = 20 * np.eye(8)[labels] + rng.normal(size=(60, 8))
    y = look.tsne(x)
    np.testing.assert_array_equal(look.tsne(x), y)
    distance = np.linalg.norm(y[:, None] - y[None], axis=-1) + 1e9 * np.eye(60)
    assert (labels[distance.argmin(1)] == labels).all() and y.shape == (60, 2)
    assert np.isfinite(look.tsne(rng.normal(size=(4, 3)))).all()


def test_the_confusion_matrix_is_scikit_learn_s(rng: np.random.Generator) -> None:
    """Of classes that overlap, so that the probe's optimum is reached: the same but for an image on the border."""
    labels = np.arange(700) % 3
    x = (np.array([[0, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0]])[labels] + rng.normal(size=(700, 4))).astype(np.float32)
    blank = np.zeros((700, 4, 4, 3), np.uint8)
    train, test = (sources.ArraySource(blank[rows], labels[rows]) for rows in (slice(0, 400), slice(400, 700)))
    matrix = look.confusion(look.Features(x[:400], x[400:], np.arange(400), np.arange(300), train, test, 3))
    scaler = StandardScaler().fit(x[:400])
    oracle = LogisticRegression(C=1 / (1e-4 * 400)).fit(scaler.transform(x[:400]), labels[:400])
    expected = confusion_matrix(labels[400:], oracle.predict(scaler.transform(x[400:])))
    np.testing.assert_array_equal(matrix.sum(1), 100)
    assert np.abs(matrix - expected).sum() <= 2
    assert (expected[~np.eye(3, dtype=bool)] > 5).all() and not np.array_equal(expected, expected.T)


def test_attention_and_patches_are_the_model_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, 'CELLS', 1)
    vit = encoder(tmp_path, 'mocov3_vit')
    given = images(3)
    found = look.attention(vit, given)
    assert found is not None
    whole = np.asarray(
        vit.module.apply(vit.variables, vit.policy.normalize(given), method='last_attention'), np.float32
    )  # [n, heads, 1 + N, 1 + N]
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-5)
    heads, N = whole.shape[1], whole.shape[3] - 1
    side = 8 // vit.module.patch_size
    assert found.shape == (3, heads, side, side) and side * side == N
    for i in range(3):
        for row in range(side):
            for column in range(side):
                patch = 1 + row * side + column
                np.testing.assert_allclose(found[i, :, row, column], whole[i, :, 0, patch], atol=1e-6)
    np.testing.assert_allclose(found.sum((2, 3)) + whole[:, :, 0, 0], 1, atol=1e-5)

    (tokens,) = vit.module.apply(vit.variables, vit.policy.normalize(given), 1, method='intermediate_layers')
    cells = look.cells(vit, given)
    assert cells is not None and cells[0].shape[1:3] == (side, side)
    np.testing.assert_allclose(cells[0][1, side - 1, 0], tokens[1, 1 + (side - 1) * side], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['mocov2', 'cmc', 'cpc'])
def test_cells_average_to_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The last map of a ResNet, of both of CMC's halves, and CPC's patches: their mean is what the encoder says."""
    monkeypatch.setattr(look, 'CELLS', 1)  # the last map of these little ones is small
    given = images(3)
    model = encoder(tmp_path, name)
    assert look.attention(model, given) is None
    found = look.cells(model, given)
    assert found is not None
    np.testing.assert_allclose(found[0].mean((1, 2)), np.asarray(model(given)), rtol=1e-4, atol=1e-4)


def test_maps_that_are_too_small_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, 'CELLS', 9)
    assert look.cells(encoder(tmp_path, 'mocov2'), images(2)) is None


def test_colours_span_what_there_is(rng: np.random.Generator) -> None:
    colours = look.as_colours(rng.normal(size=(4, 5, 5, 6)).astype(np.float32))
    assert colours.shape == (4, 5, 5, 3) and colours.min() == 0 and colours.max() == 1
    assert not look.as_colours(np.ones((2, 4, 4, 3), np.float32)).any(), 'collapsed: one colour, no NaN'
