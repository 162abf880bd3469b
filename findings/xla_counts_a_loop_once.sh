#!/usr/bin/env bash
# compiled.cost_analysis() counts the body of a loop once, whatever its known length: lax.scan over 50 products reports
# the FLOP of one, and the same products in a Python loop report 50. A network whose blocks are scanned, or gradient
# accumulation by scan, seems many times cheaper than it is, and its share of the peak that much lower.
# Guess: the length of a scan is static, so it is multiplied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

N, LENGTH = 64, 50


def scanned(x):
    return jax.lax.scan(lambda carry, _: (jnp.sin(carry @ x), None), x, length=LENGTH)[0]


def unrolled(x):
    carry = x
    for _ in range(LENGTH):
        carry = jnp.sin(carry @ x)
    return carry


one = 2 * N**3
print('jax', jax.__version__, 'FLOP of a product', one)
counts = {f.__name__: jax.jit(f).lower(jnp.ones((N, N))).compile().cost_analysis()['flops'] for f in (scanned, unrolled)}
print(counts)
assert abs(counts['scanned'] / one - 1) < 0.1, counts
assert abs(counts['unrolled'] / one - LENGTH) < 0.1 * LENGTH, counts
print('as described')
PY
