"""Schedules against the values of the authors' own code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.methods import ema
from contrastive_jax.optim import schedules
from tests import goldens

TYPES = ('warmup_cosine_epoch', 'cosine_momentum', 'step', 'cosine_epoch', 'cosine_epoch_groups', 'dino_cosine')


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
            if f['final_value'] != 1:
                pytest.skip('the momentum of our schedule ends at 1, as in the papers')
            return ema.cosine_momentum(jnp.asarray(steps) / total, f['momentum'])
        case 'step':
            schedule = schedules.step_decay(f['learning_rate'], f['milestones'], f['decay_factor'], per_epoch)
        case 'cosine_epoch':
            schedule = schedules.cosine_per_epoch(f['learning_rate'], f['epochs'], per_epoch, f['final_value'])
        case 'cosine_epoch_groups':
            moving = schedules.cosine_per_epoch(f['learning_rate'], f['epochs'], per_epoch, f['final_value'])
            fixed = schedules.constant(f['learning_rate'])
            columns = [jax.vmap(fixed if group['fixed'] else moving)(steps) for group in f['groups']]
            return jnp.stack(columns, axis=1)
        case 'dino_cosine':
            schedule = schedules.linspace_warmup_cosine(
                f['base_value'], f['final_value'], f['warmup_epochs'] * per_epoch, total, f['start_warmup_value']
            )
    return jax.vmap(schedule)(steps)


@pytest.mark.parametrize('case', goldens.cases('schedule', *TYPES))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_schedule(case: goldens.Case, precision: str):
    f, expected = case.fields, case.key(case.fields['key'])
    steps = np.arange(len(expected))
    if 'iterations_per_epoch' not in f:  # given per epoch: the value holds for all of its iterations
        case = case._replace(fields={**f, 'iterations_per_epoch': 7})
        expected = np.repeat(expected, 7, axis=0)
        steps = np.arange(len(expected))
    elif 'epoch_key' in f:
        steps = np.rint(case.key(f['epoch_key']) * f['iterations_per_epoch']).astype(int)
        np.testing.assert_allclose(steps / f['iterations_per_epoch'], case.key(f['epoch_key']), rtol=1e-12)
    with jax.enable_x64(precision == 'float64'):
        actual = np.asarray(evaluate(case, steps))
    goldens.assert_close(actual, expected, case.tolerances[precision], case.prefix)


def test_each_milestone_with_a_factor_of_its_own():
    """InvaSpread's adjust_learning_rate: x0.1 from 120, x0.05 from 160, x0.01 from 200."""
    schedule = schedules.step_decay(0.03, (120, 160, 200), (0.1, 0.05, 0.01), 3)
    for epoch, rate in (
        (0, 0.03),
        (119, 0.03),
        (120, 0.003),
        (159, 0.003),
        (160, 0.0015),
        (200, 0.0003),
        (300, 0.0003),
    ):
        np.testing.assert_allclose([schedule(3 * epoch), schedule(3 * epoch + 2)], rate, rtol=1e-6)


def test_ends_of_the_cosines():
    for schedule in (
        schedules.warmup_cosine(1.0, 4, 20, final=0.2, start=0.1),
        schedules.linspace_warmup_cosine(1.0, 0.2, 4, 20, start=0.1),
    ):
        np.testing.assert_allclose(
            [schedule(0), schedule(4), schedule(12), schedule(20)], [0.1, 1, 0.6, 0.2], rtol=1e-6
        )
    per_epoch = schedules.cosine_per_epoch(1.0, 10, 2, final=0.2)
    np.testing.assert_allclose(
        [per_epoch(0), per_epoch(10), per_epoch(11), per_epoch(20)], [1, 0.6, 0.6, 0.2], rtol=1e-6
    )
    later = schedules.shifted(per_epoch, 10)
    np.testing.assert_array_equal([later(0), later(10)], [per_epoch(10), per_epoch(20)])
