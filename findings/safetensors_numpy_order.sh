#!/usr/bin/env bash
# safetensors.numpy.save and save_file: an array that is not C-contiguous, such as w.T or w[:, ::2], is written
# without an error with other values. The memory from its first element on is stored, with the shape of the view. Linear
# weights are transposed in most conversions between PyTorch and JAX, so whole networks can be saved wrong.
# Guess: what was saved is loaded again, as with np.savez, or there is an error, as safetensors.torch raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import io
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

w = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {'w': w, 'w.T': w.T, 'w[:, ::2]': w[:, ::2], 'column order': np.asfortranarray(w)}
same = {}
for name, x in views.items():
    stream = io.BytesIO()
    np.savez(stream, x=x)
    stream.seek(0)
    assert (np.load(stream)['x'] == x).all()
    loaded = load(save({'x': x}))['x']
    same[name] = loaded.shape == x.shape and bool((loaded == x).all())
    print(name, x.tolist(), 'is loaded as', loaded.tolist())
    assert (load(save({'x': np.ascontiguousarray(x)}))['x'] == x).all()
print('safetensors', version('safetensors'), 'numpy', np.__version__, 'same values:', same)
assert same == {'w': True, 'w.T': False, 'w[:, ::2]': False, 'column order': False}, same
print('as described')
PY
