#!/usr/bin/env bash
# Orbax, StandardCheckpointer: a checkpoint whose bytes changed on disk is restored without an error. Arrays are stored by
# TensorStore's zarr driver in OCDBT, compressed by zstd. The index of OCDBT has checksums, the data files have none: after
# three bytes in the middle of the largest file changed, restore returns an array with wrong values.
# Guess: a damaged checkpoint raises an error, as a damaged .npz does (zip keeps a CRC-32 of each member).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 tensorstore==0.1.86
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import pathlib
import zipfile
from importlib.metadata import version

import numpy as np
import orbax.checkpoint as ocp


def change_three_bytes(file):
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3] = (byte ^ 255 for byte in content[middle : middle + 3])
    file.write_bytes(content)


folder, w = pathlib.Path('checkpoint').absolute(), np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, {'w': w})
    checkpointer.wait_until_finished()
    assert (checkpointer.restore(folder, {'w': w})['w'] == w).all()
    largest = max((file for file in folder.rglob('*') if file.is_file()), key=lambda file: file.stat().st_size)
    change_three_bytes(largest)
    restored = checkpointer.restore(folder, {'w': w})['w']
wrong = int((restored != w).sum())
print('orbax-checkpoint', version('orbax-checkpoint'), 'tensorstore', version('tensorstore'), 'changed', largest.name)
print('restored without an error:', wrong, 'of', w.size, 'values differ, the largest is', np.abs(restored).max())
assert 1 <= wrong <= 4, wrong

np.savez('w.npz', w=w)
change_three_bytes(pathlib.Path('w.npz'))
try:
    np.load('w.npz')['w']
    raise SystemExit('numpy read the changed file')
except zipfile.BadZipFile as error:
    print('numpy:', error)
print('as described')
PY
