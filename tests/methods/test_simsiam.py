"""SimSiam against a trajectory of the authors' code: loss, predictor's constant rate, and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.methods import MethodState, SimSiam
from contrastive_jax.optim.build import build_optimizer
from tests import goldens, train_steps
from tests.methods.test_moco import compare
from tests.methods.tiny_encoder import network, split

PARTS = {'encoder.body': 'encoder', 'encoder.fc': 'projector', 'predictor': 'predictor'}


def without(tree: dict[str, np.ndarray], frozen: str) -> dict[str, np.ndarray]:
    """A state_dict less the bias of the projector's last layer: it is frozen, and the norm behind it subtracts it."""
    layer, norm = frozen.removesuffix('.bias'), f'encoder.fc.{int(frozen.split(".")[2]) + 1}.running_mean'
    rest = {name: x for name, x in tree.items() if name != frozen}
    assert f'{layer}.weight' in rest
    return rest | {norm: tree[norm] - tree[frozen]}


@pytest.mark.parametrize('case', goldens.cases('simsiam', 'trajectory'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_trajectory(case: goldens.Case, precision: str):
    f, tolerance = case.fields, case.tolerances[precision]
    (frozen,) = f['frozen']
    projector = {
        'num_layers': f['projector_layers'],
        'hidden_dim': f['projector_hidden_dim'],
        'output_dim': f['dim'],
        'last_batch_norm': True,
    }
    predictor = {
        'num_layers': f['predictor_layers'],
        'hidden_dim': f['predictor_hidden_dim'],
        'output_dim': f['dim'],
        'last_bias': True,
    }
    o = f['optimizer']
    config = train_steps.load(
        'simsiam:tiny', epochs=float(f['epochs']), steps=0
    )  # its SGD, schedule and constant predictor
    config.optimizer.update({name: o[name] for name in ('learning_rate', 'momentum', 'weight_decay')})
    config.optimizer.learning_rate_batch = 0
    with jax.enable_x64(precision == 'float64'):
        method = SimSiam(network(f['hidden_dim'], True, None, jnp.dtype(precision), projector, predictor))
        params, stats = split(without(case.tree(f['initial']), frozen), PARTS, precision)
        state = MethodState({}, {'online': stats}, {})
        optimizer, learning_rate = build_optimizer(config, f['steps_per_epoch'], f['steps'])
        opt_state = optimizer.init(params)

        @jax.jit
        def step(params, state, opt_state, views):
            loss = lambda p: method.loss(p, state, {'views': views}, rng=None, progress=0.0)  # noqa: E731
            (loss, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state, loss, grads

        for t in range(f['steps']):
            assert float(learning_rate(t)) == pytest.approx(o['encoder_learning_rate'][t])
            views = tuple(jnp.asarray(case['x'][t], precision))
            params, state, opt_state, loss, grads = step(params, state, opt_state, views)
            goldens.assert_close(loss, case['loss'][t], tolerance, f'loss {t}')
            if t == 0:
                compare(grads, split(case.tree(f['gradients_step0']), PARTS, precision)[0], tolerance, 'gradient')
        final, final_stats = split(without(case.tree(f['final']), frozen), PARTS, precision)
        compare(params, final, tolerance, 'parameters')
        compare(state.batch_stats['online'], final_stats, tolerance, 'statistics')
