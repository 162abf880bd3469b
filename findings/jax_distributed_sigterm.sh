#!/usr/bin/env bash
# jax.distributed.initialize takes SIGTERM for itself, also with one process: the process does not end by it any more, and a
# handler that Python had set before is never called, though signal.getsignal still names it. Only a handler that is set
# after initialize is called. (jax notes the signal for jax.experimental.multihost_utils.reached_preemption_sync_point.)
# So a process that does not ask for it is deaf to the scheduler, which kills it in the end.
# Guess: signals work as in any Python program.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$folder"
cat >program.py <<'PY'
import os
import signal
import sys
import time

import jax

when, address, got = sys.argv[1], sys.argv[2], []
if when == 'before':
    signal.signal(signal.SIGTERM, lambda *_: got.append('SIGTERM'))
if when != 'without initialize':
    jax.distributed.initialize(address, num_processes=1, process_id=0)
if when == 'after':
    signal.signal(signal.SIGTERM, lambda *_: got.append('SIGTERM'))
print('named' if callable(signal.getsignal(signal.SIGTERM)) else 'none', flush=True)
end = time.monotonic() + 5
while time.monotonic() < end:
    time.sleep(0.1)
print('still there, called' if got else 'still there, not called', flush=True)
os._exit(0)
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import signal
import socket
import subprocess
import sys
from importlib.metadata import version

print('jax', version('jax'))
found = {}
for when in ('without initialize', 'no handler', 'before', 'after'):
    with socket.socket() as s:
        s.bind(('localhost', 0))
        address = f'localhost:{s.getsockname()[1]}'
    command = [sys.executable, 'program.py', when, address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    named = process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    said = process.stdout.read().strip()
    found[when] = process.wait(), named, said
    print(f'{when}: exit code {found[when][0]}, handler {named}, {said or "ended at once"}')
assert found == {
    'without initialize': (-signal.SIGTERM, 'none', ''),
    'no handler': (0, 'none', 'still there, not called'),
    'before': (0, 'named', 'still there, not called'),
    'after': (0, 'named', 'still there, called'),
}
print('as described')
PY
