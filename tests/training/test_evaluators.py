"""The evaluation beside training: which numbers there are for which data, and whom they are about."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.devices import REPLICATED, find_devices
from contrastive_jax.evaluate import signals
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.evaluate.linear import linear_probe
from contrastive_jax.evaluate.online import Neighbors, OnlineFeatures, evenly_spaced, nearest, number_of_classes
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.methods import MethodState
from contrastive_jax.training.evaluators import Context, build_evaluators
from contrastive_jax.training.run import TrainState
from tests import train_steps
from tests.evaluate import pixel_encoder

SIGNALS = {'eval/feature_std', 'eval/effective_rank', 'eval/uniformity'}
ACCURACIES = {'eval/knn_top1', 'eval/probe_top1'}


def evaluate(
    train: sources.Source, test: sources.Source | None, mode: str = 'jit', count: int = 8, **fields: Any
) -> tuple[dict[str, float], Neighbors]:
    settings = {'data.image_size': pixel_encoder.SIZE, 'eval.batch_size': 16, 'eval.knn_k': 3}
    config = train_steps.load(
        'mocov2:tiny', **{**settings, **{f'eval.{name}': value for name, value in fields.items()}}
    )
    devices = find_devices(mode, count)
    features = OnlineFeatures(
        pixel_encoder.NETWORK,
        pixel_encoder.POLICY,
        devices,
        train,
        test,
        image_size=pixel_encoder.SIZE,
        batch_size=16,
        max_train=config.eval.max_train,
        max_test=config.eval.max_test,
    )
    params, stats = (devices.place(tree, REPLICATED) for tree in (pixel_encoder.PARAMS, pixel_encoder.STATS))
    method = MethodState(target={}, batch_stats={'online': {'encoder': stats}}, memory={})
    state = TrainState(0, {'encoder': params}, {}, method)
    context = Context(config, None, devices, train, test, features)
    found: dict[str, float] = {}
    for evaluator in build_evaluators(context):
        found |= evaluator(1, state)
    given = features.at(1, params, stats)
    return found, nearest(given.train, given.train_ids, given.test, given.test_ids)


def labels(n: int, classes: int = 3) -> np.ndarray:
    return np.arange(n) % classes


@pytest.mark.parametrize(('mode', 'count'), [('jit', 1), ('jit', 8), ('pmap', 8)])
def test_numbers_are_those_of_features_taken_by_hand(mode: str, count: int) -> None:
    train, test = pixel_encoder.source(37, labels(37)), pixel_encoder.source(19, labels(19), seed=1)
    found, neighbours = evaluate(train, test, mode, count)
    assert set(found) == SIGNALS | ACCURACIES
    h, h_test = pixel_encoder.features(train.array), pixel_encoder.features(test.array)
    given = (h, labels(37), h_test, labels(19), 3)
    assert found['eval/knn_top1'] == pytest.approx(knn_accuracy(*given, k=3, temperature=0.07)['top1'])
    assert found['eval/probe_top1'] == pytest.approx(linear_probe(*given)['top1'], abs=1 / 19 + 1e-6)
    for measure in (feature_std, signals.effective_rank, signals.uniformity):
        assert found[f'eval/{measure.__name__}'] == pytest.approx(float(measure(h_test)), rel=1e-3)
    assert all(isinstance(x, float) for x in found.values())
    assert neighbours.queries.shape == (8,) and neighbours.nearest.shape == (8, 8)


def test_the_subset_is_evenly_spaced_and_keeps_its_labels() -> None:
    """Labels follow the examples that were chosen, not their places: with images that are their class it is perfect."""
    n = 60
    train_labels, test_labels = np.sort(labels(n)), np.sort(labels(n))[::-1].copy()
    sheets = [np.broadcast_to(x[:, None, None, None] * 100, (n, 4, 4, 3)) for x in (train_labels, test_labels)]
    train, test = (
        sources.ArraySource(np.asarray(x, np.uint8), y)
        for x, y in zip(sheets, (train_labels, test_labels), strict=True)
    )
    found, neighbours = evaluate(train, test, max_train=20, max_test=10)
    assert found['eval/knn_top1'] == found['eval/probe_top1'] == 1.0
    assert set(neighbours.nearest.ravel()) <= set(evenly_spaced(n, 20))
    assert set(neighbours.queries) <= set(evenly_spaced(n, 10))
    for query, near in zip(neighbours.queries, neighbours.nearest[:, :3], strict=True):
        assert (train_labels[near] == test_labels[query]).all()


@pytest.mark.parametrize('case', ['no labels', 'no labels in training', 'no labels in test', 'no test'])
def test_without_labels_there_are_only_signals(case: str) -> None:
    train, test = labels(20), labels(12)
    match case:
        case 'no labels':
            found, _ = evaluate(pixel_encoder.source(20), pixel_encoder.source(12, seed=1))
        case 'no labels in training':
            found, _ = evaluate(pixel_encoder.source(20), pixel_encoder.source(12, test, seed=1))
        case 'no labels in test':
            found, _ = evaluate(pixel_encoder.source(20, train), pixel_encoder.source(12, seed=1))
        case 'no test':
            found, neighbours = evaluate(pixel_encoder.source(20, train), None)
            for query, near in zip(neighbours.queries, neighbours.nearest, strict=True):
                assert query not in near and len(set(near)) == 8, 'an image is not its own neighbour'
    assert set(found) == SIGNALS and np.isfinite(list(found.values())).all()


def test_images_without_a_label_are_left_out() -> None:
    """-1 costs the image that it marks, in either split, and not the measure."""
    y, y_test = labels(20), labels(12)
    y[3], y_test[5] = -1, -1
    train, test = pixel_encoder.source(20, y), pixel_encoder.source(12, y_test, seed=1)
    found, _ = evaluate(train, test)
    rows, rows_test = y >= 0, y_test >= 0
    h, h_test = pixel_encoder.features(train.array)[rows], pixel_encoder.features(test.array)[rows_test]
    given = (h, y[rows], h_test, y_test[rows_test], 3)
    assert found['eval/knn_top1'] == pytest.approx(knn_accuracy(*given, k=3, temperature=0.07)['top1'])
    assert set(found) == SIGNALS | ACCURACIES


def test_one_class_says_nothing() -> None:
    found, _ = evaluate(
        pixel_encoder.source(20, np.zeros(20, int)), pixel_encoder.source(12, np.zeros(12, int), seed=1)
    )
    assert set(found) == SIGNALS
    # Nor do held-out classes of which no image is trained on; a part of them counts as errors.
    found, _ = evaluate(pixel_encoder.source(20, labels(20, 2)), pixel_encoder.source(12, labels(12, 2) + 2, seed=1))
    assert set(found) == SIGNALS
    found, _ = evaluate(pixel_encoder.source(20, labels(20, 2)), pixel_encoder.source(12, np.repeat([0, 5], 6), seed=1))
    assert found['eval/knn_top1'] <= 0.5 and found['eval/probe_top1'] <= 0.5


def test_fewer_images_than_neighbours() -> None:
    train, test = pixel_encoder.source(5, labels(5, 2)), pixel_encoder.source(3, labels(3, 2), seed=1)
    found, neighbours = evaluate(train, test, knn_k=200)
    given = (pixel_encoder.features(train.array), labels(5, 2), pixel_encoder.features(test.array), labels(3, 2), 2)
    assert found['eval/knn_top1'] == pytest.approx(knn_accuracy(*given, k=5)['top1'])
    assert neighbours.queries.shape == (3,) and neighbours.nearest.shape == (3, 5)


def test_one_image_of_each() -> None:
    found, neighbours = evaluate(pixel_encoder.source(1), pixel_encoder.source(1, seed=1))
    assert found['eval/uniformity'] == 0.0 and found['eval/feature_std'] == pytest.approx(0, abs=1e-6)
    assert neighbours.nearest.tolist() == [[0]]


def test_an_unreadable_image_leaves_the_evaluation(tmp_path: Path) -> None:
    """Features and labels stay together behind it: images that are their class are still told perfectly."""
    for split, n in (('train', 12), ('val', 6)):
        for label, name in enumerate(('dark', 'light')):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new('RGB', (4, 4), (40 + 150 * label + i, 3 * i, 9)).save(folder / f'{i:02}.png')
    (tmp_path / 'train' / 'dark' / '03.png').write_bytes(b'')
    (tmp_path / 'val' / 'dark' / '00.png').write_bytes(b'')
    (tmp_path / 'val' / 'light' / '05.png').write_bytes(b'')
    train, test = (open_source('folder', path=str(tmp_path), split=s, image_size=4) for s in ('train', 'test'))
    found, neighbours = evaluate(train, test)
    assert found['eval/knn_top1'] == found['eval/probe_top1'] == 1.0
    shown = [Path(train.file_name(int(i))).name for i in np.unique(neighbours.nearest)]
    queried = [test.file_name(int(i)) for i in neighbours.queries]
    assert all(not name.endswith('val/dark/00.png') and not name.endswith('val/light/05.png') for name in queried)
    assert 3 not in neighbours.nearest and shown


# ================================ the parts ================================


def test_number_of_classes() -> None:
    ids = np.arange(6)
    assert (
        number_of_classes(pixel_encoder.source(6, labels(6, 3)), pixel_encoder.source(6, labels(6, 2)), ids, ids) == 3
    )
    assert (
        number_of_classes(pixel_encoder.source(6, labels(6, 2)), pixel_encoder.source(6, [0, 0, 0, 0, 0, 4]), ids, ids)
        == 5
    )
    assert number_of_classes(pixel_encoder.source(6, labels(6, 3)), None, ids, ids) == 0
    assert number_of_classes(pixel_encoder.source(6), pixel_encoder.source(6, labels(6)), ids, ids) == 0
    unknown = pixel_encoder.source(6, [0, 1, -1, 1, 0, 1])
    assert number_of_classes(unknown, pixel_encoder.source(6, labels(6)), ids, ids) == 0
    assert number_of_classes(unknown, pixel_encoder.source(6, labels(6, 2)), np.array([0, 1]), ids) == 2, (
        'among those asked for'
    )


def test_nearest_is_the_most_similar_by_slow_loops(rng: np.random.Generator) -> None:
    train, test = rng.normal(size=(20, 5)), rng.normal(size=(11, 5))
    train_ids, test_ids = np.arange(100, 120), np.arange(200, 211)
    found = nearest(train, train_ids, test, test_ids, queries=4, k=3)
    np.testing.assert_array_equal(found.queries, test_ids[evenly_spaced(11, 4)])
    for query, near in zip(found.queries, found.nearest, strict=True):
        x = test[query - 200]
        cosine = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in train]
        assert near.tolist() == [100 + j for j in sorted(range(20), key=lambda j: -cosine[j])[:3]]


def test_nearest_within_one_set(rng: np.random.Generator) -> None:
    x, ids = rng.normal(size=(9, 4)), np.arange(9)
    found = nearest(x, ids, x, ids)
    assert found.nearest.shape == (8, 8)
    assert all(query not in near for query, near in zip(found.queries, found.nearest, strict=True))
    one = x[:1]
    assert nearest(one, ids[:1], one, ids[:1]).nearest.shape == (1, 0), 'alone, it has no neighbour'
    zero = nearest(np.zeros((3, 4)), ids[:3], np.zeros((2, 4)), ids[:2])
    assert zero.nearest.tolist() == [[0, 1, 2]] * 2, 'collapsed features: no NaN, the first ones'


@pytest.mark.parametrize(('n', 'most'), [(5, 5), (5, 9), (10, 3), (1000, 7), (1, 1), (0, 4)])
def test_evenly_spaced(n: int, most: int) -> None:
    chosen = evenly_spaced(n, most)
    assert len(chosen) == min(n, most) == len(set(chosen.tolist())) and (np.diff(chosen) > 0).all()
    if 1 < most < n:
        assert chosen[0] == 0 and chosen[-1] == n - 1
        assert np.ptp(np.diff(chosen)) <= 1
