#!/usr/bin/env bash
# Grain reads an absl flag of its profiler when worker processes begin, but only where jax can be imported. So the same
# script with `mp_prefetch`, which does not begin with absl's app.run and does not use jax, works in an environment
# without jax, and fails with UnparsedFlagAccessError once jax is installed. Threads work in both, and
# flags.FLAGS.mark_as_parsed() is enough for the workers.
# Guess: the number of worker processes is a setting like any other, and installing jax does not matter for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grain==0.2.18 absl-py==2.5.1 numpy==2.4.6
cd "$folder"
cat > script.py <<'PY'
import sys

import grain
from absl import flags


def doubled(x):
    return 2 * x


def elements(workers):
    data = grain.MapDataset.range(4).map(doubled).to_iter_dataset()
    return list(data.mp_prefetch(grain.MultiprocessingOptions(num_workers=1)) if workers else data)


if __name__ == '__main__':
    assert elements(workers=False) == [0, 2, 4, 6]
    try:
        found = elements(workers=True)
    except flags.UnparsedFlagAccessError as error:
        found = str(error)
    print(sys.argv[1], 'a worker gives', found)
    if sys.argv[1] == 'without jax:':
        assert found == [0, 2, 4, 6]
    else:
        assert 'grain_enable_multiprocess_worker_profiling before flags were parsed' in found
        flags.FLAGS.mark_as_parsed()
        assert elements(workers=True) == [0, 2, 4, 6]
        print('after mark_as_parsed it gives them')
PY
timeout 300 "$folder/venv/bin/python" script.py 'without jax:'
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu timeout 300 "$folder/venv/bin/python" script.py 'with jax:'
