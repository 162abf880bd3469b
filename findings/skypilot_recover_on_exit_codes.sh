#!/usr/bin/env bash
# SkyPilot, managed jobs: `recover_on_exit_codes` is compared with the exit code of every node, and one that matches is
# enough. Such a recovery is not counted, so `max_restarts_on_errors` does not limit it. Of a job on two nodes, where one ends
# with an error of its own (3) and the other because it has lost it (142), the list [142] makes SkyPilot start the job again
# without end.
# Guess: the exit code of the job is that of its first failure, and max_restarts_on_errors limits all restarts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet skypilot==0.14.1
cd "$folder"
HOME="$folder" "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sky
from sky.jobs import recovery_strategy

recovery = {'recover_on_exit_codes': [142], 'max_restarts_on_errors': 2}
task = sky.Task.from_yaml_config({'run': 'true', 'num_nodes': 2, 'resources': {'job_recovery': recovery}})
(resources,) = task.resources
assert resources.job_recovery['recover_on_exit_codes'] == [142], resources.job_recovery


class Executor(recovery_strategy.StrategyExecutor):
    """What decides about a restart, without a cluster."""

    def __init__(self) -> None:
        self.recover_on_exit_codes = [142]
        self.max_restarts_on_errors = 2
        self.restart_cnt_on_failure = 0


def restarts(codes: list[int]) -> int:
    """How many of 100 failures in a row are started again."""
    executor = Executor()
    return sum(executor.should_restart_on_failure(exit_codes=codes) for _ in range(100))


counts = {str(codes): restarts(codes) for codes in ([3], [3, 142], [142, 3])}
print('skypilot', version('skypilot'), 'restarts of 100 failures with these exit codes of the nodes:', counts)
assert counts == {'[3]': 2, '[3, 142]': 100, '[142, 3]': 100}
print('as described')
PY
