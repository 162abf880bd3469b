"""NCE and the softmax over a bank: the equations in slow loops, finite differences, more devices, extreme values.

The authors' values are in tests/methods/test_instdis.py and test_cmc.py, where the bank moves between the steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import log_partition, log_sum_exp, nce, non_parametric_softmax, sampled_softmax
from contrastive_jax.methods import memory

N, ROWS, D, K, B, T = 37, 64, 6, 5, 8, 0.07  # ROWS - N rows are padding


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope='module')
def arrays() -> tuple[np.ndarray, ...]:
    """Features, a bank with large values in its padded rows, positive rows and sampled negative rows."""
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(ROWS, D))
    bank[N:] = 10.0
    return rng.normal(size=(B, D)), bank, rng.choice(N, B, replace=False), rng.integers(0, N, (B, K))


def logits_of(v, bank, index, drawn, axis_name=None):
    """[b, 1 + K] in units of logits."""
    v = v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    rows = jnp.concatenate([index[:, None], drawn], axis=1)
    return memory.bank_similarities(bank, v, rows, axis_name) / T


def all_losses(v, bank, index, drawn, axis_name=None):
    """The sum of the three losses, with Z from this batch."""
    logits = logits_of(v, bank, index, drawn, axis_name)
    log_Z = log_partition(logits, N, axis_name)
    full = non_parametric_softmax(v, bank, index, num_examples=N, temperature=T, axis_name=axis_name)
    return nce(logits, log_Z, num_examples=N) + sampled_softmax(logits) + full


def test_equations(arrays):
    v, bank, index, drawn = arrays
    p = np.array([[np.exp(unit(v[i]) @ bank[j] / T) for j in (index[i], *drawn[i])] for i in range(B)])
    Z = N * np.mean(p)
    noise = K / N
    by_nce, by_sample, by_all = [], [], []
    for i in range(B):
        own, *others = p[i] / Z
        by_nce.append(-np.log(own / (own + noise + 1e-7)))
        by_nce[-1] -= sum(np.log(noise / (other + noise + 1e-7)) for other in others)
        by_sample.append(-np.log(p[i, 0] / sum(p[i])))
        by_all.append(-np.log(p[i, 0] / sum(np.exp(unit(v[i]) @ bank[j] / T) for j in range(N))))
    with jax.enable_x64(True):
        logits = jax.jit(logits_of)(*map(jnp.asarray, arrays))
        np.testing.assert_allclose(jax.jit(partial(log_partition, num_examples=N))(logits), np.log(Z), rtol=1e-12)
        np.testing.assert_allclose(
            jax.jit(partial(nce, num_examples=N))(logits, np.log(Z)), np.mean(by_nce), rtol=1e-12
        )
        np.testing.assert_allclose(jax.jit(sampled_softmax)(logits), np.mean(by_sample), rtol=1e-12)
        full = jax.jit(partial(non_parametric_softmax, num_examples=N, temperature=T))(v, bank, index)
        np.testing.assert_allclose(full, np.mean(by_all), rtol=1e-12)


def test_gradients(arrays):
    with jax.enable_x64(True):
        v, bank, index, drawn = map(jnp.asarray, arrays)
        log_Z = jnp.asarray(3.0)

        @jax.jit
        def loss(v, bank, log_Z):
            logits = logits_of(v, bank, index, drawn)
            full = non_parametric_softmax(v, bank, index, num_examples=N, temperature=T)
            return nce(logits, log_Z, num_examples=N) + sampled_softmax(logits) + full

        check_grads(lambda v: loss(v, bank, log_Z), (v,), 1, modes=['rev'])
        in_bank, in_log_Z = jax.grad(loss, argnums=(1, 2))(v, bank, log_Z)
        assert not in_bank.any() and not in_log_Z, 'constants'


@pytest.fixture(scope='module')
def on_one_device(arrays):
    with jax.enable_x64(True):
        return jax.jit(jax.value_and_grad(all_losses))(*arrays)


@pytest.mark.parametrize('rows', [1, 8, 24])
def test_blocks_of_the_bank_change_no_result(arrays, on_one_device, monkeypatch, rows: int):
    """24 does not divide 64, so the last block overlaps with the one before."""
    with jax.enable_x64(True):
        v, bank, index, drawn = map(jnp.asarray, arrays)
        monkeypatch.setattr(log_sum_exp, 'choose_form', lambda *_: 'blocks')
        monkeypatch.setattr(log_sum_exp, 'BLOCK_LOGITS', 1)
        monkeypatch.setattr(log_sum_exp, 'SMALLEST_BLOCK', rows)
        monkeypatch.setattr(memory, 'MAX_GATHERED', 3 * K * D)
        actual = jax.jit(jax.value_and_grad(lambda *arrays: all_losses(*arrays)))(v, bank, index, drawn)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), actual, on_one_device)


@pytest.mark.parametrize(('how', 'n'), [('vmap', 1), ('shard_map', 2), ('vmap', 4), ('shard_map', 8)])
def test_same_on_more_devices(arrays, on_one_device, how: str, n: int):
    """On 8 devices, three of them have only padded rows."""

    def local(v, bank, index, drawn):
        loss, grad = jax.value_and_grad(all_losses)(v, bank, index, drawn, 'data')
        return collectives.pmean(loss, 'data'), grad / collectives.axis_size('data')

    expected_loss, expected_grad = on_one_device
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in arrays]
        if how == 'shard_map':
            run = find_devices(count=n).run(local, (P('data'),) * 4, (P(), P('data')))
            loss, grad = run(*arguments)
        else:
            split = [x.reshape(n, -1, *x.shape[1:]) for x in arguments]
            loss, grad = jax.jit(jax.vmap(local, axis_name='data'))(*split)
            loss, grad = loss[0], grad.reshape(B, D)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('scale', [0.0, 1.0, 100.0])
def test_extreme_logits_are_finite(scale: float):
    """A temperature of 0.001, all-zero rows, and rows that all point the same way or the other."""
    bank = scale * jnp.concatenate([jnp.ones((4, D)), -jnp.ones((4, D))])
    v, index, drawn = jnp.ones((2, D)), jnp.array([0, 5]), jnp.array([[1, 5], [0, 5]])

    def loss(v):
        logits = logits_of(v, bank, index, drawn) * 70
        full = non_parametric_softmax(v, bank, index, num_examples=8, temperature=0.001)
        return nce(logits, log_partition(logits, 8), num_examples=8) + sampled_softmax(logits) + full

    value, grad = jax.jit(jax.value_and_grad(loss))(v)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all()


def test_half_precision_features_give_float32(arrays):
    v, bank, index, _ = arrays
    loss = jax.jit(partial(non_parametric_softmax, num_examples=N, temperature=T))
    loss = loss(jnp.asarray(v, jnp.bfloat16), jnp.asarray(bank, jnp.float32), index)
    assert loss.dtype == jnp.float32
