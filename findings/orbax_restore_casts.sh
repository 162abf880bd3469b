#!/usr/bin/env bash
# Orbax, StandardCheckpointer.restore: values are cast to the dtype of the template that is given, without a word, also where
# they do not fit: 1.7 becomes 1, 300 becomes 44 in uint8, and 16777217 infinity in float16. The shape of a template of numpy
# arrays is not looked at: the array has the shape that is stored.
# Guess: a template that does not fit the checkpoint is an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 tensorstore==0.1.86
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error::UserWarning - <<'PY'
import pathlib
from importlib.metadata import version

import numpy as np
import orbax.checkpoint as ocp

folder = pathlib.Path('checkpoint').absolute()
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, {'w': np.array([0.1, 1.7, 2.9], np.float32), 'n': np.array([300, 2**24 + 1], np.int32)})
    checkpointer.wait_until_finished()
    whole = checkpointer.restore(folder, {'w': np.zeros(3, np.int32), 'n': np.zeros(2, np.uint8)})
    half = checkpointer.restore(folder, {'w': np.zeros(3, np.float32), 'n': np.zeros(2, np.float16)})
    short = checkpointer.restore(folder, {'w': np.zeros(2, np.float32), 'n': np.zeros(5, np.int32)})
print('orbax-checkpoint', version('orbax-checkpoint'))
print('int32 and uint8 asked for:', whole['w'], whole['n'], '; float16:', half['n'], '; shapes 2 and 5:', short['w'], short['n'])
assert whole['w'].tolist() == [0, 1, 2] and whole['n'].tolist() == [44, 1]
assert half['n'].tolist() == [300.0, float('inf')]
assert short['w'].shape == (3,) and short['n'].shape == (2,)
print('as described')
PY
