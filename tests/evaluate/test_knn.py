"""kNN compared with the official code of DINO and lemniscate (golden values) and with scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from contrastive_jax.errors import UserError
from contrastive_jax.evaluate import knn
from tests import goldens


@pytest.mark.parametrize('case', goldens.cases('knn', 'knn'))
def test_votes_and_accuracies_are_those_of_dino_and_lemniscate(case):
    train, train_labels, test, test_labels = (
        case[name] for name in ('train_features', 'train_labels', 'test_features', 'test_labels')
    )
    if case.fields['top'] != [1, 5]:
        pytest.skip('the accuracies are those of 1 and of 5 classes')
    # The official code does not divide the features by their norms, which are 1 only to the precision of float32. The
    # division changes a similarity by up to `deviation`, and a vote by up to `deviation` / T.
    deviation = sum(np.abs(np.linalg.norm(x, axis=1) - 1).max() for x in (train, test))
    with jax.enable_x64(True):
        for setting in case.fields['votes']:
            k, temperature = setting['k'], setting['temperature']
            arguments = (case.fields['num_classes'], k, temperature)
            votes = np.asarray(knn.knn_votes(train, train_labels, test, *arguments))
            tolerance = case.tolerances['float64']
            goldens.assert_close(votes, case.key(setting['key']), tolerance + deviation / temperature, setting['key'])
            goldens.assert_close(votes, slow_votes(train, train_labels, test, *arguments), tolerance, setting['key'])
            accuracy = knn.knn_accuracy(train, train_labels, test, test_labels, *arguments)
            dino = [100 * accuracy[f'top{n}'] for n in case.fields['top']]
            np.testing.assert_allclose(dino, case.key(setting['dino_top1_top5']), rtol=1e-14)
            np.testing.assert_allclose(accuracy['top1'], case.key(setting['lemniscate_top1']), rtol=1e-14)


def slow_votes(train, labels, test, num_classes, k, temperature):
    """The definition, in loops over examples and neighbors."""
    votes = np.zeros((len(test), num_classes))
    for i, x in enumerate(test):
        cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in train]
        for j in sorted(range(len(train)), key=lambda j: -cosines[j])[:k]:
            votes[i, labels[j]] += np.exp(cosines[j] / temperature)
    return votes


def data(n=90, m=31, dim=6, classes=4):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, dim))
    labels = rng.integers(classes, size=n + m).astype(np.int32)
    features = (centers[labels] + rng.normal(size=(n + m, dim))).astype(np.float32)
    return features[:n], labels[:n], features[n:], labels[n:]


def test_probabilities_are_those_of_scikit_learn():
    train, labels, test, _ = data()
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    # |a - b|^2 = 2 - 2 cosine on the unit sphere
    oracle = KNeighborsClassifier(9, weights=lambda d: np.exp((1 - d**2 / 2) / 0.2)).fit(unit[0], labels)
    votes = np.asarray(knn.knn_votes(train, labels, test, 4, 9, 0.2))
    np.testing.assert_allclose(votes / votes.sum(1, keepdims=True), oracle.predict_proba(unit[1]), atol=1e-5)


@pytest.mark.parametrize('limits', [(7, 2**28), (1024, 300), (1024, 1)])
def test_chunks_change_nothing(monkeypatch, limits):
    train, labels, test, _ = data()
    whole = knn.knn_votes(train, labels, test, 4, 5)
    monkeypatch.setattr(knn, 'MAX_CHUNK', limits[0])
    monkeypatch.setattr(knn, 'MAX_SIMILARITIES', limits[1])
    chunked = knn.knn_votes(train, labels, test, 4, 5)
    assert chunked.shape == whole.shape
    np.testing.assert_allclose(chunked, whole, rtol=1e-4, atol=1e-6)


def test_classes_without_votes_are_ordered_by_number():
    """If one class has all votes, the top 5 of DINO are this class and the first four others."""
    train, labels = np.ones((6, 3), np.float32), np.full(6, 3)
    test = np.ones((8, 3), np.float32)
    hits = [knn.knn_accuracy(train, labels, test[:1], [label], num_classes=8, k=6)['top5'] for label in range(8)]
    assert hits == [1, 1, 1, 1, 1, 0, 0, 0]
    assert knn.knn_accuracy(train, labels, test[:1], [1], num_classes=8, k=2)['top5'] == 0  # top min(5, k)
    assert knn.knn_accuracy(train[:1], [0], test[:1], [0], num_classes=2, k=1) == {'top1': 1, 'top5': 1}


def test_a_zero_vector_is_no_nan_and_a_nan_is_no_accuracy():
    train, labels, test, test_labels = data()
    train[0] = test[0] = 0
    assert np.isfinite(knn.knn_votes(train, labels, test, 4, 90)).all()
    train[3, 2] = np.nan
    assert np.isnan(list(knn.knn_accuracy(train, labels, test, test_labels, 4, 5).values())).all()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'k': 91}, 'k = 91 and 90 training images'),
        ({'k': 0}, 'k = 0'),
        ({'temperature': 0.0}, 'temperature = 0.0'),
        ({'temperature': float('nan')}, 'temperature = nan'),
        ({'num_classes': 3}, 'labels range from 0 to 3, must lie in 0 to 2'),
        ({'train_labels': np.full(90, -1)}, 'have no labels'),
        ({'train_labels': np.zeros(89, int)}, r'90 training features, but labels of shape \(89,\)'),
        ({'test_labels': np.full(31, -1)}, 'the test images have no labels'),
        ({'test_features': np.zeros((0, 6)), 'test_labels': np.zeros(0, int)}, 'the test set is empty'),
    ],
)
def test_bad_input_is_one_line(change, message):
    names = ('train_features', 'train_labels', 'test_features', 'test_labels')
    arguments = {**dict(zip(names, data(), strict=True)), 'num_classes': 4, 'k': 5, **change}
    with pytest.raises(UserError, match=message) as error:
        knn.knn_accuracy(**arguments)
    assert '\n' not in str(error.value) and '->' in str(error.value)
