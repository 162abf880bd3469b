"""NNCLR against a trajectory of the paper's algorithm in torch, with lightly's queue and nearest neighbors."""

import jax
import jax.numpy as jnp
import optax
import pytest

from contrastive_jax.methods import NNCLR
from tests import goldens
from tests.methods import trajectories


@pytest.mark.parametrize('case', goldens.cases('nnclr', 'trajectory'))
def test_trajectory(case: goldens.Case) -> None:
    f, o, tolerance = case.fields, case.fields['optimizer'], case.tolerances['float64']
    shape = (-1, f['batch_size'], f['dim'])
    with jax.enable_x64(True):
        optimizer = optax.chain(
            optax.add_decayed_weights(o['weight_decay']), optax.sgd(o['learning_rate'], o['momentum'])
        )
        heads = {'last_batch_norm': True, 'last_batch_norm_affine': True}, {'last_bias': True}
        method = NNCLR(trajectories.network_of(f, *heads), queue_size=f['queue_size'], temperature=f['temperature'])
        queue = {'keys': jnp.asarray(case['queue_init']).reshape(shape), 'slot': jnp.zeros((), jnp.int32)}
        state, _ = trajectories.check(case, method, optimizer, {'queue': queue})
    goldens.assert_close(state.memory['queue']['keys'], case['queue_final'].reshape(shape), tolerance, 'queue')
