#!/usr/bin/env bash
# Orbax, CheckpointManager: the step of a checkpoint is the name of its folder, and nothing in it is compared with the name.
# A copy of step 3 under the name 9 is restored as step 9, and is the latest; an empty folder 12 is listed as a step, too, and
# is then the latest, so that restoring the latest step fails while complete ones are there.
# Guess: a checkpoint knows its step, and an incomplete folder does not count.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 tensorstore==0.1.86
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import pathlib
import shutil
from importlib.metadata import version

import numpy as np
import orbax.checkpoint as ocp

folder = pathlib.Path('checkpoints').absolute()
with ocp.CheckpointManager(folder) as manager:
    manager.save(3, args=ocp.args.StandardSave({'w': np.full(4, 3, np.float32)}))
    manager.wait_until_finished()

template = ocp.args.StandardRestore({'w': np.zeros(4, np.float32)})
shutil.copytree(folder / '3', folder / '9')
with ocp.CheckpointManager(folder) as manager:
    latest = manager.latest_step()
    value = float(manager.restore(latest, args=template)['w'][0])
print('orbax-checkpoint', version('orbax-checkpoint'))
print(f'folder 3 copied to 9: latest step {latest}, its value {value:.0f}')
assert (latest, value) == (9, 3.0)

(folder / '12').mkdir()
with ocp.CheckpointManager(folder) as manager:
    steps, latest = sorted(manager.all_steps()), manager.latest_step()
    try:
        manager.restore(latest, args=template)
        raise SystemExit('an empty folder was restored')
    except (FileNotFoundError, KeyError, ValueError) as error:
        print(f'an empty folder 12: steps {steps}, latest {latest}; restore: {type(error).__name__}')
assert (steps, latest) == ([3, 9, 12], 12)
print('as described')
PY
