"""Runs that keep checkpoints, at the ends of epochs and the best by a metric, and have trackers; also interrupted."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from contrastive_jax.errors import UserError
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.disk import in_bytes
from contrastive_jax.workdir.kept import FILE
from contrastive_jax.workdir.trackers import open_trackers
from tests import complete_runs
from tests.complete_runs import fit, tiny_config
from tests.workdir.test_trackers import Recording

SCORES = {0: 0.99, 2: 0.3, 4: 0.9, 6: 0.5, 8: 0.9}  # the untrained encoder has no checkpoint


class Score(Evaluator):
    name, every_steps = 'score', 2

    def __init__(self, context):
        pass

    def __call__(self, step, state):
        return {'eval/score': SCORES[step]}


@pytest.fixture
def config(tmp_path) -> ConfigDict:
    """8 steps, 3 an epoch."""
    path = complete_runs.write_npz(tmp_path / 'digits.npz', 56)
    where = {'data.source': 'npz', 'data.path': str(path), 'data.name': '', 'eval.evaluators': ()}
    kept = {'keep_every_epochs': 1, 'keep_best': 'eval/score', 'keep_best_mode': 'max'}
    cadences = {'steps': 8, 'log_every_steps': 5, 'checkpoint_every_steps': 5}
    return tiny_config('mocov2', **where, **cadences, **kept)


def on_disk(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / FOLDER).iterdir())


def shown(service: Recording) -> list[tuple[int, set[str]]]:
    (run,) = service.runs.values()
    return [(step, set(given)) for step, given in run]


def logged(workdir: Path) -> list[tuple[int, set[str]]]:
    return [(line['step'], line.keys() - {'step'}) for line in metrics.read(workdir)]


def test_what_is_kept_and_tracked_is_the_same_with_and_without_interruptions(config, tmp_path, capsys):
    service = Recording()

    def track(workdir, say):
        return open_trackers(['wandb'], workdir, project='p', config={}, say=say, make=service)

    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    assert fit(config, whole, 1, evaluators=[Score], track=track)['eval/score'] == 0.9
    assert shown(service) == logged(whole)
    service.runs.clear()
    said = capsys.readouterr().out
    assert on_disk(whole) == [3, 4, 6, 8]
    record = {'metric': 'eval/score', 'mode': 'max', 'step': 4, 'value': 0.9}
    assert json.loads((whole / FILE).read_text()) == {'steps': [3, 6], 'best': record}
    assert (
        'kept beside the newest two: 2 until the end, one every 3 steps, and the best by eval/score (highest)' in said
    )
    assert [line.split(':')[0] for line in said.splitlines() if 'so far' in line] == ['step 2', 'step 4']
    assert 'kept checkpoints, for --step: 3, 6\n' in said
    assert 'best checkpoint, for --step=best: step 4, eval/score 0.9\n' in said

    assert isinstance(fit(config, cut, 1, at=5, evaluators=[Score], track=track), str)
    assert on_disk(cut) == [3, 4, 5]
    (cut / FILE).write_text('{"steps": [3]}')  # killed before the best one was recorded
    fit(config, cut, 1, evaluators=[Score], track=track)
    assert shown(service) == logged(cut) == logged(whole)
    assert on_disk(cut) == [3, 4, 6, 8]
    assert (cut / FILE).read_text() == (whole / FILE).read_text()
    fit(config, cut, 1, at=4, rollback=3, evaluators=[Score])  # stopped before its evaluation
    assert json.loads((cut / FILE).read_text()) == {'steps': [3]}
    assert {'4.undone', '6.undone', '8.undone'} < {p.name for p in (cut / FOLDER).iterdir()}


def test_a_metric_that_nobody_measures_is_refused_before_the_training(config, tmp_path):
    config.keep_best = 'eval/scores'
    with pytest.raises(UserError) as error:
        fit(config, tmp_path / 'run', 1, evaluators=[Score])
    assert str(error.value) == "keep_best 'eval/scores' was not measured at step 0 -> choose from eval/score"


def test_bytes_in_words():
    assert [in_bytes(x) for x in (0, 12, 999, 1000, 999_600, 235_000_000, 1.5e12)] == [
        '0 bytes', '12 bytes', '999 bytes', '1 kB', '1 MB', '235 MB', '1.5 TB',
    ]  # fmt: skip
