"""Trains a method with one network like a golden trajectory and compares losses, gradients and what it ends with."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.methods import Method, MethodState
from tests import goldens
from tests.methods.test_moco import compare
from tests.methods.tiny_encoder import network, split

PARTS = {'backbone.body': 'encoder', 'projector': 'projector', 'predictor': 'predictor'}


def network_of(f: dict[str, Any], projector: dict[str, Any], predictor: dict[str, Any] | None = None) -> Any:
    """The tiny network of a trajectory in float64, with fields of its heads beside their sizes."""
    sizes = {'num_layers': f['projector_layers'], 'hidden_dim': f['projector_hidden_dim'], 'output_dim': f['dim']}
    if predictor is not None:
        hidden = {'num_layers': f['predictor_layers'], 'hidden_dim': f['predictor_hidden_dim']}
        predictor = {**hidden, 'output_dim': f['dim'], **predictor}
    return network(f['hidden_dim'], True, None, jnp.float64, {**sizes, **projector}, predictor)


def check(
    case: goldens.Case, method: Method, optimizer: optax.GradientTransformation, memory: PyTree
) -> tuple[MethodState, dict[str, jax.Array]]:
    """Trains on the views of the case; call it with 64 bits enabled.

    Args:
      case: a trajectory.
      method: a method with one network.
      optimizer: the optimizer of the case.
      memory: the method's memory at step 0.

    Returns:
      The state after the last step, and the metrics of the first one.
    """
    f, tolerance = case.fields, case.tolerances['float64']
    parts = {prefix: part for prefix, part in PARTS.items() if part != 'predictor' or method.has_predictor}
    params, stats = split(case.tree(f['initial']), parts, 'float64')
    state, opt_state = MethodState({}, {'online': stats}, memory), optimizer.init(params)

    @jax.jit
    def step(params: PyTree, state: MethodState, opt_state: PyTree, views: Any) -> Any:
        loss = lambda p: method.loss(p, state, {'views': views}, rng=None, progress=0.0)  # noqa: E731
        (value, (state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, value, grads, metrics

    first: dict[str, jax.Array] = {}
    for t in range(f['steps']):
        views = tuple(jnp.asarray(case['x'][t]))
        params, state, opt_state, value, grads, metrics = step(params, state, opt_state, views)
        goldens.assert_close(value, case['loss'][t], tolerance, f'loss {t}')
        if t == 0:
            first = metrics
            compare(grads, split(case.tree(f['gradients_step0']), parts, 'float64')[0], tolerance, 'gradient')
    final, final_stats = split(case.tree(f['final']), parts, 'float64')
    compare(params, final, tolerance, 'parameters')
    compare(state.batch_stats['online'], final_stats, tolerance, 'statistics')
    return state, first
