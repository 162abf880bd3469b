#!/usr/bin/env bash
# psum with axis_index_groups, which batch normalization over groups of devices needs, works under jax.pmap and under
# jax.shard_map(check_vma=False). Under shard_map's default, check_vma=True, it raises a NotImplementedError without a
# message, and under vmap with an axis name one with a message.
# Guess: a collective that pmap has works in shard_map, which replaces pmap; or the error says what is missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
cd "$folder"
XLA_FLAGS=--xla_force_host_platform_device_count=4 JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

mesh = jax.make_mesh((4,), ('devices',), axis_types=(AxisType.Auto,))
x, expected = jnp.arange(4.0), [1.0, 1.0, 5.0, 5.0]


def of_pairs(x):
    return jax.lax.psum(x, 'devices', axis_index_groups=[[0, 1], [2, 3]])


def mapped(check):
    spec = PartitionSpec('devices')
    return jax.jit(jax.shard_map(of_pairs, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check))(x)


print('jax', jax.__version__)
assert jax.pmap(of_pairs, axis_name='devices')(x).tolist() == expected
assert mapped(False).tolist() == expected
print('pmap and shard_map(check_vma=False):', expected)
for name, run in (('shard_map', lambda: mapped(True)), ('vmap', lambda: jax.vmap(of_pairs, axis_name='devices')(x))):
    try:
        run()
        raise SystemExit(f'{name} sums over groups')
    except NotImplementedError as error:
        print(f'{name}: NotImplementedError {str(error)!r}')
        assert (str(error) == '') == (name == 'shard_map')
PY
