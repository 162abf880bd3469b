"""Networks that run in chunks (GradCache): the same training as in one piece, on any devices, in less memory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import parallel, train
from contrastive_jax.methods import base
from tests import runs
from tests.test_devices import first_gradient

NO_NORM = {
    f'{head}.{field}': False for head in ('projector', 'predictor') for field in ('batch_norm', 'last_batch_norm')
}
IN_BATCH, VIT = 'dictionary:end_to_end,tiny', 'mocov3_vit:tiny'
CHANGES: dict[str, dict[str, Any]] = {IN_BATCH: {'bn_group_size': 2}, VIT: NO_NORM}


def trained(name: str, count: int, chunks: int) -> tuple[train.TrainState, np.ndarray]:
    """The state after two steps, with the gradient of the first, and the losses, in float64."""
    with jax.enable_x64(True):
        config = runs.load(name).unlock()
        config.update_from_flattened_dict({'dtype': 'float64', 'chunks': chunks, **CHANGES[name]})
        run, source = runs.build(config)
        run = dataclasses.replace(run, optimizer=first_gradient(run.optimizer))
        devices = parallel.devices('jit', count)
        data = runs.feed.ResidentFeed(run, devices, source, 1)
        state, metrics = data.advance(runs.start(run, devices, 'float64'), 0, 2)
        state = jax.device_get(devices.collect(state, run.state_specs))
        return state, np.array([devices.fetch(m)['loss'] for m in metrics])


@pytest.mark.parametrize(('name', 'splits'), [(IN_BATCH, ((1, 4), (4, 2))), (VIT, ((1, 4),))])
def test_chunks_train_what_the_whole_batch_trains(name: str, splits: tuple[tuple[int, int], ...]) -> None:
    """Loss, gradient, parameters, target and BN statistics."""
    state, losses = trained(name, 1, 1)
    for count, chunks in splits:
        chunked, found = trained(name, count, chunks)
        np.testing.assert_allclose(found, losses, rtol=1e-9, err_msg=f'{count} devices')
        for part in ('params', 'opt_state', 'method'):
            error = runs.relative_error(getattr(chunked, part), getattr(state, part))
            assert error < 1e-7, f'{part} on {count} devices: {error:.1e}'


def test_memory_is_that_of_a_chunk() -> None:
    """Of the gradient of a loss over the whole batch, as the compiler counts it; in float32 the same to 1e-5."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8, 8, 3)), jnp.float32)
    found: dict[int, Any] = {}
    for chunks in (1, 8):
        config = runs.load(VIT, chunks=chunks, **NO_NORM)
        network = train.recipe.build_network(config)
        params, stats = base.init_network(network, jax.random.key(0), {'views': (x,)})

        def loss(params: Any) -> Any:
            z, new = base.project(network, params, stats, x, None)  # noqa: B023
            return jnp.mean(jax.nn.logsumexp(z @ z.T, axis=-1)), new

        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params).compile()
        found[chunks] = compiled(params), compiled.memory_analysis().temp_size_in_bytes
    assert found[8][1] < found[1][1] / 3, {chunks: memory for chunks, (_, memory) in found.items()}
    assert runs.relative_error(found[8][0], found[1][0]) < 1e-5
