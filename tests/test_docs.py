"""The pages of the documentation: links, Python code and tables are right; tests/test_docs_commands.py has commands."""

import contextlib
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from contrastive_jax import errors, losses
from contrastive_jax.config.choose import choose
from contrastive_jax.config.find import list_configs, variants_of
from contrastive_jax.config.load import load
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.data.npz import IMAGES, LABELS
from contrastive_jax.data.open import open_source
from contrastive_jax.data.splits import NAMES
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.training.evaluators import EVALUATORS
from contrastive_jax.workdir.folder import FREE
from tests import test_layers, train_steps, untrained_workdirs
from tests.pages import DOCS, OTHERS, ROOT, blocks, coded, prose, rows, section, text
from tests.test_docs_commands import has_field

# tests/test_extending.py runs the code of this page.
WITH_CODE = tuple(page for page in DOCS if page != 'docs/extending.md')


# ================================ links ================================


def anchors(page: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', [*DOCS, *OTHERS])
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
        if re.match(r'https?:', link):
            continue
        path, _, anchor = link.partition('#')
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f'{page} links to {link}'
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f'{page} links to {link}'


def test_the_readme_leads_to_every_page() -> None:
    assert set(re.findall(r'\]\((docs/[\w-]+\.md)\)', text('README.md'))) == {*DOCS} - {'README.md'}


# ================================ Python code ================================


@pytest.fixture(autouse=True)
def _same_import_path() -> Iterator[None]:
    """Takes back what loading a config adds to the places that Python imports from."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope='module')
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Runs the Python code of a page, in a folder with a run, and returns the names that it defines."""
    folder = tmp_path_factory.mktemp('pages')
    untrained_workdirs.save(train_steps.load('mocov2:tiny'), folder / 'runs' / 'digits')
    rng, labels = np.random.default_rng(0), np.arange(24) % 10
    # Classes that differ: among random images all similarities are nearly equal, and rounding decides the vote.
    images = rng.integers(0, 200, (10, 8, 8, 3), np.uint8)[labels] + rng.integers(0, 56, (2, 24, 8, 8, 3), np.uint8)
    given = {'images': images[0], 'labels': labels, 'test_images': images[1], 'test_labels': labels}

    @functools.cache
    def run(page: str) -> dict[str, Any]:
        names: dict[str, Any] = dict(given)
        with contextlib.chdir(folder):
            for code in blocks(page, 'python'):
                exec(compile(code, page, 'exec'), names)
        return {**names, 'folder': folder}

    return run


@pytest.mark.parametrize('page', [page for page in WITH_CODE if blocks(page, 'python')])
def test_python_code_runs(run_page: Callable[[str], dict[str, Any]], page: str) -> None:
    run_page(page)


@pytest.mark.parametrize('page', ['README.md', 'docs/losses.md'])
def test_losses_of_the_page(run_page: Callable[[str], dict[str, Any]], page: str) -> None:
    names = run_page(page)
    assert np.isfinite(names['loss']) and names['gradient'].shape == (256, 128)


def test_the_classifier_has_the_weights_of_the_run(run_page: Callable[[str], dict[str, Any]]) -> None:
    names = run_page('docs/weights.md')
    head = names['variables']['params']['head']
    expected = names['h'] @ head['kernel'] + head['bias']  # not the weights of model.init
    np.testing.assert_allclose(names['logits'], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(names['same'](names['images']), names['h'])
    largest = np.abs(names['h']).max()
    np.testing.assert_allclose(names['features'], names['h'], rtol=1e-5, atol=1e-6 * largest)  # of the .jaxexport file


def test_evaluation_in_python(run_page: Callable[[str], dict[str, Any]]) -> None:
    names = run_page('docs/evaluation.md')
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.asarray(names['h']), np.asarray(names['h_test']))]
    votes = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(unit[0], names['labels'])
    assert abs(votes.score(unit[1], names['test_labels']) - names['accuracy']) < 0.05
    assert 0 <= names['probe'] <= 1


def test_own_npz_file(run_page: Callable[[str], dict[str, Any]]) -> None:
    file = run_page('docs/own-data.md')['folder'] / 'mine.npz'
    everything, held_out = (open_source('npz', path=str(file), split=split) for split in ('all', 'test'))
    assert len(everything) == 100 and sorted(held_out.labels) == list(range(10))


# ================================ tables ================================


Runs = list[dict[str, float]]


def mean(runs: Runs, name: str) -> str:
    return f'{100 * np.mean([run[name] for run in runs]):.1f}'


def with_range(runs: Runs, name: str) -> str:
    """The mean and, of several runs, the lowest and the highest value."""
    values = [100 * run[name] for run in runs]
    return mean(runs, name) + (f' ({min(values):.1f} to {max(values):.1f})' if len(runs) > 1 else '')


COLUMNS = ('eval', with_range), ('baseline', mean)


@pytest.fixture(scope='module')
def measured() -> dict[str, Runs]:
    """What `contrastive_jax.reproduce` has measured on the digits, by config; the newest line of each seed."""
    newest = {}
    for result in map(json.loads, text('results/digits.jsonl').splitlines()):
        newest[result['config'], result['changes'].get('seed', 0)] = result['pretraining']
    found: dict[str, Runs] = {}
    for (config, _), pretraining in newest.items():
        found.setdefault(config, []).append(pretraining)
    return found


def test_results_are_those_of_the_file(measured: dict[str, Runs]) -> None:
    """The table has every line of the file and no other number."""
    shown = {}
    for config, _, *numbers in rows(section('docs/results.md', 'Digits'))[1:]:
        shown[coded(config)[0].replace('.py:', ':')] = numbers
    assert shown == {
        config: [
            str(len(runs)),
            *(show(runs, f'{when}/{what}_top1') for what in ('knn', 'probe') for when, show in COLUMNS),
        ]
        for config, runs in measured.items()
    }


def test_table_of_methods(measured: dict[str, Runs]) -> None:
    table = rows(section('docs/methods.md', 'Methods'))[1:]
    assert len(table) > 12
    for _, configs, _, _, here, _ in table:
        found = [measured[f'{config}:digits'] for config in coded(configs)]
        shown = [(mean(runs, 'eval/knn_top1'), mean(runs, 'baseline/knn_top1')) for runs in found]
        assert re.findall(r'(\d+\.\d) \((\d+\.\d)\)', here) == shown, configs


def test_results_in_the_readme(measured: dict[str, Runs]) -> None:
    table = rows(section('README.md', 'Results'))[1:]
    assert len(table) > 5
    for method, *numbers in table:
        runs = measured[f'{coded(method)[0]}:digits']
        assert numbers == [mean(runs, 'eval/knn_top1'), mean(runs, 'baseline/knn_top1')], method


def test_table_of_lengths() -> None:
    """Sizes and lengths are those that the variant `folder` chooses; the hours follow from the formula on the page."""
    cpu, gpu = (Machine('cpu', cores=2), 2 * 2e10), (Machine('gpu', memory_gib=40), 2e13)
    table = rows(section('docs/own-data.md', 'How long it takes'))[1:]
    assert len(table) == 10
    for images, side, device, views, encoder, batch, epochs, steps, gflop, hours in table:
        machine, rate = {'CPU': cpu, 'GPU': gpu}[device]
        n, total = int(images.replace(',', '')), int(steps.replace(',', ''))
        config, _ = choose(load('mocov2:folder'), DataFacts(n, int(side)), machine)
        found = (config.data.image_size, config.encoder.name, config.batch_size, config.epochs)
        assert found == (int(views), *coded(encoder), int(batch), float(epochs)), images
        assert total == round(config.epochs) * (n // config.batch_size)
        assert abs(float(gflop) * 1e9 * config.batch_size * total / rate / 3600 - float(hours)) < 0.06 + 0.02 * float(
            hours
        )


def test_table_of_recipes() -> None:
    """Every recipe, with every variant and no other."""
    table = {
        cells[0].strip('`'): cells[-1] for cells in rows(section('docs/methods.md', 'Recipes')) if '.py' in cells[0]
    }
    assert set(table) == {f'{name}.py' for name in list_configs() if '/' not in name}
    for file, cell in table.items():
        variants = [name for name in coded(cell) if not name.startswith(':')]
        assert sorted(variants) == sorted(variants_of(file.removesuffix('.py'))), file


def test_table_of_protocols() -> None:
    part = section('docs/evaluation.md', 'Protocols of the papers')
    table = {cells[0].strip('`'): cells[-1] for cells in rows(part) if '.py' in cells[0]}
    assert {f'eval/{file}' for file in table} == {f'{name}.py' for name in list_configs() if '/' in name}
    for file, cell in table.items():
        assert sorted(coded(cell)) == sorted(variants_of(f'eval/{file.removesuffix(".py")}')), file


def test_table_of_losses() -> None:
    listed = [name for cells in rows(text('docs/losses.md'))[1:] for name in coded(cells[0])]
    assert sorted(listed) == sorted(losses.__all__)


def test_table_of_rooms() -> None:
    """The rooms and their order are those that tests/test_layers.py checks."""
    table = rows(section('docs/architecture.md', 'The rooms'))[1:]
    for level, rooms in enumerate(test_layers.LAYERS, 1):
        listed = {name for row, names, _ in table if row == str(level) for name in coded(names)}
        assert listed == set(rooms) - {'__main__'}
    assert max(int(row) for row, *_ in table) == len(test_layers.LAYERS)


def test_other_lists() -> None:
    codes = {int(code): cells for code, *cells in rows(section('docs/training.md', 'Exit codes'))[1:]}
    plain = {code: [re.sub(r'\[(.*?)\]\(.*?\)|\\', r'\1', cell) for cell in cells] for code, cells in codes.items()}
    assert plain == {code: list(said) for code, said in errors.EXIT_CODES.items()}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.exit_code for kind in kinds if hasattr(kind, 'exit_code')} <= {*codes}
    for cells in rows(section('docs/training.md', 'Fields of a config'))[1:]:
        assert all(has_field(load('mocov2:tiny'), field) for field in coded(cells[0])), cells[0]
    free = section('docs/training.md', 'Stop and resume').split('These fields may change:')[1].split('A change')[0]
    assert sorted(coded(free)) == sorted(name.rstrip('.') for name in FREE)
    npz = {cells[0]: coded(cells[1]) for cells in rows(section('docs/own-data.md', '`.npz` files'))[1:]}
    assert sorted(npz['images']) == sorted(IMAGES) and sorted(npz['labels']) == sorted(LABELS)
    assert sorted(npz['split']) == sorted(name for names in NAMES.values() for name in names)
    listed = [coded(cells[0])[0] for cells in rows(section('docs/evaluation.md', 'During training'))[1:]]
    assert sorted(listed) == sorted(EVALUATORS)
