"""Views in one pass of a network: what a pass for each view computes."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.config.build import build_network
from contrastive_jax.methods import networks
from contrastive_jax.models import BatchNorm
from contrastive_jax.models.network import Network
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.training.build import build_run
from tests import train_steps


def one_by_one(network: Network, params: Any, stats: Any, views: jax.Array) -> tuple[Any, Any]:
    """The oracle of `predict_each`: `Network` itself, applied to a view after the other."""
    found = []
    for x in views:
        (_, z, p), new = network.apply({'params': params, 'batch_stats': stats}, x, train=True, mutable=['batch_stats'])
        found.append((z, p))
        stats = new['batch_stats']
    return found, stats


@pytest.mark.parametrize(
    ('fields', 'passes'),
    [({}, 1), ({'bn_group_size': 4, 'chunks': 2}, 2)],  # chunks bound the memory: no pass gets larger
)
def test_each_view_is_normalized_alone(fields: dict[str, Any], passes: int) -> None:
    """Outputs, BN statistics and gradients, in float64."""
    with jax.enable_x64(True):
        config = train_steps.load('byol:tiny', dtype='float64').unlock()
        config.update_from_flattened_dict({'encoder.stage_sizes': (1,), **fields})
        network, size = build_network(config, 'tpu'), config.data.image_size
        rng = np.random.default_rng(0)
        views = jnp.asarray(rng.normal(size=(2, 8, size, size, 3)) * [[[[[1.0]]]], [[[[3.0]]]]])
        params, stats = networks.init_network(network, jax.random.key(0), {'views': views})
        params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape)), params)
        stats = jax.tree.map(lambda x: x.astype(jnp.float64), stats)

        @functools.partial(jax.value_and_grad, has_aux=True)
        def in_one(params: Any) -> Any:
            out, new = networks.predict_each(network, params, stats, tuple(views), None)
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out)), (out, new)

        @functools.partial(jax.value_and_grad, has_aux=True)
        def in_turn(params: Any) -> Any:
            out, new = one_by_one(network.clone(chunks=1), params, stats, views)
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out)), (out, new)

        found, expected = jax.jit(in_one)(params), jax.jit(in_turn)(params)
        assert train_steps.relative_error(found, expected) < 1e-9
        forward = str(jax.make_jaxpr(lambda: networks.predict_each(network, params, stats, tuple(views), None)[0])())
        alone = str(jax.make_jaxpr(lambda: networks.predict_each(network, params, stats, (views[0],), None)[0])())
    assert forward.count('conv_general_dilated[') == passes * alone.count('conv_general_dilated[') > 0


@pytest.mark.parametrize(
    ('platform', 'images', 'passes'), [('tpu', 64, 1), ('tpu', 96, 2), ('tpu', 128, 2), ('tpu', 192, 1), ('gpu', 64, 2)]
)
def test_views_share_a_pass_where_it_fills_a_tile(platform: str, images: int, passes: int) -> None:
    network = build_run(train_steps.load('byol:tiny'), 64, platform).method.network
    view = jax.ShapeDtypeStruct((images, 8, 8, 3), jnp.float32)
    params, stats = jax.eval_shape(lambda x: networks.init_network(network, jax.random.key(0), {'views': (x, x)}), view)
    project = lambda params, stats, x: networks.project_each(network, params, stats, (x, x), None)  # noqa: E731
    convolutions = str(jax.make_jaxpr(project)(params, stats, view)).count('conv_general_dilated[')
    assert convolutions == passes * len([path for path, x in jax.tree.leaves_with_path(params) if x.ndim == 4])


class OwnResNet(ResNet):
    """As of a user, with a batch norm of its own that does not know of `bn_views`."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        h = super().__call__(x, train=train, axis_name=axis_name)
        return BatchNorm(dtype=self.dtype)(h, train=train, axis_name=axis_name)


class OwnHead(nn.Module):
    """As of a user, without a field `bn_views`."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        return BatchNorm()(nn.Dense(4)(x), train=train, axis_name=axis_name)


@pytest.mark.parametrize('part', ['encoder', 'projector', 'predictor'])
def test_parts_of_a_user_get_one_view_after_the_other(part: str) -> None:
    fields = {'stage_sizes': (), 'block': 'basic', 'width': 4}
    parts = {'encoder': ResNet(**fields), part: OwnResNet(**fields) if part == 'encoder' else OwnHead()}
    network = build_network(train_steps.load('byol:tiny'), 'tpu').clone(**parts)
    views = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 8, 3)), jnp.float32).at[1].multiply(3)
    params, stats = networks.init_network(network, jax.random.key(0), {'views': views})
    found = networks.predict_each(network, params, stats, tuple(views), None)
    assert train_steps.relative_error(found, one_by_one(network, params, stats, views)) < 1e-5


def test_projections_of_each_view_are_those_of_its_predictions() -> None:
    config = train_steps.load('byol:tiny')
    network = build_network(config, 'tpu')
    views = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 8, 3)), jnp.float32)
    params, stats = networks.init_network(network, jax.random.key(0), {'views': views})
    predicted, stats_p = networks.predict_each(network, params, stats, tuple(views), None)
    projected, stats_z = networks.project_each(network, params, stats, tuple(views), None)
    for (z, _), alone in zip(predicted, projected, strict=True):
        np.testing.assert_allclose(alone, z, rtol=1e-6)
    assert train_steps.relative_error(*map(networks.without_predictor, (stats_z, stats_p))) < 1e-6
