"""What the benchmark of learning curves says about runs; and that its recipes are legal and train on our side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import curve_recipes, curve_table, curves
from contrastive_jax.config.check import check, check_examples
from contrastive_jax.errors import UserError

SIZE = {'epochs': 1}


def make_run(side: str, seed: int, knn: float, method: str = 'simclr') -> dict[str, Any]:
    points = [{'images': 0, 'knn': 0.2, 'probe': 0.3}, {'images': 64, 'knn': knn, 'probe': knn + 0.1}]
    return {'method': method, 'side': side, 'seed': seed, 'size': SIZE, 'points': points}


def make_runs(ours: list[float], theirs: list[float], method: str = 'simclr') -> list[dict[str, Any]]:
    return [
        make_run(side, seed, value, method)
        for side, values in (('ours', ours), ('torch', theirs))
        for seed, value in enumerate(values)
    ]


def test_the_interval_is_scipys_of_welchs_test() -> None:
    a, b = [0.31, 0.35, 0.30], [0.40, 0.41, 0.39]
    found = curve_table.compare(a, b)
    expected = stats.ttest_ind(100 * np.array(a), 100 * np.array(b), equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(
        [found.difference - found.margin, found.difference + found.margin], [expected.low, expected.high]
    )
    assert found.ours == pytest.approx((32.0, np.std([31, 35, 30], ddof=1)))


@pytest.mark.parametrize(
    ('ours', 'theirs', 'verdict'),
    [
        ([0.31, 0.35, 0.30], [0.40, 0.41, 0.39], 'ours is below'),
        ([0.40, 0.41, 0.39], [0.31, 0.35, 0.30], 'ours is above'),
        ([0.31, 0.35, 0.30], [0.33, 0.36, 0.31], 'no difference'),
        ([0.3, 0.3], [0.3, 0.3], 'no difference'),
        ([0.31], [0.40, 0.41], 'too few seeds'),
    ],
)
def test_verdict(ours: list[float], theirs: list[float], verdict: str) -> None:
    assert curve_table.compare(ours, theirs).verdict == verdict


def test_only_what_is_missing_is_trained_also_after_a_kill(tmp_path: Path) -> None:
    file = tmp_path / 'results' / 'curves.jsonl'
    assert curve_table.read(file) == []
    first, second = make_run('ours', 0, 0.5), make_run('torch', 0, 0.5)
    curve_table.append(first, file)
    with file.open('a') as stream:
        stream.write('{"method": "sim')  # killed while it wrote
    assert curve_table.read(file) == [first]
    curve_table.append(second, file)
    assert curve_table.read(file) == [first, second]
    todo = curve_table.missing(curve_table.read(file), ['simclr', 'byol'], ['ours', 'torch'], [0, 1], SIZE)
    assert todo == [
        ('simclr', 'ours', 1), ('simclr', 'torch', 1),
        ('byol', 'ours', 0), ('byol', 'torch', 0), ('byol', 'ours', 1), ('byol', 'torch', 1),
    ]  # fmt: skip
    assert len(curve_table.missing([first], ['simclr'], ['ours'], [0], {'epochs': 2})) == 1  # another size


def test_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / 'curves.jsonl'
    file.write_text('{"method": \n{}\n')
    with pytest.raises(UserError, match=r'line 1 of .* -> delete the line'):
        curve_table.read(file)


def test_table_and_picture(tmp_path: Path) -> None:
    runs = [*make_runs([0.31, 0.35, 0.30], [0.40, 0.41, 0.39]), make_run('ours', 0, 0.4, 'byol')]
    lines = curve_table.table(runs).splitlines()
    assert len(lines) == 4  # byol has no run on the other side
    assert lines[2].startswith('| simclr (n = 3, 3) | knn | 20.0, 20.0 | 32.0 ± 2.6 | 40.0 ± 1.0 | -8.0 ± ')
    assert lines[3].startswith('|  | probe | 30.0, 30.0 | 42.0 ± 2.6 | 50.0 ± 1.0 | -8.0 ± ')
    curve_table.draw(runs, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('method', curve_recipes.METHODS)
def test_recipes_are_legal(method: str) -> None:
    size = curve_recipes.Size()
    config = curve_recipes.recipe(method, size, 1)
    with config.unlocked():
        config.data.update(source='npz', path='images.npz')
    assert check(config, 1, 1) == []
    assert check_examples(config, size.train_images, 1) == []
    assert config.seed == 1


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        ({}, ''),
        ({'points': 0}, '--points is below 1'),
        ({'epochs': 7}, '--epochs 7 is no multiple of --points 3'),
        ({'batch_size': 12}, '--batch_size 12 is no multiple of 8'),
        ({'train_images': 32}, 'above --train_images'),
    ],
)
def test_sizes_are_checked(change: dict[str, int], problem: str) -> None:
    assert problem in curve_recipes.Size(**change).problem()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods=simclrr'], "--methods 'simclrr' is unknown; did you mean 'simclr'?"),
        (['--side=jax'], "--side 'jax' is unknown"),
        (['--epochs=7'], '--epochs 7'),
        (['--seeds=a'], "--seeds 'a'"),
        ([], '--data is missing'),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert curves.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_cut(tmp_path: Path) -> None:
    images = np.arange(12 * 4 * 4 * 3, dtype=np.uint8).reshape(12, 4, 4, 3)
    labels = np.arange(12) % 2
    np.savez(tmp_path / 'all.npz', train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    file = curves.cut(tmp_path / 'all.npz', curve_recipes.Size(train_images=8, test_images=5), tmp_path)
    with np.load(file) as found:
        np.testing.assert_array_equal(found['train_images'], images[:8])
        np.testing.assert_array_equal(found['test_labels'], labels[:5])
    with pytest.raises(UserError, match='12 labeled train images, 13 are needed'):
        curves.cut(tmp_path / 'all.npz', curve_recipes.Size(train_images=13, test_images=5), tmp_path)


def test_the_tables_in_the_readme_are_those_of_the_results_and_have_all_methods() -> None:
    root = Path(__file__).parents[1]
    runs = curve_table.read(root / 'results' / 'curves.jsonl')
    readme = (root / 'benchmarks' / 'README.md').read_text(encoding='utf-8')
    assert curve_table.table(runs) in readme
    steps = readme[readme.index('| method | first loss |') :]
    rows = steps[: steps.index('\n\n')].splitlines()[2:]
    assert [row.split(' | ')[0].removeprefix('| ') for row in rows] == list(curve_recipes.METHODS)
