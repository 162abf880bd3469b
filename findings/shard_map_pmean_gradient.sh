#!/usr/bin/env bash
# jax.shard_map, default arguments: the gradient of a replicated parameter arrives already summed over the devices, so a
# further lax.pmean(grads), as every data-parallel step under pmap has it, leaves it too large by the number of devices.
# The loss looks right. Its values are those of one device in both forms, so a test of losses alone passes.
# Guess: shard_map with a pmean of loss and gradients gives what pmap gives. Seen: gradients 4 times too large on 4 devices
# unless check_vma=False is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
x, w = jnp.arange(8.0), jnp.array(3.0)
loss = lambda w, x: jnp.mean((w * x) ** 2)


def step(w, x):
    value, grad = jax.value_and_grad(loss)(w, x)
    return lax.pmean(value, 'data'), lax.pmean(grad, 'data')


expected = [float(v) for v in jax.value_and_grad(loss)(w, x)]
how = {'in_specs': (P(), P('data')), 'out_specs': (P(), P()), 'mesh': mesh}
default = [float(v) for v in jax.jit(jax.shard_map(step, **how))(w, x)]
unchecked = [float(v) for v in jax.jit(jax.shard_map(step, **how, check_vma=False))(w, x)]
pmapped = [float(v[0]) for v in jax.pmap(step, axis_name='data', in_axes=(None, 0))(w, x.reshape(4, 2))]
print('jax', jax.__version__, 'one device', expected, 'pmap', pmapped)
print('shard_map', default, 'shard_map without check_vma', unchecked)
np.testing.assert_allclose(pmapped, expected, rtol=1e-6)
np.testing.assert_allclose(unchecked, expected, rtol=1e-6)
np.testing.assert_allclose(default, [expected[0], 4 * expected[1]], rtol=1e-6)
print('as described')
PY
