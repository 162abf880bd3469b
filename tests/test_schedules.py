"""Schedules against the values of the authors' own code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import ema, schedules
from tests import goldens


def evaluate(case: goldens.Case, steps: np.ndarray) -> np.ndarray:
    f = case.fields
    per_epoch = f.get('iterations_per_epoch', 1)
    total = f['epochs'] * per_epoch
    match f['type']:
        case 'warmup_cosine_epoch':
            schedule = schedules.warmup_cosine(
                f['learning_rate'], f['warmup_epochs'] * per_epoch, total, f['final_value']
            )
        case 'cosine_momentum':
            return ema.cosine_momentum(jnp.asarray(steps) / total, f['momentum'])
        case 'step':
            schedule = schedules.step_decay(f['learning_rate'], f['milestones'], f['decay_factor'], per_epoch)
        case 'cosine_epoch':
            schedule = schedules.cosine_per_epoch(f['learning_rate'], f['epochs'], per_epoch)
        case 'cosine_epoch_groups':
            moving = schedules.cosine_per_epoch(f['learning_rate'], f['epochs'], per_epoch)
            fixed = schedules.constant(f['learning_rate'])
            columns = [jax.vmap(fixed if group['fixed'] else moving)(steps) for group in f['groups']]
            return jnp.stack(columns, axis=1)
        case 'dino_cosine':
            schedule = schedules.linspace_warmup_cosine(
                f['base_value'], f['final_value'], f['warmup_epochs'] * per_epoch, total, f['start_warmup_value']
            )
    return jax.vmap(schedule)(steps)


@pytest.mark.parametrize('case', goldens.cases('schedule', file='schedules_torch'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_schedule(case: goldens.Case, precision: str):
    expected = case.key(case.fields['key'])
    if 'iterations_per_epoch' not in case.fields:  # given per epoch: the value holds for all of its iterations
        case = case._replace(fields={**case.fields, 'iterations_per_epoch': 7})
        expected = np.repeat(expected, 7, axis=0)
    with jax.enable_x64(precision == 'float64'):
        actual = np.asarray(evaluate(case, np.arange(len(expected))))
    goldens.assert_close(actual, expected, case.tolerances[precision], case.prefix)
