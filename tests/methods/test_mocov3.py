"""MoCo v3 against trajectories of the authors' code: loss, EMA before the keys, BN statistics, LARS and AdamW."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.methods import MethodState, MoCoV3
from contrastive_jax.methods.signals import mean_negative_similarity
from contrastive_jax.optim import optimizers
from tests import goldens
from tests.methods.test_moco import compare
from tests.methods.tiny_encoder import network, split


@pytest.mark.parametrize('case', goldens.cases('mocov3_heads', 'trajectory'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_trajectory(case: goldens.Case, precision: str):
    f, tolerance = case.fields, case.tolerances[precision]
    online = {'base_encoder.body': 'encoder', f'base_encoder.{f["head"]}': 'projector', 'predictor': 'predictor'}
    target = {'momentum_encoder.body': 'encoder', f'momentum_encoder.{f["head"]}': 'projector'}
    heads = [
        {
            'num_layers': f[f'{head}_layers'],
            'hidden_dim': f['mlp_dim'],
            'output_dim': f['dim'],
            'last_batch_norm': f[f'{head}_last_batch_norm'],
        }
        for head in ('projector', 'predictor')
    ]
    o = f['optimizer']
    with jax.enable_x64(precision == 'float64'):
        net = network(f['hidden_dim'], True, f['batch_size'], jnp.dtype(precision), *heads)
        rates, momenta = jnp.asarray(o['learning_rate'], precision), f['momentum']
        if o['name'] == 'lars':
            settings = {key: o[key] for key in ('momentum', 'weight_decay', 'trust_coefficient')}
            optimizer = optimizers.lars(lambda t: rates[t], **settings)
        else:
            if o['epsilon'] != 1e-8 or o['mask'] != 'all':
                pytest.skip("AdamW has optax's epsilon, and decays all parameters of MoCo v3")
            settings = {'weight_decay': o['weight_decay'], 'b1': o['b1'], 'b2': o['b2']}
            optimizer = optimizers.adamw(lambda t: rates[t], **settings)

        params, stats = split(case.tree(f['initial']), online, precision)
        params_k, stats_k = split(case.tree(f['initial']), target, precision)
        state = MethodState(params_k, {'online': stats, 'target': stats_k}, {})
        opt_state = optimizer.init(params)

        def local(params, state, opt_state, views, momentum):
            method = MoCoV3(net, momentum=momentum, temperature=f['temperature'])  # progress 0: m is `momentum`
            loss = lambda p: method.loss(p, state, {'views': views}, rng=None, progress=0.0, axis_name='data')  # noqa: E731
            (loss, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(collectives.pmean(grads, 'data'), opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state, loss[None]

        mesh = find_devices(count=f['world_size']).mesh
        for t in range(f['steps']):
            x1, x2 = (jnp.asarray(x, precision).reshape(-1, f['input_dim']) for x in case['x'][t])
            step = jax.shard_map(
                partial(local, momentum=momenta[t]),
                mesh=mesh,
                in_specs=(P(), P(), P(), P('data')),
                out_specs=(P(), P(), P(), P('data')),
                check_vma=False,
            )
            params, state, opt_state, loss = jax.jit(step)(params, state, opt_state, (x1, x2))
            goldens.assert_close(loss, case['loss'][t], tolerance, f'loss {t}')

        final = case.tree(f['final'])
        final_params, final_stats = split(final, online, precision)
        final_target, final_target_stats = split(final, target, precision)
        compare(params, final_params, tolerance, 'online')
        compare(state.target, final_target, tolerance, 'target')
        if f['world_size'] == 1:  # the file holds the statistics of one rank; ours are the mean over ranks
            compare(state.batch_stats, {'online': final_stats, 'target': final_target_stats}, tolerance, 'statistics')


def test_mean_negative_similarity(rng):
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 4)))
    slow = np.mean([q[i] @ k[j] for i in range(6) for j in range(6) if i != j])
    np.testing.assert_allclose(mean_negative_similarity(jnp.asarray(q), jnp.asarray(k)), slow, rtol=1e-5)
