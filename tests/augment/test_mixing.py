"""Mixup and CutMix, against slow loops, the distribution that they name, and themselves on more devices."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy import stats

from contrastive_jax.augment.mixing import mix, outside_box
from contrastive_jax.distributed.devices import find_devices

B, H, W, CLASSES = 8, 12, 16, 5
X = np.random.default_rng(0).normal(size=(B, H, W, 3)).astype(np.float32)
TARGET = np.eye(CLASSES, dtype=np.float32)[np.arange(B) % CLASSES]


def ratio_of(target: np.ndarray) -> float:
    """λ, of a batch whose image 0 is of class 0 and whose last one is not."""
    return float(target[0, 0])


def test_nothing_to_mix() -> None:
    x, target = mix(jax.random.key(0), X, TARGET, mixup=0.0, cutmix=0.0)
    assert x is X and target is TARGET


def test_mixup_by_a_slow_loop() -> None:
    for seed in range(3):
        x, target = mix(jax.random.key(seed), jnp.asarray(X), jnp.asarray(TARGET), mixup=0.8, cutmix=0.0)
        ratio = ratio_of(target)
        for i in range(B):
            other = B - 1 - i
            np.testing.assert_allclose(x[i], ratio * X[i] + (1 - ratio) * X[other], atol=1e-6)
            np.testing.assert_allclose(target[i], ratio * TARGET[i] + (1 - ratio) * TARGET[other], atol=1e-6)


def test_cutmix_by_a_slow_loop() -> None:
    shares = []
    for seed in range(5):
        x, target = mix(jax.random.key(seed), jnp.asarray(X), jnp.asarray(TARGET), mixup=0.0, cutmix=1.0)
        x, kept = np.asarray(x), np.zeros((B, H, W), bool)
        for i, row, column in np.ndindex(B, H, W):
            kept[i, row, column] = np.array_equal(x[i, row, column], X[i, row, column])
            assert kept[i, row, column] or np.array_equal(x[i, row, column], X[B - 1 - i, row, column])
        assert np.all(kept == kept[0]), 'one box for the whole batch'
        shares.append(kept[0].mean())
        assert ratio_of(target) == pytest.approx(shares[-1], abs=1e-6), 'a label counts by the pixels that are left'
        np.testing.assert_allclose(target, shares[-1] * TARGET + (1 - shares[-1]) * TARGET[::-1], atol=1e-6)
    assert len(set(shares)) > 2 and min(shares) < 0.9


def test_the_box() -> None:
    """As timm cuts it: sqrt(1 - λ) of the sides, around a pixel drawn evenly, and what sticks out is lost."""
    boxes = jax.jit(jax.vmap(lambda key: outside_box(key, jnp.float32(0.64), H, W)))(
        jax.random.split(jax.random.key(0), 400)
    )
    half_h, half_w = int(H * math.sqrt(0.36)) // 2, int(W * math.sqrt(0.36)) // 2
    legal = set()
    for row, column in np.ndindex(H, W):
        box = np.ones((H, W), np.float32)
        box[max(row - half_h, 0) : row + half_h, max(column - half_w, 0) : column + half_w] = 0
        legal.add(box.tobytes())
    drawn = [np.asarray(box, np.float32).tobytes() for box in boxes]
    assert set(drawn) <= legal and len(set(drawn)) > 0.8 * len(legal)


@pytest.mark.parametrize('alpha', [0.8, 1.0])
def test_the_distribution_of_the_ratio(alpha: float) -> None:
    ratio = jax.jit(jax.vmap(lambda key: mix(key, X[:2, :1, :1], TARGET[:2], mixup=alpha, cutmix=0.0)[1][0, 0]))(
        jax.random.split(jax.random.key(0), 2000)
    )
    assert stats.kstest(np.asarray(ratio), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_each_for_half_of_the_batches() -> None:
    both = jax.jit(jax.vmap(lambda key: mix(key, jnp.asarray(X), jnp.asarray(TARGET), mixup=0.8, cutmix=1.0)[0]))
    mixed = np.asarray(both(jax.random.split(jax.random.key(0), 400)))
    by_box = np.mean([np.isin(x[0], [X[0], X[-1]]).all() for x in mixed])
    assert stats.binomtest(round(400 * by_box), 400).pvalue > 0.01


@pytest.mark.parametrize(('mixup', 'cutmix'), [(0.8, 0.0), (0.0, 1.0)])
def test_more_devices_mix_as_one_does(mixup: float, cutmix: float) -> None:
    devices, key = find_devices('jit', 4), jax.random.key(3)
    one = partial(mix, key, mixup=mixup, cutmix=cutmix)
    many = devices.run(partial(one, axis_name='data'), (P('data'), P('data')), (P('data'), P('data')))
    for a, b in zip(many(*devices.place_rows((X, TARGET))), one(jnp.asarray(X), jnp.asarray(TARGET)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
