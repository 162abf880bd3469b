"""Whole runs that start from the weights of another run: `config.init` through `training.fit`."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from contrastive_jax import load_encoder
from contrastive_jax.config.base import encoder_config
from contrastive_jax.errors import Interrupted, UserError
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.fit import fit
from contrastive_jax.training.run import TrainState
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.inputs import read
from tests import untrained_workdirs
from tests.tiny_configs import get_config

pytestmark = pytest.mark.usefixtures('one_device')

STEPS, CUT = 60, 7
MARGIN = 0.02  # of an accuracy on 300 images


def small(init: str, **changes: Any) -> ConfigDict:
    """MoCo v2 on the digits; with and without `init` it has the same rates, and so one program for both."""
    config = get_config('mocov2,continue')
    config.update_from_flattened_dict(
        {'init': init, 'auto.continues': bool(init), 'encoder.stage_sizes': (1, 1), 'steps': STEPS,
         'optimizer.learning_rate': 2.0, 'schedule.warmup_epochs': 0.2, 'log_every_steps': 40, 'eval_every_steps': 0,
         'checkpoint_every_steps': STEPS, 'eval.evaluators': ('knn',), 'eval.max_train': 600, 'eval.max_test': 300,
         'eval.batch_size': 100, **changes}
    )  # fmt: skip
    return config


class Watch(Evaluator):
    """Keeps the state at step 0, and asks the run to stop once."""

    name, every_steps, measures = 'watch', CUT, False
    begun: TrainState
    calls: list[int]

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        self.calls.append(step)
        if step == 0:
            self.begun = jax.device_get(state)
        if step == CUT:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}


def last(workdir: Path) -> dict[str, float]:
    return {name: x for line in metrics.read(workdir) for name, x in line.items()}


def test_a_run_continues_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its weights exactly, over an interruption without reading them again, and without losing accuracy."""
    first, second = tmp_path / 'first', tmp_path / 'second'
    fit(small(''), str(first))
    before = last(first)['eval/knn_top1']
    assert before > last(first)['baseline/knn_top1'] + 5 * MARGIN, 'there is something to lose'
    given = load_encoder(first, None, 2)
    watch = Watch()
    watch.calls = []
    config, capture = small(str(first)), {'evaluators': [lambda context: watch], 'load': load_encoder}
    capsys.readouterr()
    with pytest.raises(Interrupted, match=f'of {STEPS}, saved'):
        fit(config, str(second), **capture)
    said = capsys.readouterr().out
    assert f'starts from {first}, step {STEPS}, online: encoder, its BN statistics, projector' in said
    assert 'evaluating the given weights' in said and '(given weights)' in said and 'untrained' not in said
    state = watch.begun
    for params, stats in ((state.params, 'online'), (state.method.target, 'target')):
        found = params['encoder'], params['projector'], state.method.batch_stats[stats]['encoder']
        jax.tree.map(np.testing.assert_array_equal, found, (given.params, given.projector_params, given.stats))
    assert last(second)['baseline/knn_top1'] == before

    shutil.rmtree(first)
    fit(config, str(second), **capture)
    assert watch.calls.count(0) == 1 and watch.calls[-1] == STEPS
    assert last(second)['eval/knn_top1'] >= before - MARGIN
    assert 'going on at step' in (said := capsys.readouterr().out) and 'starts from' not in said
    assert f'(given weights: {before:.1%})' in said
    assert read(second)['weights that it started from'][0] == given.fingerprint
    with pytest.raises(UserError, match=r'holds a run of another config \(init: '):
        fit(small(str(tmp_path / 'other')), str(second), **capture)


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    untrained_workdirs.save(small(''), tmp_path / 'first')
    return tmp_path / 'first'


def test_weights_of_another_encoder_are_refused_before_anything_is_compiled(
    tmp_path: Path, untrained: Path, nothing_compiled: None
) -> None:
    for changes, line in (
        ({'encoder.width': 8}, 'width 4 instead of 8'),
        ({'encoder.name': 'vit_tiny'}, 'another encoder'),
        ({'init': str(tmp_path / 'none')}, 'does not exist'),
    ):
        config = small(str(untrained)).unlock()
        if 'encoder.name' in changes:
            config.encoder = encoder_config('vit_tiny', patch_size=4, width=16, depth=1, num_heads=2)
        else:
            config.update_from_flattened_dict(changes)
        with pytest.raises(UserError, match=line):
            fit(config.lock(), str(tmp_path / 'second'), load=load_encoder)
        assert not (tmp_path / 'second').exists()
