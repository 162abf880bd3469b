#!/usr/bin/env bash
# The compilation cache of jax writes programs that were compiled for described devices, and cannot load them again: a second
# process reads the entry, fails with a warning, and compiles anew.
# Guess: what is written to the cache is used by the next process.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'jax[cuda13-local]==0.10.2' jaxlib==0.10.2
cat >"$folder/compile.py" <<'PY'
import sys

import jax
import numpy as np
from jax.experimental import topologies

target = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3350000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 80000000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "H100"
"""
jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
described = topologies.get_topology_desc(platform='cuda', topology='1x1x1', target_config=target)
sharding = jax.sharding.SingleDeviceSharding(described.devices[0])
x = jax.ShapeDtypeStruct((128, 128), np.float32, sharding=sharding)
jax.jit(lambda x: jax.numpy.tanh(x) + 1).lower(x).compile()
PY
"$folder/venv/bin/python" -c 'import jax; print("jax", jax.__version__)'
for process in first second; do
  JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/compile.py" "$folder/cache" 2>"$folder/$process"
  echo "$process process: $(find "$folder/cache" -name '*-cache' | wc -l) programs in the cache, $(
    grep -c 'Error reading persistent compilation cache' "$folder/$process" || true
  ) warnings"
done
grep -o 'PjRtCompiler must be constructed with a Client.*' "$folder/second" | head -1
[ "$(grep -c 'Error reading persistent compilation cache' "$folder/first")" = 0 ]
echo 'as described'
