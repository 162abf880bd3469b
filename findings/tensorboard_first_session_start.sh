#!/usr/bin/env bash
# TensorBoard after a resume: an event file that begins with SessionLog.START at step s hides what earlier files hold from
# step s on. The default reader (--load_fast=auto, the Rust data server) follows every START. The reader in Python, which
# --load_fast=false chooses, and which runs where there is no data server, takes the first START of a folder for no restart
# and ignores it. So with one START, in the file that resumes, it shows steps twice; with a START also in the first file,
# both readers agree. Guess: both readers show the same curve.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorboard==2.21.0 tensorboard-data-server==0.7.2 numpy==2.4.6 'setuptools<81'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import tensorboard
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def write(file, start, steps):
    """An event file with the scalar `loss` at some steps, after a session start at step `start`, if there is one."""
    events = [event_pb2.Event(file_version='brain.Event:2')]
    if start is not None:
        events.append(event_pb2.Event(step=start, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))
    for step in steps:
        value = summary_pb2.Summary.Value(tag='loss', simple_value=1 / step)
        events.append(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[value])))
    with open(file, 'wb') as stream:
        records = RecordWriter(stream)
        for event in events:
            event.wall_time = time.time()
            records.write(event.SerializeToString())


def shown(folder, load_fast):
    """The steps of `loss` that a TensorBoard server shows for a folder."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    options = [f'--logdir={folder}', f'--port={port}', f'--load_fast={load_fast}', '--reload_interval=1']
    server = subprocess.Popen([sys.executable, '-m', 'tensorboard.main', *options], stderr=subprocess.DEVNULL)
    url = f'http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=.&tag=loss'
    try:
        for _ in range(240):
            try:
                points = json.load(urllib.request.urlopen(url, timeout=5))
                if points[-1][1] == 4:
                    return [step for _, step, _ in points]
            except (OSError, ValueError, LookupError):
                pass
            time.sleep(0.5)
        raise SystemExit('TensorBoard shows nothing')
    finally:
        server.terminate()
        server.wait()


found = {}
for name, first in (('without', None), ('with', 1)):
    folder = pathlib.Path(name)
    folder.mkdir()
    write(folder / 'events.out.tfevents.0000000001.host', first, [1, 2, 3])  # stopped after the checkpoint of step 1
    write(folder / 'events.out.tfevents.0000000002.host', 2, [2, 3, 4])
    found[name] = {load_fast: shown(folder, load_fast) for load_fast in ('true', 'false')}
print('TensorBoard', tensorboard.__version__)
for name, by_reader in found.items():
    print(f'{name} a START in the first file:', ', '.join(f'--load_fast={k} shows {v}' for k, v in by_reader.items()))
assert found['without'] == {'true': [1, 2, 3, 4], 'false': [1, 2, 3, 2, 3, 4]}, found
assert found['with'] == {'true': [1, 2, 3, 4], 'false': [1, 2, 3, 4]}, found
print('as described')
PY
