"""CMC step by step against the authors' code: both directions, both banks; and their MoCo with our losses and queue."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.losses import log_partition, nce, sampled_softmax
from contrastive_jax.methods import CMC, MethodState, memory
from contrastive_jax.methods.instdis import init_log_Z
from contrastive_jax.models import Network
from contrastive_jax.models.split import Split
from tests import goldens


class Through(nn.Module):
    """The identity: the images are the features."""

    output_dim: int = 0

    def __call__(self, x, *, train: bool, axis_name=None):
        return x


@pytest.mark.parametrize('case', goldens.cases('cmc', 'cmc'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_steps_of_the_authors(case: goldens.Case, precision: str, monkeypatch):
    f, tolerance = case.fields, case.tolerances[precision]
    dim = f['dim']
    if f.get('epsilon', 1e-7) != 1e-7:
        pytest.skip("the constant in the loss is the authors'")
    method = CMC(
        Network(Through(), Split(l=Through(dim), ab=Through(dim))),
        num_examples=f['num_examples'],
        num_negatives=f['num_negatives'],
        objective=f['loss'],
        momentum=f['momentum'],
        temperature=f['temperature'],
    )
    with jax.enable_x64(precision == 'float64'):
        given = lambda name: jnp.asarray(case.key(f['inputs'][name]), precision)  # noqa: E731
        log_Z = jax.tree.map(lambda z: z.astype(precision), init_log_Z(f['loss']))
        banks = {'bank_l': given('memory_l'), 'bank_ab': given('memory_ab')}
        state = MethodState({}, {'online': {}}, {**banks, 'log_Z_l': log_Z, 'log_Z_ab': log_Z})

        @jax.jit
        def step(x, state, y, negatives):
            monkeypatch.setattr(memory, 'sample_rows', lambda *_: negatives)
            batch = {'views': (x,), 'index': y}
            loss = lambda x: method.loss({}, state, {**batch, 'views': (x,)}, rng=None, progress=0.0)  # noqa: E731
            return jax.value_and_grad(loss, has_aux=True)(x)

        for t in range(f['steps']):
            x = jnp.concatenate([given('feat_l')[t], given('feat_ab')[t]], axis=-1)
            idx = jnp.asarray(case.key(f['inputs']['idx'])[t], jnp.int32)
            (loss, (state, _)), grad = step(x, state, idx[:, 0], idx[:, 1:])
            goldens.assert_close(loss, case['loss_l'][t] + case['loss_ab'][t], tolerance, f'loss {t}')
            # The stored gradients are those at unit features; our method normalizes the features again.
            for side, ours in zip(('l', 'ab'), jnp.split(grad, 2, axis=-1), strict=True):
                unit = given(f'feat_{side}')[t]
                expected = case[f'grad_{side}'][t]
                expected = expected - unit * jnp.sum(expected * unit, axis=-1, keepdims=True)
                goldens.assert_close(ours, expected, tolerance, f'gradient {side} {t}')
                goldens.assert_close(state.memory[f'bank_{side}'], case[f'memory_{side}'][t], tolerance, f'{side} {t}')
            if f['loss'] == 'nce':
                Z = jnp.exp(jnp.stack([state.memory['log_Z_l'], state.memory['log_Z_ab']]))
                goldens.assert_close(Z, case['Z_l_Z_ab'][t], tolerance, f'Z {t}')


@pytest.mark.parametrize('case', goldens.cases('cmc', 'moco'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_the_queue_of_their_moco(case: goldens.Case, precision: str):
    """MemoryMoCo: our losses on its logits, and our queue beside theirs.

    The test itself does what our library does not have: initial rows that are not unit vectors (`info_nce` would
    normalize them), NCE over a queue, and Z rounded down to an integer.
    """
    f, tolerance = case.fields, case.tolerances[precision]
    B, T = f['batch_size'], f['temperature']
    if f['queue_size'] % B or f['initial_pointer'] % B:
        pytest.skip('our queue holds whole batches')
    if f.get('epsilon', 1e-7) != 1e-7:
        pytest.skip("the constant in the loss is the authors'")
    with jax.enable_x64(precision == 'float64'):
        rows = jnp.asarray(case.key(f['inputs']['memory'])[: f['inputs']['memory_rows']], precision)
        queue = {'keys': rows.reshape(-1, B, f['dim']), 'slot': jnp.int32(f['initial_pointer'] // B)}
        log_Z = None
        for t in range(f['steps']):
            q, k = (jnp.asarray(case.key(f['inputs'][name])[t], precision) for name in ('q', 'k'))
            keys = queue['keys'].reshape(-1, f['dim'])

            def logits_of(q, k=k, keys=keys):
                return jnp.concatenate([jnp.sum(q * k, axis=-1, keepdims=True), q @ keys.T], axis=1) / T

            if f['loss'] == 'nce':
                if log_Z is None:
                    log_Z = jnp.log(jnp.floor(jnp.exp(log_partition(logits_of(q), f['num_examples']))))
                loss_of = lambda q: nce(logits_of(q), log_Z, num_examples=f['num_examples'])  # noqa: E731, B023
                out = jnp.exp(logits_of(q) - log_Z)
            else:
                loss_of, out = (lambda q: sampled_softmax(logits_of(q))), logits_of(q)
            loss, grad = jax.value_and_grad(loss_of)(q)
            queue = memory.enqueue(queue, k)
            goldens.assert_close(out, case['out'][t], tolerance, f'out {t}')
            goldens.assert_close(loss, case['loss'][t], tolerance, f'loss {t}')
            goldens.assert_close(grad, case['grad'][t], tolerance, f'gradient {t}')
            goldens.assert_close(queue['keys'].reshape(-1, f['dim']), case['memory'][t], tolerance, f'queue {t}')
        assert int(queue['slot']) == (f['initial_pointer'] + f['steps'] * B) % f['queue_size'] // B


def test_the_two_encoders_are_independent(rng):
    """Each encoder gets its own channels only, and each bank the features of its own encoder."""
    method = CMC(
        Network(Split(l=Sum(), ab=Sum(), channels=1), Split(l=Sum(4), ab=Sum(4))), num_examples=9, num_negatives=3
    )
    batch = {'views': (jnp.asarray(rng.normal(size=(4, 2, 2, 3)), jnp.float32),), 'index': jnp.arange(4)}
    params, state = method.init(jax.random.key(0), batch)
    kernels = jax.tree.map(jnp.shape, params['encoder'])
    assert kernels == {'l': {'Dense_0': {'kernel': (1, 6)}}, 'ab': {'Dense_0': {'kernel': (2, 6)}}}

    @jax.jit
    def banks(batch):
        new = method.loss(params, state, batch, rng=jax.random.key(0), progress=0.0)[1][0].memory
        return new['bank_l'], new['bank_ab']

    other = {**batch, 'views': (batch['views'][0].at[..., 1:].add(1.0),)}
    (l, ab), (l2, ab2) = banks(batch), banks(other)
    np.testing.assert_array_equal(l, l2)
    assert np.all(np.any(ab[:4] != ab2[:4], axis=1))
    np.testing.assert_array_equal(ab[4:], state.memory['bank_ab'][4:])


class Sum(nn.Module):
    """A dense layer of the sum over positions."""

    output_dim: int = 6

    @nn.compact
    def __call__(self, x, *, train: bool, axis_name=None):
        x = x.reshape(x.shape[0], -1, x.shape[-1]).sum(1)
        return nn.Dense(self.output_dim, use_bias=False)(x)
