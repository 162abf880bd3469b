"""Batches of views: the same numbers on any number of devices, however they are run, and who is shuffled where."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.augment.policy import Policy
from contrastive_jax.augment.views import resident_batch, streamed_batch
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices

# Operations of either kind, each for some of the images, and two views that differ. What is tested is who draws which
# numbers, and every further operation is compiled some twenty times here: test_policy.py has them all.
POLICY = Policy(
    jitter_probability=0.0, blur=(0.0, 0.0), solarize=(0.0, 0.5), local_crops=2, local_size=4, local_blur=0.0
)
SIZE, B, N = 6, 8, 20
KEY = jax.random.key(5)
COMMON: dict[str, Any] = {'policy': POLICY, 'dtype': jnp.float32}

# What a batch holds, and how it lies on the devices.
SPECS = {'views': P('data'), 'shuffled': P('data'), 'shuffle': P(), 'index': P('data'), 'label': P('data')}

Step = Callable[..., dict[str, Any]]


@pytest.fixture(scope='module')
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        'images': rng.integers(0, 256, (N, 9, 7, 3), dtype=np.uint8),
        'labels': rng.integers(0, 5, N).astype(np.int32),
        'order': rng.permutation(N)[:B].astype(np.int32),
    }


def resident(data: dict[str, np.ndarray], axis_name: str | None = None, *, shuffles: bool = True) -> dict[str, Any]:
    images, labels, order = (jnp.asarray(data[name]) for name in ('images', 'labels', 'order'))
    return resident_batch(KEY, images, labels, order, size=SIZE, shuffles=shuffles, axis_name=axis_name, **COMMON)


def streamed(crops: Any, index: Any, label: Any, axis_name: str | None = None) -> dict[str, Any]:
    return streamed_batch(KEY, crops, index, label, shuffles=True, axis_name=axis_name, **COMMON)


@pytest.fixture(scope='module')
def whole(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The resident batch where all of it is here."""
    return jax.device_get(jax.jit(partial(resident, data))())


@pytest.fixture(scope='module')
def crops(data: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """What a host would have sent: the very crops of the resident batch, which are whole gray levels."""
    key_views, _ = jax.random.split(KEY)
    keys = collectives.example_keys(key_views, jnp.arange(B))
    images = jnp.asarray(data['images'][data['order']])
    cut = [np.asarray(POLICY.crop(keys, images, view, SIZE)) for view in range(POLICY.num_views)]
    assert all((x == np.round(x)).all() and x.min() >= 0 and x.max() <= 255 for x in cut)
    return tuple(x.astype(np.uint8) for x in cut)


def check_equal(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(actual) == set(expected)
    for name, value in expected.items():
        for a, b in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(value), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype, name
            # Programs for other shapes round otherwise: float32 of normalized pixels.
            np.testing.assert_allclose(a, b, atol=1e-5 if a.dtype == np.float32 else 0, rtol=0, err_msg=name)


def joined(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with a leading device axis as the global one."""
    for x in jax.tree.leaves(batch['shuffle']):
        assert (x == x[0]).all(), 'every device knows the same permutation'
    rows = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    return {name: jax.tree.map((lambda x: x[0]) if name == 'shuffle' else rows, x) for name, x in batch.items()}


def mapped(step: Step, how: str, n: int, *arguments: Any) -> dict[str, Any]:
    """Runs a per-device step whose arguments are split by rows on n devices, real or of vmap."""
    if how == 'vmap':
        parts = jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), arguments)
        run = jax.vmap(lambda *given: step(*given, 'data'), axis_name='data', axis_size=n)
        return joined(jax.device_get(jax.jit(run)(*parts)))
    devices = find_devices(count=n)
    run = devices.run(lambda *given: step(*given, 'data'), (P('data'),) * len(arguments), SPECS)
    return jax.device_get(run(*arguments))


@pytest.mark.parametrize(('how', 'n'), [('vmap', 1), ('vmap', 4), ('shard_map', 2), ('shard_map', 8)])
def test_resident_batches_do_not_depend_on_devices(
    data: dict[str, np.ndarray], whole: dict[str, Any], how: str, n: int
) -> None:
    check_equal(mapped(partial(resident, data), how, n), whole)


@pytest.mark.parametrize('how', ['vmap', 'shard_map'])
@pytest.mark.parametrize('n', [1, 2, 4, 8])
def test_streamed_batches_do_not_depend_on_devices_nor_on_where_crops_are_cut(
    data: dict[str, np.ndarray], whole: dict[str, Any], crops: tuple[np.ndarray, ...], how: str, n: int
) -> None:
    index = data['order']
    batch = mapped(streamed, how, n, crops, index, data['labels'][index])
    check_equal(batch, whole)


def test_a_streamed_batch_without_an_axis(
    data: dict[str, np.ndarray], whole: dict[str, Any], crops: tuple[np.ndarray, ...]
) -> None:
    index = data['order']
    check_equal(jax.device_get(jax.jit(streamed)(crops, index, data['labels'][index])), whole)


def test_index_and_label(data: dict[str, np.ndarray], whole: dict[str, Any]) -> None:
    np.testing.assert_array_equal(whole['index'], data['order'])
    np.testing.assert_array_equal(whole['label'], [data['labels'][i] for i in data['order']])
    assert whole['index'].dtype == whole['label'].dtype == np.int32


def test_views_are_the_policys_one_example_at_a_time(data: dict[str, np.ndarray], whole: dict[str, Any]) -> None:
    key_views, _ = jax.random.split(KEY)
    assert [x.shape for x in whole['views']] == [(B, size, size, 3) for size in (SIZE, SIZE, 4, 4)]
    one = jax.jit(POLICY, static_argnums=(2, 3))
    for view in range(POLICY.num_views):
        for position in range(B):
            image = data['images'][data['order'][position]][None]
            expected = one(jax.random.fold_in(key_views, position)[None], image, view, SIZE)[0]
            np.testing.assert_allclose(whole['views'][view][position], expected, atol=1e-5)


def test_shuffled_views_are_the_views_of_the_examples_that_the_permutation_names(whole: dict[str, Any]) -> None:
    shuffle = whole['shuffle']
    assert sorted(shuffle) == list(range(B)) and list(shuffle) != list(range(B)) and shuffle.dtype == np.int32
    for views, shuffled in zip(whole['views'], whole['shuffled'], strict=True):
        for i in range(B):
            np.testing.assert_allclose(shuffled[i], views[shuffle[i]], atol=1e-5)
            assert np.abs(shuffled[i] - np.delete(views, shuffle[i], axis=0)).max((1, 2, 3)).min() > 0.1


def test_methods_that_do_not_shuffle_get_the_same_views(data: dict[str, np.ndarray], whole: dict[str, Any]) -> None:
    plain = jax.device_get(jax.jit(partial(resident, data, shuffles=False))())
    check_equal(plain, {name: whole[name] for name in ('views', 'index', 'label')})


def test_each_key_draws_anew(data: dict[str, np.ndarray], whole: dict[str, Any]) -> None:
    images, labels, order = (jnp.asarray(data[name]) for name in ('images', 'labels', 'order'))
    step = jax.jit(partial(resident_batch, size=SIZE, shuffles=True, axis_name=None, policy=POLICY, dtype=jnp.bfloat16))
    other = step(jax.random.key(6), images, labels, order)
    assert other['views'][0].dtype == jnp.bfloat16
    assert (other['shuffle'] != whole['shuffle']).any()
    for a, b in zip(other['views'], whole['views'], strict=True):
        assert (np.abs(a.astype(np.float32) - b).max((1, 2, 3)) > 0.1).all()
    same = np.zeros(B, np.int32)  # one image in every place
    repeated = step(jax.random.key(6), images, labels, same)['views'][0]
    assert len(np.unique(np.asarray(repeated, np.float32).reshape(B, -1), axis=0)) == B, 'a place draws for itself'
