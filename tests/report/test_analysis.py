"""Analyses of an encoder, compared with scikit-learn, NumPy and the outputs of the encoder itself."""

import types
from pathlib import Path
from typing import Any

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
from contrastive_jax.report import analysis
from tests import untrained_workdirs
from tests.evaluate import pixel_encoder
from tests.tiny_configs import get_config


def encoder(tmp_path: Path, name: str) -> Encoder:
    untrained_workdirs.save(get_config(name), tmp_path)
    return load_encoder(tmp_path)


def images(n: int) -> np.ndarray:
    return open_source('digits').array[:n]


def test_principal_components_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 7)) @ rng.normal(size=(7, 7)) + 5
    found, explained = analysis.principal_components(x, 3)
    oracle = PCA(3).fit(x)
    scores = oracle.transform(x)
    signs = np.sign((found * scores).sum(0))
    np.testing.assert_allclose(found, signs * scores, atol=1e-9)
    np.testing.assert_allclose(explained, oracle.explained_variance_ratio_, atol=1e-9)
    flipped, _ = analysis.principal_components(x[::-1], 3)
    np.testing.assert_allclose(flipped[::-1], found, atol=1e-9, err_msg='signs do not depend on the order of rows')


def test_missing_principal_components_are_zero() -> None:
    found, explained = analysis.principal_components(np.ones((4, 2), np.float32), 3)
    assert found.shape == (4, 3) and not found.any() and not explained.any()


def test_tsne_separates_distant_classes(rng: np.random.Generator) -> None:
    labels = np.arange(60) % 3
    x = 20 * np.eye(8)[labels] + rng.normal(size=(60, 8))
    y = analysis.tsne(x)
    np.testing.assert_array_equal(analysis.tsne(x), y)
    distance = np.linalg.norm(y[:, None] - y[None], axis=-1) + 1e9 * np.eye(60)
    assert (labels[distance.argmin(1)] == labels).all() and y.shape == (60, 2)
    assert np.isfinite(analysis.tsne(rng.normal(size=(4, 3)))).all()


def test_the_confusion_matrix_is_scikit_learn_s(rng: np.random.Generator) -> None:
    """With overlapping classes the probe reaches its optimum; one image at a boundary may differ."""
    labels = np.arange(700) % 3
    x = (np.array([[0, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0]])[labels] + rng.normal(size=(700, 4))).astype(np.float32)
    blank = np.zeros((700, 4, 4, 3), np.uint8)
    train, test = (sources.ArraySource(blank[rows], labels[rows]) for rows in (slice(0, 400), slice(400, 700)))
    matrix = analysis.confusion(analysis.Features(x[:400], np.arange(400), x[400:], np.arange(300), train, test, 3))
    scaler = StandardScaler().fit(x[:400])
    oracle = LogisticRegression(C=1 / (1e-4 * 400)).fit(scaler.transform(x[:400]), labels[:400])
    expected = confusion_matrix(labels[400:], oracle.predict(scaler.transform(x[400:])))
    np.testing.assert_array_equal(matrix.sum(1), 100)
    assert np.abs(matrix - expected).sum() <= 2
    assert (expected[~np.eye(3, dtype=bool)] > 5).all() and not np.array_equal(expected, expected.T)


def test_attention_and_patch_tokens_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, 'MIN_CELLS', 1)
    vit = encoder(tmp_path, 'mocov3_vit')
    given = images(3)
    found = analysis.attention(vit, given)
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
    maps = analysis.feature_maps(vit, given)
    assert maps is not None and maps[0].shape[1:3] == (side, side)
    np.testing.assert_allclose(maps[0][1, side - 1, 0], tokens[1, 1 + (side - 1) * side], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['mocov2', 'cmc', 'cpc'])
def test_the_mean_of_a_feature_map_is_the_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """For the last map of a ResNet, of both encoders of CMC, and for the patches of CPC."""
    monkeypatch.setattr(analysis, 'MIN_CELLS', 1)  # the last feature map of these networks is small
    given = images(3)
    model = encoder(tmp_path, name)
    assert analysis.attention(model, given) is None
    found = analysis.feature_maps(model, given)
    assert found is not None
    np.testing.assert_allclose(found[0].mean((1, 2)), np.asarray(model(given)), rtol=1e-4, atol=1e-4)


def test_an_encoder_of_users_has_no_feature_map() -> None:
    own: Any = types.SimpleNamespace(module=pixel_encoder.Pixels())
    assert analysis.feature_maps(own, images(2)) is None


def test_feature_maps_that_are_too_small_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, 'MIN_CELLS', 9)
    assert analysis.feature_maps(encoder(tmp_path, 'mocov2'), images(2)) is None


def test_colors_span_the_whole_range(rng: np.random.Generator) -> None:
    colors = analysis.pca_colors(rng.normal(size=(4, 5, 5, 6)).astype(np.float32))
    assert colors.shape == (4, 5, 5, 3) and colors.min() == 0 and colors.max() == 1
    assert not analysis.pca_colors(np.ones((2, 4, 4, 3), np.float32)).any(), (
        'collapsed features have one color, and no NaN'
    )
