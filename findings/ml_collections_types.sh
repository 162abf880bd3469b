#!/usr/bin/env bash
# ml_collections: the types that a ConfigDict keeps for its fields do not reach into tuples. An int field refuses 0.5 and text
# on the command line; a field (30, 60) takes --config.epochs=0.5 as (0.5,), =None as (None,) and =abc as ('abc',), and a
# program meets them where it computes with them. And an int field accepts True, becomes bool by that, and then refuses the
# int that it held before.
# Guess: "type-safe" holds for the elements of a tuple as for a number, and a field keeps its type for good.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_collections==1.1.0 absl-py==2.5.1
cd "$folder"
cat > program.py <<'PY'
from absl import app
from ml_collections import ConfigDict, config_flags

config = config_flags.DEFINE_config_dict('config', ConfigDict({'layers': 3, 'epochs': (30, 60)}))
app.run(lambda _: print(config.value.layers, config.value.epochs))
PY
"$folder/venv/bin/python" - <<'PY'
import subprocess
import sys
from importlib.metadata import version

from ml_collections import ConfigDict

print('ml_collections', version('ml_collections'))
results = {}
for given in ('layers=4', 'layers=0.5', 'layers=abc', 'epochs=5', 'epochs=0.5', 'epochs=None', 'epochs=abc'):
    done = subprocess.run([sys.executable, 'program.py', f'--config.{given}'], capture_output=True, text=True)
    results[given] = done.stdout.strip() if done.returncode == 0 else 'refused'
    print(f'--config.{given}:', results[given])
assert results == {
    'layers=4': '4 (30, 60)',
    'layers=0.5': 'refused',
    'layers=abc': 'refused',
    'epochs=5': '3 (5,)',
    'epochs=0.5': '3 (0.5,)',
    'epochs=None': '3 (None,)',
    'epochs=abc': "3 ('abc',)",
}, results

config = ConfigDict({'layers': 3})
config.layers = True
print('an int field after True:', config.get_type('layers').__name__)
assert config.get_type('layers') is bool
try:
    config.layers = 3
    raise SystemExit('it took 3 again')
except TypeError as error:
    print('then 3:', error)
print('as described')
PY
