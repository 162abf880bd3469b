#!/usr/bin/env bash
# Orbax, CheckpointManager.save: a step that is not later than the latest one on disk is not saved. `save` returns False and
# says nothing. A run that goes back to an earlier checkpoint, since the latest one is bad, and trains on saves nothing until
# it has passed the latest step, and the bad checkpoint stays.
# Guess: `save` saves, replaces what is there, or raises an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 tensorstore==0.1.86
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import pathlib
from importlib.metadata import version

import numpy as np
import orbax.checkpoint as ocp


def values(of):
    return ocp.args.StandardSave({'w': np.full(4, of, np.float32)})


template = ocp.args.StandardRestore({'w': np.zeros(4, np.float32)})
with ocp.CheckpointManager(pathlib.Path('checkpoints').absolute()) as manager:
    for step in (3, 6, 9):
        assert manager.save(step, args=values(step))
    manager.wait_until_finished()
    restored = manager.restore(6, args=template)['w'][0]
    again = {step: manager.save(step, args=values(100 + step)) for step in (7, 8, 9, 10)}
    manager.wait_until_finished()
    found = {step: float(manager.restore(step, args=template)['w'][0]) for step in manager.all_steps()}
print('orbax-checkpoint', version('orbax-checkpoint'))
print(f'3, 6 and 9 saved, {restored:.0f} restored; what save returns then: {again}; on disk: {found}')
assert again == {7: False, 8: False, 9: False, 10: True}, again
assert found == {3: 3.0, 6: 6.0, 9: 9.0, 10: 110.0}, found
print('as described')
PY
