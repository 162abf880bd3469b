"""Encoder, projector and predictor as one: their trees, their parts, and what a wrong config is told."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.errors import UserError
from contrastive_jax.models import ENCODERS, Network, build, build_encoder

ENCODER = {'name': 'resnet_tiny', 'stage_sizes': [1], 'width': 4}
PROJECTOR = {'num_layers': 2, 'hidden_dim': 6, 'output_dim': 5, 'last_batch_norm': True}
PREDICTOR = {'num_layers': 2, 'hidden_dim': 3, 'output_dim': 5}
X = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, because batch norm over a few examples magnifies rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope='module')
def network() -> Network:
    return build(ENCODER, PROJECTOR, PREDICTOR, dtype='float64', bn_group_size=4)


@pytest.fixture(scope='module')
def variables(network: Network) -> Any:
    with jax.enable_x64(True):
        return jax.jit(lambda: network.init(jax.random.key(1), X, train=True))()


def test_trees(variables: Any) -> None:
    assert set(variables) == {'params', 'batch_stats'}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    for tree in variables.values():
        assert set(tree) == {'encoder', 'projector', 'predictor'}


def test_parts_run_one_after_the_other(x64: None, network: Network, variables: Any) -> None:
    run = jax.jit(lambda: network.apply(variables, X, train=True, mutable=['batch_stats']))
    (h, z, p), updated = run()
    parts = {'encoder': network.encoder, 'projector': network.projector, 'predictor': network.predictor}
    x, outputs = X, []
    for name, module in parts.items():
        part = {collection: tree[name] for collection, tree in variables.items()}
        run = jax.jit(functools.partial(module.apply, train=True, mutable=['batch_stats']))
        x, stats = run(part, x)
        outputs.append(x)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            updated['batch_stats'][name],
            stats['batch_stats'],
        )
    for actual, expected in zip((h, z, p), outputs, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert (h.shape, z.shape, p.shape) == ((8, 4), (8, 5), (8, 5))


def test_a_target_needs_no_predictor(x64: None, network: Network, variables: Any) -> None:
    target = {name: {k: v for k, v in tree.items() if k != 'predictor'} for name, tree in variables.items()}
    project, encode = (
        jax.jit(functools.partial(network.apply, train=True, method=method, mutable=['batch_stats']))
        for method in ('project', 'encode')
    )
    (h, z), updated = project(target, X)
    assert set(updated['batch_stats']) == {'encoder', 'projector'}
    assert jax.tree.structure(updated['batch_stats']) == jax.tree.structure(target['batch_stats'])
    assert z.shape == (8, 5)
    np.testing.assert_allclose(h, encode(target, X)[0], rtol=1e-4, atol=1e-6)


def test_without_predictor_p_is_z() -> None:
    network = build(ENCODER, PROJECTOR)
    (_, z, p), variables = jax.jit(lambda: network.init_with_output(jax.random.key(1), X, train=False))()
    assert set(variables['params']) == {'encoder', 'projector'}
    np.testing.assert_array_equal(z, p)


def test_bn_groups_reach_every_part(x64: None, network: Network, variables: Any) -> None:
    run = jax.jit(lambda x: network.apply(variables, x, train=True, mutable=['batch_stats'])[0])
    for whole, half in zip(run(X), run(X[:4]), strict=True):
        np.testing.assert_allclose(whole[:4], half, rtol=1e-4, atol=1e-5)


def test_value_and_gradient_do_not_depend_on_the_devices(x64: None, network: Network, variables: Any) -> None:
    """Groups of 4 examples over 2 of 4 devices each, inside jax.checkpoint."""
    network = network.clone(encoder=network.encoder.clone(remat=True))

    def step(variables: Any, x: jax.Array, axis_name: str | None = None) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            (_, _, p), updated = network.apply(
                {**variables, 'params': params}, x, train=True, axis_name=axis_name, mutable=['batch_stats']
            )
            return jnp.mean(p**3), updated['batch_stats']

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables['params'])
        return collectives.pmean((value, grads), axis_name), stats

    mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    many = jax.shard_map(
        functools.partial(step, axis_name='data'), mesh=mesh, in_specs=(P(), P('data')), out_specs=P(), check_vma=False
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        jax.jit(many)(variables, X),
        jax.jit(step)(variables, X),
    )


def test_equal_arguments_give_equal_hashable_networks(network: Network) -> None:
    same = build(ENCODER, PROJECTOR, PREDICTOR, dtype='float64', bn_group_size=4)
    assert (same, hash(same)) == (network, hash(network))
    assert build(ENCODER, PROJECTOR, PREDICTOR, dtype='float64', bn_group_size=2) != network


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', jnp.bfloat16, jnp.dtype('float32')])
def test_dtype(dtype: Any) -> None:
    network = build(ENCODER, PROJECTOR, PREDICTOR, dtype=dtype)
    assert network.encoder.dtype == network.projector.dtype == network.predictor.dtype == jnp.dtype(dtype)
    shapes = jax.eval_shape(lambda: network.init_with_output(jax.random.key(1), X, train=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', ENCODERS)
def test_every_encoder_builds(name: str) -> None:
    encoder = build_encoder({'name': name}, bn_group_size=32, dtype=jnp.dtype('bfloat16'))
    size = encoder.patch_size if name.startswith('cpc') else 32  # a grid of one patch
    image = jnp.zeros((1, size, size, 3))
    h = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), image, train=True))[0]
    assert h.ndim == 2
    assert h.dtype == jnp.float32


def test_settings_override_the_table() -> None:
    network = build({'name': 'vit_small', 'num_heads': 6, 'patch_size': 8, 'remat': True}, PROJECTOR)
    assert (network.encoder.num_heads, network.encoder.patch_size, network.encoder.remat) == (6, 8, True)
    assert network.encoder.width == 384


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'encoder': {'name': 'resnet-50'}}, "encoder.name 'resnet-50' is unknown; did you mean 'resnet50'? -> choose"),
        ({'encoder': {'name': 'vit_smal'}}, "did you mean 'vit_small'"),
        ({'encoder': {}}, 'encoder.name None is unknown -> choose from resnet_tiny'),
        ({'encoder': {**ENCODER, 'widht': 8}}, "has no field 'widht'; did you mean 'width'? -> choose"),
        ({'projector': {**PROJECTOR, 'hiden_dim': 8}}, "projector has no field 'hiden_dim'; did you mean 'hidden_dim'"),
        ({'projector': {**PROJECTOR, 'name': 'mlp'}}, "projector has no field 'name'"),
        ({'predictor': {'num_layers': 2}}, 'predictor lacks hidden_dim, output_dim -> an MLP needs num_layers, hidden'),
        ({'dtype': 'float16'}, "dtype 'float16' is not supported -> use float32 or bfloat16"),
        ({'dtype': 'fp32'}, "dtype 'fp32' is not supported -> use float32 or bfloat16"),
    ],
)
def test_wrong_configs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        build(**{'encoder': ENCODER, 'projector': PROJECTOR, **arguments})
    assert '\n' not in str(error.value)
