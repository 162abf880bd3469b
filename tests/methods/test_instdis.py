"""InstDis step by step against the authors' code, on one device and on several: loss, gradient, Z, bank."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import InstDis, memory
from contrastive_jax.methods.instdis import contrast_with_bank, init_log_Z
from contrastive_jax.models import Network
from tests import goldens

# Of each file the cases that are InstDis: lemniscate's own, and those of CMC's repository, where the loss has a field
# of its own (MemoryInsDis; it updates the bank before the backward pass, which changes nothing).
CASES = [*goldens.cases('instdis'), *goldens.cases('cmc', 'insdis')]


def padded(rows: np.ndarray, devices: int, precision: str) -> jax.Array:
    """The bank, padded to a multiple of 16 rows a device, by large values, which must not change any result."""
    filling = np.full((-len(rows) % (16 * devices), rows.shape[1]), 10.0)
    return jnp.asarray(np.concatenate([rows, filling]), precision)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize(('precision', 'split'), [('float64', False), ('float64', True), ('float32', False)])
def test_steps_of_the_authors(case: goldens.Case, precision: str, split: bool):
    """On one device, or on as many as divide the batch."""
    f, tolerance = case.fields, case.tolerances[precision]
    devices = max(n for n in range(1, 9) if f['batch_size'] % n == 0) if split else 1
    names = f['inputs']
    outputs = f.get('outputs') or {name: f'{case.prefix}.{name}' for name in ('out', 'loss', 'grad', 'memory')}
    objective = f.get('loss', f['type'])
    N, K = f['num_examples'], f.get('num_negatives', 0)
    if f.get('epsilon', 1e-7) != 1e-7:
        pytest.skip("the constant in the loss is the authors'")

    unit = normalize if 'normalize_epsilon' in f else lambda x: x  # CMC's are taken as they are, unit vectors

    def step(x, bank, log_Z, y, negatives):
        def loss(x):
            output = contrast_with_bank(
                unit(x), bank, y, negatives, log_Z,
                objective=objective, num_examples=N, temperature=f['temperature'], axis_name='data',
            )  # fmt: skip
            return output.loss, output

        (loss, output), grad = jax.value_and_grad(loss, has_aux=True)(x)
        bank = memory.update_bank(bank, y, normalize(x), f['momentum'], 'data')
        return (
            collectives.pmean(loss, 'data'),
            grad / collectives.axis_size('data'),
            bank,
            output.log_Z,
            output.terms.positive_logit,
        )

    with jax.enable_x64(precision == 'float64'):
        rows, spec = P('data'), P()
        run = find_devices(count=devices).run(step, (rows, rows, spec, rows, rows), (spec, rows, rows, spec, rows))
        bank = padded(case.key(names['memory']), devices, precision)
        log_Z = jax.tree.map(lambda z: z.astype(precision), init_log_Z(objective))
        for t in range(f['steps']):
            x = jnp.asarray(case.key(names['x'])[t], precision)
            y = jnp.asarray(case.key(names['y'])[t], jnp.int32)
            if K:
                idx = jnp.asarray(case.key(names['idx'])[t], jnp.int32)
                np.testing.assert_array_equal(idx[:, 0], y)
                negatives = idx[:, 1:]
            else:
                negatives = jnp.zeros((len(y), 0), jnp.int32)
            loss, grad, bank, log_Z, positive = run(x, bank, log_Z, y, negatives)
            goldens.assert_close(loss, case.key(outputs['loss'])[t], tolerance, f'loss {t}')
            goldens.assert_close(grad, case.key(outputs['grad'])[t], tolerance, f'gradient {t}')
            goldens.assert_close(bank[:N], case.key(outputs['memory'])[t], tolerance, f'bank {t}')
            out = case.key(outputs['out'])[t]
            if objective == 'nce':
                goldens.assert_close(jnp.exp(positive - log_Z), out[:, 0], tolerance, f'probability {t}')
            else:
                expected = out[:, 0] if K else out[np.arange(len(y)), y]
                goldens.assert_close(positive, expected, tolerance, f'logit {t}')
            if 'normaliser' in outputs:
                goldens.assert_close(jnp.exp(log_Z), case.key(outputs['normaliser'])[t], tolerance, f'Z {t}')
        np.testing.assert_array_equal(bank[N:], 10.0)


class Linear(nn.Module):
    """A network of one layer, for images that are vectors."""

    output_dim: int

    @nn.compact
    def __call__(self, x, *, train: bool, axis_name=None):
        return nn.Dense(self.output_dim, use_bias=False)(x)


def method(**fields) -> InstDis:
    return InstDis(Network(Linear(5), Linear(4)), num_examples=12, **fields)


def run(method: InstDis, params, state, batch, key=0):
    return jax.jit(lambda p, s: method.loss(p, s, batch, rng=jax.random.key(key), progress=0.0))(params, state)


@pytest.fixture
def batch(rng):
    return {'views': (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),), 'index': jnp.array([3, 11, 0, 7])}


def test_the_partition_constant_is_that_of_the_first_step(batch):
    nce = method(num_negatives=6)
    params, state = nce.init(jax.random.key(0), batch)
    assert jnp.isneginf(state.memory['log_Z'])
    _, (first, _) = run(nce, params, state, batch)
    _, (second, metrics) = run(nce, params, first, batch, key=1)
    assert jnp.isfinite(first.memory['log_Z']) and first.memory['log_Z'] == second.memory['log_Z'] == metrics['log_Z']
    softmax = method(num_negatives=6, objective='softmax')
    assert softmax.init(jax.random.key(0), batch)[1].memory['log_Z'] == {}


def test_the_proximal_term(batch):
    plain, proximal = method(num_negatives=6), method(num_negatives=6, proximal=30.0)
    params, state = plain.init(jax.random.key(0), batch)
    loss, (after, _) = run(plain, params, state, batch)
    with_term, (after_term, _) = run(proximal, params, state, batch)
    x = batch['views'][0] @ params['encoder']['Dense_0']['kernel'] @ params['projector']['Dense_0']['kernel']
    distance = jnp.sum((normalize(x) - state.memory['bank'][batch['index']]) ** 2, axis=-1)
    np.testing.assert_allclose(with_term - loss, 30.0 * jnp.mean(distance), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after.memory, after_term.memory)


def test_negatives_depend_on_the_position_in_the_batch_only():
    """No padded row is sampled, all others equally often, and the same ones on any number of devices."""
    key, sample = jax.random.key(0), memory.sample_rows
    all_here = sample(key, 8, 600, 12)
    counts = np.bincount(np.asarray(all_here).ravel(), minlength=12)
    assert len(counts) == 12 and abs(counts - 400).max() < 100  # a standard deviation is 19
    assert len({tuple(row) for row in np.asarray(all_here)}) == 8
    for n in (2, 8):
        here = jax.vmap(lambda _: sample(key, 8 // n, 600, 12, 'data'), axis_name='data')(jnp.arange(n))  # noqa: B023
        np.testing.assert_array_equal(here.reshape(8, 600), all_here)


def test_settings_are_the_papers():
    fields = {field.name: field.default for field in dataclasses.fields(InstDis)}
    assert (fields['num_negatives'], fields['momentum'], fields['temperature']) == (4096, 0.5, 0.07)
