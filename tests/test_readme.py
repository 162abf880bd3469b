"""What the README shows is there and runs."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests import runs, saved

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def test_the_loss_snippet_runs():
    (snippet,) = [block for block in blocks('python') if 'import info_nce' in block]
    names: dict = {}
    exec(snippet, names)
    assert np.isfinite(names['loss']) and names['gradient'].shape == (256, 128)


def test_the_encoder_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved.save(runs.load('mocov2:tiny'), tmp_path / 'runs' / 'digits')
    (snippet,) = [block for block in blocks('python') if 'import load_encoder' in block]
    names = {'images': np.zeros((2, 8, 8, 3), np.uint8)}
    exec(snippet, names)
    assert names['h'].shape[0] == 2

    (snippet,) = [block for block in blocks('python') if 'class Classifier' in block]
    exec(snippet, names)
    head = names['variables']['params']['head']
    expected = names['h'] @ head['kernel'] + head['bias']  # the run's own weights, not those of model.init
    np.testing.assert_allclose(names['logits'], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.01


def test_the_method_shown_is_simsiam_s_file():
    (shown,) = [block for block in blocks('python') if 'class SimSiam' in block]
    source = (ROOT / 'contrastive_jax' / 'methods' / 'simsiam.py').read_text(encoding='utf-8')
    assert source.endswith(shown), 'the README shows another SimSiam than the file'
    assert 'negative_cosine as D' in source


def percent(*accuracies: float) -> list[str]:
    return [f'{100 * x:.1f}' for x in accuracies]


@pytest.fixture(scope='module')
def measured() -> dict[str, dict[str, float]]:
    """What `contrastive_jax.reproduce` wrote of the digits, by config; the newest line of each."""
    lines = (ROOT / 'results' / 'digits.jsonl').read_text(encoding='utf-8').splitlines()
    return {result['config']: result['pretraining'] for result in map(json.loads, lines)}


def test_the_table_of_results_is_the_file_of_results(measured):
    """No number in it was typed; and none was left out."""
    names = ('eval/knn_top1', 'baseline/knn_top1', 'eval/probe_top1', 'baseline/probe_top1')
    table = README.split('\n## Results\n')[1].split('\n## ')[0]
    rows = re.findall(r'^\| `(\w+)\.py:([\w,]+)`[^|]* \|[^|]*\| (.*) \|$', table, re.MULTILINE)
    shown = {f'{file}:{variant}': cells.split(' | ') for file, variant, cells in rows}
    assert shown == {config: percent(*(found[name] for name in names)) for config, found in measured.items()}


def test_the_table_of_methods_says_the_same(measured):
    table = README.split('\n## Methods\n')[1].split('\n## ')[0]
    rows = re.findall(r'^\| [^|]*\| (`\w+`(?:, `\w+`)*) \|[^|]*\|[^|]*\|([^|]*)\|[^|]*\|$', table, re.MULTILINE)
    assert len(rows) > 12
    for configs, cell in rows:
        found = [measured[f'{config}:digits'] for config in re.findall(r'\w+', configs)]
        shown = [percent(x['eval/knn_top1'], x['baseline/knn_top1']) for x in found]
        assert [list(pair) for pair in re.findall(r'(\d+\.\d) \((\d+\.\d)\)', cell)] == shown, configs


def test_commands_name_configs_that_load():
    named = re.findall(r'configs/(\w+)\.py(?::([\w,]+))?', README)
    assert ('mocov2', 'digits') in named
    for file, variant in named:
        runs.load(f'{file}:{variant}')
    for file, variant in re.findall(r'configs/eval/(\w+)\.py(?::([\w,]+))?', README):
        importlib.import_module(f'contrastive_jax.configs.eval.{file}').get_config(variant)


@pytest.mark.parametrize('row', re.findall(r'^\| `(\w+)\.py` \|(.*)\|$', README, re.MULTILINE), ids=lambda row: row[0])
def test_variants_in_the_table_exist(row):
    file, cells = row
    variants = re.findall(r'`:?([\w,]+)`', cells)
    assert 'digits' in variants and 'tiny' in variants
    for variant in variants:
        runs.load(f'{file}:{variant}')


def test_every_config_is_in_the_table():
    listed = set(re.findall(r'^\| `(\w+\.py)` \|', README, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / 'configs').glob('*.py')} - {'__init__.py', 'variants.py'}


def test_links_and_folders_exist():
    for target in re.findall(r'\]\((?!https?:)([^)]+)\)', README):
        if target.startswith('#'):
            assert f'\n## {target[1:].capitalize()}\n' in README, target
        else:
            assert (ROOT / target).exists(), target
    for name in re.findall(r'(\w+\.py|\w+/)(?=[ ,\n])', blocks('')[-1]):
        assert (ROOT / name).exists() or (ROOT / 'contrastive_jax' / name).exists(), name


def test_continuous_integration_runs_the_readme_s_commands():
    install, test = next(block for block in blocks('bash') if 'pytest' in block).strip().split(' && ')
    script = (ROOT / '.ci' / 'run').read_text(encoding='utf-8').replace('--quiet ', '').splitlines()
    assert install in script and test in script
