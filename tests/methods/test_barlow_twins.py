"""Barlow Twins against a trajectory of the authors' code: loss, LARS with two learning rates, and their schedule."""

import jax
import pytest

from contrastive_jax.methods import BarlowTwins
from contrastive_jax.optim.build import build_optimizer
from tests import goldens, train_steps
from tests.methods import trajectories


@pytest.mark.parametrize('case', goldens.cases('barlow_twins', 'trajectory'))
def test_trajectory(case: goldens.Case) -> None:
    f, o = case.fields, case.fields['optimizer']
    config = train_steps.load('barlow_twins:tiny', steps=0, epochs=float(f['epochs']))  # its LARS
    names = ('name', 'learning_rate', 'bias_rate_factor', 'momentum', 'weight_decay')
    config.optimizer.update({name: o[name] for name in names}, learning_rate_batch=0)
    config.schedule.update(name=o['schedule'], warmup_epochs=float(o['warmup_epochs']), final=o['final'])
    with jax.enable_x64(True):
        optimizer, learning_rate = build_optimizer(config, f['steps_per_epoch'], f['steps'])
        for t, rate in enumerate(o['learning_rates']):
            assert float(learning_rate(t)) == pytest.approx(rate)
        method = BarlowTwins(trajectories.network_of(f, {}))
        _, metrics = trajectories.check(case, method, optimizer, {})
        loss = metrics['on_diagonal'] + method.off_diagonal * metrics['off_diagonal']
        goldens.assert_close(loss, case['loss'][0], case.tolerances['float64'])
