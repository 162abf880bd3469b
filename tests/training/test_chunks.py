"""Networks that run in chunks (GradCache): the same training as in one piece, on any devices, in less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.config.build import build_network
from contrastive_jax.config.check import check
from contrastive_jax.distributed import collectives
from contrastive_jax.methods import base, networks
from tests import train_steps

NO_NORM = {
    f'{head}.{field}': False for head in ('projector', 'predictor') for field in ('batch_norm', 'last_batch_norm')
}
IN_BATCH, MULTI_CROP, VIT = 'dictionary:end_to_end,tiny', 'dino:tiny', 'mocov3_vit:tiny'
CHANGES = {IN_BATCH: {'bn_group_size': 2}, MULTI_CROP: {'encoder.drop_path': 0.0}}


def gradient(name: str, devices: int, chunks: int) -> tuple[Any, Any, Any]:
    """Loss, gradient and new state of a batch, in float64; devices as with `pmap`, averaged."""
    with jax.enable_x64(True):
        config = train_steps.load_small(name).unlock()
        config.update_from_flattened_dict({'chunks': chunks, **CHANGES[name]})
        assert check(config, devices) == []
        config.dtype = 'float64'
        run, _ = train_steps.build(config)
        method, B, rng = run.method, run.batch_size, np.random.default_rng(0)
        views = tuple(rng.normal(size=(B, s, s, 3)) for s in run.policy.view_sizes(run.image_size))
        shuffle = rng.permutation(B)
        params, state = jax.jit(lambda: method.init(jax.random.key(0), {'views': tuple(map(jnp.asarray, views))}))()
        params, state = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, state))
        batch = {'views': views, 'shuffled': tuple(view[shuffle] for view in views)}
        batch = jax.tree.map(lambda x: x.reshape(devices, B // devices, *x.shape[1:]), batch)

        def on_a_device(batch: base.Batch) -> Any:
            batch |= {'shuffle': jnp.asarray(shuffle)}
            loss = lambda p: method.loss(p, state, batch, rng=jax.random.key(0), progress=0.0, axis_name='data')  # noqa: E731
            (value, (new, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return collectives.pmean((value, grads), 'data'), new

        (value, grads), new = jax.jit(jax.vmap(on_a_device, axis_name='data'))(batch)
        return jax.device_get(jax.tree.map(lambda x: x[0], (value, grads, new)))


@pytest.mark.parametrize(('name', 'splits'), [(IN_BATCH, ((1, 4), (4, 2))), (MULTI_CROP, ((4, 2),))])
def test_chunks_give_what_the_whole_batch_gives(name: str, splits: tuple[tuple[int, int], ...]) -> None:
    value, grads, state = gradient(name, 1, 1)
    for devices, chunks in splits:
        found, found_grads, found_state = gradient(name, devices, chunks)
        np.testing.assert_allclose(found, value, rtol=1e-9)
        assert train_steps.relative_error(found_grads, grads) < 1e-8, 'gradient'
        assert train_steps.relative_error(found_state, state) < 1e-8, 'target and BN statistics'


def test_memory_is_that_of_a_chunk() -> None:
    """Of the gradient of a loss over the whole batch, as the compiler counts it; in float32 the same to 1e-5."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8, 8, 3)), jnp.float32)
    found: dict[int, Any] = {}
    for chunks in (1, 8):
        config = train_steps.load(VIT, chunks=chunks, **NO_NORM)
        network = build_network(config)
        params, stats = networks.init_network(network, jax.random.key(0), {'views': (x,)})

        def loss(params: Any) -> Any:
            z, new = networks.project(network, params, stats, x, None)  # noqa: B023
            return jnp.mean(jax.nn.logsumexp(z @ z.T, axis=-1)), new

        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params).compile()
        found[chunks] = compiled(params), compiled.memory_analysis().temp_size_in_bytes
    assert found[8][1] < found[1][1] / 3, {chunks: memory for chunks, (_, memory) in found.items()}
    assert train_steps.relative_error(found[8][0], found[1][0]) < 1e-5
