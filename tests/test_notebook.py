"""The notebook of examples/ runs from top to bottom, and what is stored of it is whole."""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from sklearn.neighbors import KNeighborsClassifier

from contrastive_jax import load_encoder
from contrastive_jax.data.open import open_source

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = REPOSITORY / 'examples' / 'digits.ipynb'
MOST_BYTES = 200_000

# What is asked of the kernel at the end.
QUESTION = """
import json
print(json.dumps({'trained': trained, 'untrained': untrained, 'tuned': tuned, 'guess': float(guess),
                  'found': float(found), 'shape': h.shape, 'same': bool((same == h_test).all())}))
"""


def code_cells() -> list[Any]:
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == 'code']


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, on one CPU device; what it measured is measured again by scikit-learn."""
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(REPOSITORY), os.environ.get('PYTHONPATH', '')]))
    # As for the other tests, but a little optimized: hundreds of steps are trained.
    flags = os.environ['XLA_FLAGS'].replace('optimization_level=0', 'optimization_level=1')
    monkeypatch.setenv('XLA_FLAGS', flags.replace('device_count=8', 'device_count=1'))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (config,) = [cell for cell in notebook.cells if 'config.epochs = 20.0' in cell.source]
    config.source = config.source.replace('20.0', '10.0')  # it shows the same in half the time
    notebook.cells.append(nbformat.v4.new_code_cell(QUESTION))
    NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}).execute()
    answer = json.loads(notebook.cells[-1].outputs[0].text)

    for name in ('knn', 'probe'):
        assert answer['trained'][name] > answer['untrained'][name] + 0.02
    assert answer['shape'] == [1437, 128] and answer['same']
    assert set(answer['tuned']) == {'pretrained', 'from scratch'} and answer['tuned']['pretrained'] > 0.5
    assert abs(answer['guess'] - np.log(4097)) < 0.1 and answer['found'] < 0.1

    encoder = load_encoder(tmp_path / 'runs' / 'notebook')
    train, test = (open_source('digits', split=split) for split in ('train', 'test'))
    weights = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731  # as the vote of the evaluation
    classifier = KNeighborsClassifier(20, metric='cosine', weights=weights).fit(encoder(train.array), train.labels)
    assert abs(classifier.score(encoder(test.array), test.labels) - answer['trained']['knn']) < 0.03
    assert load_encoder(tmp_path / 'runs' / 'digits.safetensors').architecture['name'] == 'resnet_tiny'


def test_stored_outputs_are_whole() -> None:
    """Every cell was run, in order, without an error; pictures are small, and no path tells whose machine it was."""
    cells = code_cells()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == 'error' or output.get('name') == 'stderr']
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
    text = NOTEBOOK.read_text(encoding='utf-8')
    assert len(text) < MOST_BYTES and not any(f'{folder}/' in text for folder in ('/tmp', '/home', '/root', '/work'))
