"""The three forms of log-sum-exp against float64 NumPy, on several devices, and their memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import AXIS, find_devices
from contrastive_jax.losses import info_nce, info_nce_in_batch, log_sum_exp, nt_xent
from contrastive_jax.losses.log_sum_exp import choose_form, summarize

B, K, D, T = 16, 48, 6, 0.1
FORMS = [('dense', 1), ('blocks', 1), ('dense', 4), ('blocks', 4), ('ring', 4)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 5 keys, which divide neither K nor the keys of a device."""
    monkeypatch.setattr(log_sum_exp, 'BLOCK_LOGITS', 5)
    monkeypatch.setattr(log_sum_exp, 'SMALLEST_BLOCK', 5)


@pytest.fixture(scope='module')
def arrays() -> dict[str, np.ndarray]:
    """Queries and keys, of which some are ignored, excluded for a query, or its positive."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(100)[:K]
    itself, positive = rng.choice(ids, B), rng.choice(ids, B)
    itself[0] = positive[1] = -1
    ids[[3, 17, 18, 40]] = -1
    q, k = rng.normal(size=(B, D)), rng.normal(size=(K, D))
    return {'q': q, 'k': k, 'ids': ids, 'itself': itself, 'positive': positive, 'weights': rng.normal(size=B)}


def slow(q: Any, k: Any, ids: Any, itself: Any, positive: Any, weights: Any) -> tuple[np.ndarray, ...]:
    """log-sum-exp, hardest negatives, and the gradients of the weighted sum, one pair at a time."""
    log_sums, hardest, dq, dk = np.empty(len(q)), np.full(len(q), -np.inf), np.zeros_like(q), np.zeros_like(k)
    for i in range(len(q)):
        used = [j for j in range(len(k)) if ids[j] >= 0 and ids[j] != itself[i]]
        log_sums[i] = np.log(sum(np.exp(q[i] @ k[j] / T) for j in used))
        for j in used:
            if ids[j] != positive[i]:
                hardest[i] = max(hardest[i], q[i] @ k[j] / T)
            probability = np.exp(q[i] @ k[j] / T - log_sums[i])
            dq[i] += weights[i] * probability * k[j] / T
            dk[j] += weights[i] * probability * q[i] / T
    return log_sums, hardest, dq, dk


def found(form: Any, devices: int) -> Callable[..., Any]:
    """A function of whole arrays: summaries, and gradients with respect to q and k."""

    def local(q: Any, k: Any, ids: Any, itself: Any, positive: Any, weights: Any) -> Any:
        def total(q: Any, k: Any) -> Any:
            summary = summarize(q, k, ids, temperature=T, itself=itself, positive=positive, axis_name=AXIS, form=form)
            return jnp.sum(weights * summary.logsumexp), summary

        (_, summary), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(q, k)
        return summary.logsumexp, summary.hardest, *gradients

    return find_devices('jit', devices).run(local, (P(AXIS),) * 6, (P(AXIS),) * 4)


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize(('form', 'devices'), FORMS)
def test_every_form_is_the_equation(form, devices, arrays):
    expected = slow(*arrays.values())
    with jax.enable_x64(True):
        for actual, x in zip(found(form, devices)(*arrays.values()), expected, strict=True):
            np.testing.assert_allclose(actual, x, rtol=1e-11, atol=1e-11)
    single = [x.astype(np.float32) if x.dtype == np.float64 else x.astype(np.int32) for x in arrays.values()]
    for actual, x in zip(found(form, devices)(*single), expected, strict=True):
        assert np.max(np.abs(actual - x)) <= 1e-5 * np.max(np.abs(x))


@pytest.mark.parametrize('form', ['dense', 'blocks'])
def test_no_gradient_where_all_keys_are_ignored(form):
    q, k, ids = jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.full(4, -1)
    f = lambda q, k: jnp.sum(summarize(q, k, ids, temperature=T, form=form).logsumexp)  # noqa: E731
    value, gradients = jax.value_and_grad(f, argnums=(0, 1))(q, k)
    assert value < -1e29
    assert not any(np.any(x) for x in gradients)


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('loss', [info_nce_in_batch, nt_xent])
def test_losses_are_the_same_in_every_form(loss, devices, arrays, monkeypatch):
    q, k = arrays['q'], arrays['k'][:B]

    def local(q: Any, k: Any) -> Any:
        f = partial(loss, temperature=T, axis_name=AXIS)
        value, gradients = jax.value_and_grad(f, argnums=(0, 1))(q, k)
        return collectives.pmean(value, AXIS), gradients

    results = {}
    with jax.enable_x64(True):
        for form in ('dense', 'blocks', 'ring')[: 2 + (devices > 1)]:
            monkeypatch.setattr(log_sum_exp, 'choose_form', lambda *_, form=form: form)
            run = find_devices('jit', devices).run(local, (P(AXIS), P(AXIS)), (P(), P(AXIS)))
            results[form] = run(q, k)
    for form in list(results)[1:]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12), results[form], results['dense'])


def test_the_form_follows_from_the_sizes():
    assert choose_form(256, 65536, 128, 8) == 'dense'  # MoCo on ImageNet, one device's queries against the queue
    assert choose_form(4096, 65536, 128, 1) == 'blocks'
    assert choose_form(2 * 4096 // 8, 2 * 4096, 128, 8) == 'dense'  # SimCLR, batch 4,096 on 8 devices
    assert choose_form(2 * 16384, 2 * 16384, 128, 1) == 'blocks'
    assert choose_form(2 * 65536 // 64, 2 * 65536, 128, 64) == 'ring'
    assert choose_form(2 * 65536, 2 * 65536, 128, 1) == 'blocks'  # one device has no ring


def temporaries(loss: Callable[..., Any], *shapes: tuple[int, int]) -> int:
    """Bytes of temporaries of a loss with its gradient with respect to the first two arguments."""
    f = jax.value_and_grad(partial(loss, temperature=0.2), argnums=(0, 1))
    arrays = [ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return int(jax.jit(f).lower(*arrays).compile().memory_analysis().temp_size_in_bytes)


def test_memory_of_large_batches_and_dictionaries():
    MiB = 2**20
    batch, large_batch = (16384, 128), (65536, 128)
    assert temporaries(nt_xent, batch, batch) <= 5137 * MiB / 20  # 5137 and 8232 MiB: with all logits
    assert temporaries(info_nce, batch, batch, (65536, 128)) <= 8232 * MiB / 20
    assert temporaries(nt_xent, large_batch, large_batch) <= 1024 * MiB  # all logits are 64 GiB
    assert temporaries(info_nce, large_batch, large_batch, (2**20, 128)) <= 2048 * MiB  # all logits are 256 GiB
