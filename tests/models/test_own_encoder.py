"""Encoders from outside of the package, named 'package.module:Class'."""

import functools
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax.distributed import collectives
from contrastive_jax.errors import UserError
from contrastive_jax.models import Network, build, build_encoder
from tests.models import own_encoders

OWN = 'tests.models.own_encoders'
PROJECTOR = {'num_layers': 2, 'hidden_dim': 6, 'output_dim': 5}
X = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))

ENCODERS = [{'name': f'{OWN}:Plain', 'kernel_size': [1, 3]}, {'name': f'{OWN}:Normalized', 'width': 4}]


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, because batch norm over a few examples magnifies rounding."""
    with jax.enable_x64(True):
        yield


def test_fields_of_the_config_and_common_ones_reach_the_class() -> None:
    common = {'dtype': jnp.dtype('bfloat16'), 'bn_group_size': 4}
    plain = build_encoder({'name': f'{OWN}:Plain', 'kernel_size': [1, 3]}, **common)
    assert plain == own_encoders.Plain(kernel_size=(1, 3), dtype=jnp.dtype('bfloat16')) and plain.width == 4
    normalized = build_encoder({'name': f'{OWN}:Normalized', 'width': 8}, **common)
    assert normalized == own_encoders.Normalized(8, bn_group_size=4, dtype=jnp.dtype('bfloat16'))
    for encoder in (plain, normalized):
        assert hash(encoder) == hash(encoder.clone())
        h = jax.eval_shape(lambda encoder=encoder: encoder.init_with_output(jax.random.key(1), X, train=True))[0]
        assert (h.shape, h.dtype) == ((8, encoder.width), jnp.float32)


@pytest.mark.parametrize('encoder', ENCODERS, ids=['plain', 'batch norm'])
def test_value_and_gradient_do_not_depend_on_the_devices(x64: None, encoder: dict[str, Any]) -> None:
    network = build(encoder, PROJECTOR, dtype='float64', bn_group_size=4)
    variables = jax.jit(lambda: network.init(jax.random.key(1), X, train=True))()
    assert set(variables['params']) == {'encoder', 'projector'}
    assert ('encoder' in variables['batch_stats']) == ('Normalized' in encoder['name'])

    def step(variables: Any, x: jax.Array, axis_name: str | None = None) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            (_, z), updated = network.apply(
                {**variables, 'params': params},
                x,
                train=True,
                axis_name=axis_name,
                method='project',
                mutable=['batch_stats'],
            )
            return jnp.mean(z**3), updated['batch_stats']

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


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            {'name': 'no_such_package.nets:Net'},
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_pack",
        ),
        (
            {'name': 'tests.models.broken_module:Net'},
            '(RuntimeError: the license has expired) -> make `import tests.mo',
        ),
        ({'name': ':Net'}, 'cannot be imported (ValueError: '),
        ({'name': f'{OWN}:Plian'}, f"'Plian' is not in {OWN}; did you mean 'Plain'? -> choose from Plain, Normalized"),
        ({'name': f'{OWN}:'}, f"'' is not in {OWN} -> choose from Plain, Normalized"),
        ({'name': f'{OWN}:function'}, "'function' is not a flax.linen.Module class -> choose from"),
        ({'name': 'math:sqrt'}, "'sqrt' is not a flax.linen.Module class -> name a subclass of flax.linen.Module"),
        ({'name': f'{OWN}:WithoutDtype'}, 'has no dtype -> add a field `dtype'),
        ({'name': f'{OWN}:WithoutTrain'}, '-> define __call__(self, x, *, train, axis_name=None)'),
        ({'name': f'{OWN}:WithoutCall'}, '-> define __call__(self, x, *, train, axis_name=None)'),
        (
            {'name': f'{OWN}:Plain', 'widht': 8},
            "has no field 'widht'; did you mean 'width'? -> choose from width, kern",
        ),
        ({'name': f'{OWN}:Normalized'}, f'encoder ({OWN}:Normalized) lacks width -> set encoder.width'),
    ],
)
def test_what_is_wrong_is_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        build_encoder(config, dtype=jnp.dtype('float32'), bn_group_size=None)
    assert '\n' not in str(error.value) and config['name'] in str(error.value)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('Grid', 'encoder Grid returns [8, 8, 8, 4] for images [8, 8, 8, 3] -> return features [B, D]'),
        ('Pair', 'encoder Pair returns a tuple for images [8, 8, 8, 3] -> return features [B, D]'),
    ],
)
def test_other_outputs_than_one_vector_for_each_image(name: str, message: str) -> None:
    network: Network = build({'name': f'{OWN}:{name}'}, PROJECTOR)
    with pytest.raises(UserError, match=re.escape(message)):
        jax.eval_shape(lambda: network.init(jax.random.key(1), X, train=True))


def test_only_names_with_a_colon_are_imported() -> None:
    name = 'tests.models.broken_module'
    with pytest.raises(UserError, match=f"encoder.name '{name}' is unknown"):
        build_encoder({'name': name})
    assert name not in sys.modules
