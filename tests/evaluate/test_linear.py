"""The L-BFGS linear probe compared with the logistic regression of scikit-learn on the digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.linear import MAX_ITERATIONS, linear_probe, predictions

L2 = 1e-2


@pytest.fixture(scope='module')
def digits():
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)  # the corner pixels are constant: their standard deviation is 0
    return images[:900], labels[:900].astype(np.int32), images[900:1300], labels[900:1300].astype(np.int32)


def test_optimum_and_accuracy_are_those_of_scikit_learn(digits):
    train, labels, test, test_labels = digits
    scaler = StandardScaler().fit(train)
    x = scaler.transform(train)
    oracle = LogisticRegression(C=1 / (L2 * len(x)), tol=1e-8, max_iter=2000).fit(x, labels)
    penalty = L2 / 2 * np.sum(oracle.coef_**2)
    probe = linear_probe(*digits, num_classes=10, l2=L2)
    assert probe['train_loss'] == pytest.approx(log_loss(labels, oracle.predict_proba(x)) + penalty, abs=1e-4)
    assert probe['top1'] == pytest.approx(oracle.score(scaler.transform(test), test_labels), abs=0.005)
    assert probe['train_top1'] == pytest.approx(oracle.score(x, labels), abs=0.005)
    assert probe['top1'] <= probe['top5'] <= 1
    assert 5 < probe['iterations'] <= 100
    assert linear_probe(*digits, num_classes=10, l2=L2) == probe  # deterministic


def test_the_default_reaches_the_optimum(digits):
    """Also where that takes more than the 100 iterations of scikit-learn: dimensions that are nearly the same."""
    train, labels, test, test_labels = digits
    train, labels = train[:300], labels[:300]
    train, test = (x + 100 * x.mean(axis=1, keepdims=True) for x in (train, test))
    scaler = StandardScaler().fit(train.astype(np.float64))
    x = scaler.transform(train)
    oracle = LogisticRegression(C=1 / (1e-4 * len(x)), tol=1e-8, max_iter=5000).fit(x, labels)
    optimum = log_loss(labels, oracle.predict_proba(x)) + 1e-4 / 2 * np.sum(oracle.coef_**2)
    probe = linear_probe(train, labels, test, test_labels, num_classes=10)
    assert probe['train_loss'] == pytest.approx(optimum, abs=1e-4)
    assert probe['top1'] == pytest.approx(oracle.score(scaler.transform(test), test_labels), abs=0.005)
    assert 100 < probe['iterations'] < MAX_ITERATIONS


def test_nan_features_give_nan_not_chance(digits):
    train, labels, test, test_labels = digits
    train = train.copy()
    train[5, 30] = np.nan
    probe = linear_probe(train, labels, test, test_labels, 10, l2=L2)
    assert np.isnan([probe[name] for name in ('top1', 'top5', 'train_top1', 'train_loss')]).all()


def test_missing_labels_are_one_line(digits):
    train, labels, test, _ = digits
    with pytest.raises(UserError, match='the test images have no labels'):
        linear_probe(train, labels, test, np.full(len(test), -1), 10)
    with pytest.raises(UserError, match='training labels range from 0 to 9, must lie in 0 to 8'):
        linear_probe(train, labels, test, labels[: len(test)], 9)


def test_predictions_have_the_accuracy_of_the_probe(digits):
    """tests/report compares the predictions themselves with those of scikit-learn."""
    train, labels, test, test_labels = digits
    found = predictions(train, labels, test, 10)
    assert found.shape == (400,) and np.issubdtype(found.dtype, np.integer)
    assert np.mean(found == test_labels) == pytest.approx(linear_probe(*digits, num_classes=10)['top1'], abs=1e-6)
    train = train.copy()
    train[5, 30] = np.nan
    with pytest.raises(UserError, match='the features are not finite'):
        predictions(train, labels, test, 10)
