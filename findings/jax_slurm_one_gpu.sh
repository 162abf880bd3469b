#!/usr/bin/env bash
# jax.distributed.initialize under Slurm: each process sees one GPU of its node, that of its number on the node, even if it
# is the only process there and even if address, number and count of the processes are given. With one task on each of two
# nodes of 8 GPUs, 2 of 16 are used, without a word. JAX_LOCAL_DEVICE_IDS changes that.
# Guess: as elsewhere, a process uses all GPUs of its node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat >"$folder/initialize.py" <<'PY'
import os
import sys

import jax

arguments = ('127.0.0.1:18476', 1, 0) if sys.argv[1] == 'given' else ()
jax.distributed.initialize(*arguments)
print(jax.config.values['jax_cuda_visible_devices'])
os._exit(0)
PY
visible() { # given | found, VARIABLES...: the GPUs that jax would use, for the first process on a node
  local how="$1"
  shift
  env JAX_PLATFORMS=cpu "$@" "$folder/venv/bin/python" "$folder/initialize.py" "$how" 2>/dev/null
}

slurm=(SLURM_JOB_ID=2500 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_STEP_NUM_NODES=1)
"$folder/venv/bin/python" -c 'import jax; print("jax", jax.__version__)'
elsewhere=$(visible given)
found=$(visible found "${slurm[@]}")
given=$(visible given "${slurm[@]}")
asked=$(visible found "${slurm[@]}" JAX_LOCAL_DEVICE_IDS=0,1,2,3)
echo "GPUs of the process: elsewhere $elsewhere, under Slurm $found, with addresses given $given, with JAX_LOCAL_DEVICE_IDS $asked"
[ "$elsewhere, $found, $given, $asked" = 'all, 0, 0, 0,1,2,3' ]
echo 'as described'
