#!/usr/bin/env bash
# xpk, `workload create`: the pod failure policy restarts on the exit codes 42 and 127 to 255, but --max-restarts is 0 unless
# it is given, so nothing is restarted. Exit code 1, that of a Python traceback, is not among them; 127, `command not found`,
# is. On SIGTERM, the container's shell sends SIGTERM to the subshell that runs --command. If the command is a pipeline or a
# list, that subshell ends with 143 at once, and the program in it gets no signal; with `exec PROGRAM` the program gets it.
# Guess: the codes that are documented as restarting do restart, and SIGTERM reaches the program.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet xpk==1.16.0 pyyaml
cd "$folder"
cat >program <<'END'
#!/bin/bash
trap 'echo saved >>saved; exit 42' TERM
touch started
for _ in {1..100}; do sleep 0.1; done
END
chmod +x program

manifest() { # COMMAND
  venv/bin/xpk workload create --cluster=c --workload=w --tpu-type=v6e-16 --project=p --zone=us-east5-b --docker-image=i \
    --dry-run --skip-validation --output-manifest-file=manifest.yaml --command="$1" >xpk.log 2>&1 || { cat xpk.log; exit 1; }
}

for command in './program; true' 'exec ./program'; do
  manifest "$command"
  rm -f started saved
  venv/bin/python - "$command" <<'PY'
import os
import signal
import subprocess
import sys
import time

import yaml

spec = yaml.safe_load(open('manifest.yaml'))['spec']
job = spec['replicatedJobs'][0]['template']['spec']
rule = job['podFailurePolicy']['rules'][0]
codes = sorted(rule['onExitCodes']['values'])
assert (rule['action'], rule['onExitCodes']['operator']) == ('FailJob', 'NotIn') and codes == [42, *range(127, 256)]
assert spec['failurePolicy']['maxRestarts'] == 0
container = subprocess.Popen(job['template']['spec']['containers'][0]['command'], stdout=subprocess.DEVNULL)
while not os.path.exists('started'):
    time.sleep(0.1)
container.send_signal(signal.SIGTERM)
code = container.wait(timeout=30)
saved = os.path.exists('saved')
print(f'--command={sys.argv[1]!r}: SIGTERM to the container: exit code {code}, the program got it: {saved}')
assert (code, saved) == ((42, True) if sys.argv[1].startswith('exec') else (143, False))
PY
done
venv/bin/xpk version 2>/dev/null | head -n 1 || true
echo 'restarts on 42 and 127-255, and max-restarts is 0'
echo 'as described'
