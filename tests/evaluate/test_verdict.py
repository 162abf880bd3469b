"""kNN on raw pixels, and the sentences about a run."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data import digits
from contrastive_jax.evaluate.pixels import pixel_accuracy
from contrastive_jax.evaluate.verdict import first_weights, verdict


def test_raw_pixels_of_the_digits_against_scikit_learn() -> None:
    train, test = digits.load('train'), digits.load('test')
    found = pixel_accuracy(
        train, np.arange(len(train)), test, np.arange(len(test)), policy=Policy(), image_size=8, k=20, temperature=0.07
    )
    assert train.array is not None and test.array is not None
    x, x_test = (a.reshape(len(a), -1) / np.linalg.norm(a.reshape(len(a), -1).astype(float), axis=1, keepdims=True)
                 for a in (train.array, test.array))  # fmt: skip
    votes = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(x, train.labels)
    assert found == pytest.approx(votes.score(x_test, test.labels), abs=1e-6)
    assert 0.94 < found < 0.96


@pytest.mark.parametrize(
    ('last', 'parts'),
    [
        ({}, []),
        ({'eval/feature_std': 0.01, 'eval/effective_rank': 40.0}, ['collapsed: ']),
        ({'eval/feature_std': 0.9, 'eval/effective_rank': 1.2}, ['collapsed: ']),
        ({'eval/feature_std': 0.9, 'eval/effective_rank': 40.0}, ['not collapsed']),
        ({'eval/knn_top1': 0.9, 'baseline/pixels_knn_top1': 0.5}, ['better than raw pixels (kNN 90.0%, raw pixels']),
        ({'eval/knn_top1': 0.4, 'baseline/pixels_knn_top1': 0.5}, ['worse than raw pixels']),
        ({'eval/knn_top1': 0.505, 'baseline/pixels_knn_top1': 0.5}, ['about as good as raw pixels']),
        ({'eval/knn_top1': 0.9, 'eval/knn_few_top1': 0.45, 'baseline/pixels_knn_top1': 0.5}, ['worse than raw']),
        ({'eval/knn_top1': 0.3, 'baseline/knn_top1': 0.5}, ['no better than the untrained encoder (50.0%)']),
    ],
)  # fmt: skip
def test_each_sentence(last: dict[str, float], parts: list[str]) -> None:
    lines = verdict(last)
    assert len(lines) == len(parts) and all(line.startswith(part) for line, part in zip(lines, parts, strict=True))


def test_a_run_from_given_weights_is_compared_with_them() -> None:
    assert first_weights('') == 'untrained encoder' and first_weights('runs/x') == 'given weights'
    last = {'eval/knn_top1': 0.9, 'eval/knn_few_top1': 0.5, 'baseline/knn_top1': 0.5}
    (line,) = verdict(last, first_weights('runs/x'))
    assert line.startswith('no better than the given weights (50.0%)'), 'on the same images'
