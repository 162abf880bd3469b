"""VICReg against a trajectory of the authors' code: loss, LARS and its schedule."""

import jax
import pytest

from contrastive_jax.methods import VICReg
from contrastive_jax.optim.build import build_optimizer
from tests import goldens, train_steps
from tests.methods import trajectories


@pytest.mark.parametrize('case', goldens.cases('vicreg', 'trajectory'))
def test_trajectory(case: goldens.Case) -> None:
    f, o = case.fields, case.fields['optimizer']
    config = train_steps.load('vicreg:tiny', steps=0, epochs=float(f['epochs']))  # its LARS
    names = ('name', 'learning_rate', 'momentum', 'weight_decay')
    config.optimizer.update({name: o[name] for name in names}, learning_rate_batch=0)
    config.schedule.update(name=o['schedule'], warmup_epochs=float(o['warmup_epochs']), final=o['final'])
    with jax.enable_x64(True):
        optimizer, _ = build_optimizer(config, f['steps_per_epoch'], f['steps'])
        method = VICReg(trajectories.network_of(f, {'bias': True, 'last_bias': False}))
        _, metrics = trajectories.check(case, method, optimizer, {})
        loss = 25 * metrics['invariance'] + 25 * metrics['variance'] + metrics['covariance']
        goldens.assert_close(loss, case['loss'][0], case.tolerances['float64'])
