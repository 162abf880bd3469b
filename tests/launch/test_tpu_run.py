"""launch/tpu.sh setup, run, logs and stop against a pod of four directories: what arrives on the workers.

The oracle is the arguments themselves: they go through tpu.sh, gcloud's --command, a login shell (bash and sh), the
worker's script, nohup and setsid, and come out of a process that notes the bytes it got. No network, no real gcloud.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.launch.pod import AWKWARD, LAUNCH, WHERE, WORKERS, Pod, is_training, wait_for


def ssh(worker: str, words: str) -> list[str]:
    command = f'--command=bash contrastive_jax/launch/tpu/worker.sh {words}'
    return ['ssh', *WHERE, 'pod', f'--worker={worker}', '--ssh-flag=-n', command]


# ============ setup ============


def test_setup_brings_the_working_tree_to_every_worker(pod: Pod) -> None:
    contents = {
        'a file with spaces.txt': 'tracked', "quo'te.txt": 'tracked', 'new\nline': 'tracked',
        '--checkpoint=1': 'tracked', 'configs/moco.py': 'tracked', 'not added.py': 'untracked',
        'gone.py': 'tracked', '.gitignore': 'runs/\n*.bin\n',
    }  # fmt: skip
    for name, text in contents.items():
        (pod.tree / name).parent.mkdir(exist_ok=True)
        (pod.tree / name).write_text(text)
    pod.git('add', *(f'./{name}' for name in contents if name != 'not added.py'))
    (pod.tree / 'ignored.bin').touch()
    (pod.tree / 'gone.py').unlink()
    output = pod.tpu('setup')
    scp, unpack = pod.calls()
    assert scp[:4] == ['scp', *WHERE, scp[3]] and scp[4:] == ['pod:contrastive_jax-code.tar.gz', '--worker=all']
    assert not Path(scp[3]).exists()
    assert unpack[:-1] == ['ssh', *WHERE, 'pod', '--worker=all', '--ssh-flag=-n']
    del contents['gone.py']
    launch = [f'launch/{file.relative_to(LAUNCH)}' for file in LAUNCH.rglob('*') if file.is_file()]
    for worker in range(WORKERS):
        code = pod.home(worker) / 'contrastive_jax' / 'code'
        files = {str(file.relative_to(code)) for file in code.rglob('*') if file.is_file()}
        assert files == {*contents, *launch, '.launch-files'}
        assert all((code / name).read_text() == text for name, text in contents.items())
        assert pod.notes(pod.home(worker) / 'pip.jsonl')[0]['argv'][-2:] == ['-e', '.[tpu]']
        assert pod.notes(pod.home(worker) / 'pip.jsonl')[0]['cwd'] == str(code)
        assert f'worker {worker}: installed' in output

    # The second time: what was deleted here goes there, what a run wrote there stays.
    written = pod.home(1) / 'contrastive_jax' / 'code' / 'runs' / 'checkpoint'
    written.parent.mkdir()
    written.touch()
    for name in ('new\nline', '--checkpoint=1', "quo'te.txt"):
        (pod.tree / name).unlink()
    pod.tpu('setup')
    assert {file.name for file in written.parents[1].iterdir()} == {
        '.gitignore', '.launch-files', 'a file with spaces.txt', 'configs', 'launch', 'not added.py', 'runs',
    }  # fmt: skip
    assert written.exists()


def test_setup_wants_python_3_11(pod: Pod) -> None:
    (pod.home(1) / 'python_version').write_text('[3, 10, 12]')
    output = pod.tpu('setup', code=2)
    (line,) = (line for line in output.splitlines() if 'error' in line)
    assert 'worker 1: error: no Python >= 3.11' in line and 'Python 3.10.12 ->' in line and 'apt-get' in line
    assert 'not installed' in pod.tpu('run', code=2)  # and then no worker starts
    assert not any((pod.home(worker) / 'training.jsonl').exists() for worker in range(WORKERS))


def test_setup_from_something_else_than_a_checkout(pod: Pod) -> None:
    shutil.rmtree(pod.tree / '.git')
    assert 'not a git checkout' in pod.error('setup')
    assert pod.calls() == []


# ============ run, logs, stop ============


def test_arguments_arrive_byte_for_byte_on_all_workers(ready: Pod) -> None:
    ready.tpu('run', '--', *AWKWARD)
    check, run = ready.calls()
    assert check[:-1] == ssh('all', '')[:-1] and check[-1].startswith(ssh('all', 'check ')[-1])
    assert run[:-1] == ssh('all', '')[:-1] and run[-1].startswith(ssh('all', 'run ')[-1])
    for worker in range(WORKERS):
        (note,) = ready.trained(worker)
        assert [bytes.fromhex(argument) for argument in note['argv']] == [os.fsencode(word) for word in AWKWARD]
        assert note['cwd'] == str(ready.home(worker) / 'contrastive_jax' / 'code')
        assert note['deaf_to_hangup'] and note['own_session']


def test_run_without_arguments_gives_none(ready: Pod) -> None:
    ready.tpu('run')
    assert ready.trained(0)[0]['argv'] == []


def test_life_of_a_run(ready: Pod) -> None:
    ready.training('wait')
    started = ready.tpu('run', '--', '--config=c')
    for worker in range(WORKERS):
        wait_for((ready.home(worker) / 'listening').exists)
        assert f'worker {worker}: run ' in started
        os.kill(ready.pid(worker), signal.SIGHUP)  # the second one: sshd's was sent by the fake gcloud
    time.sleep(0.2)
    assert all(is_training(ready.pid(worker)) for worker in range(WORKERS))

    ready.calls()
    refused = ready.error('run', '--', '--config=d')
    assert f'{WORKERS} worker(s) are busy' in refused and 'is alive' in refused and 'launch/tpu.sh stop' in refused
    assert ' check ' in ready.calls()[0][-1]
    assert ready.tpu('status').count(' is alive ') == WORKERS
    assert 'is alive' in ready.tpu('setup', code=2)
    ready.calls()

    assert 'training on 0' in ready.tpu('logs')
    assert 'training on 1' in ready.tpu('logs', '--worker=1')
    assert ready.calls() == [ssh('0', 'log'), ssh('1', 'log')]

    with subprocess.Popen(
        [ready.tree / 'launch' / 'tpu.sh', 'logs', '--follow', '--worker', '1'],
        env=ready.environment, stdout=subprocess.PIPE, text=True,
    ) as follow:  # fmt: skip
        wait_for(lambda: len(ready.notes(ready.folder / 'calls.jsonl')) == 1)
        time.sleep(0.5)
        assert follow.poll() is None
        stopped = ready.tpu('stop')
        shown = follow.communicate(timeout=20)[0]  # it ends with the run
    assert 'training on 1' in shown and 'saved' in shown
    assert ready.calls() == [ssh('1', 'log follow'), ssh('all', 'stop 120')]
    for worker in range(WORKERS):
        assert ready.notes(ready.home(worker) / 'signals.jsonl') == [{'signal': 'SIGTERM'}]
        assert not is_training(ready.pid(worker))
        assert stopped.count(f'worker {worker}: run ') == 1
    assert stopped.count('ended with exit code 42') == WORKERS
    assert ready.tpu('stop').count('no run is alive') == WORKERS
    ready.calls()

    ready.tpu('logs', '--all')
    describe, *copies = ready.calls()
    assert describe == ['describe', *WHERE, 'pod', '--format=value(networkEndpoints.len())']
    for worker, copy in enumerate(copies):
        source, target = f'pod:contrastive_jax/logs/run-{worker}.log', f'pod-logs/run-{worker}.log'
        assert copy == ['scp', *WHERE, source, target, f'--worker={worker}']
        text = (ready.here / target).read_text()
        assert text == (ready.logs(worker) / f'run-{worker}.log').read_text()
        assert f'training on {worker}' in text and 'ended with exit code 42' in text
    assert len(copies) == WORKERS

    ready.training('3')
    ready.tpu('run', '--', '--config=d')  # nothing is in the way any more
    wait_for(lambda: 'ended with exit code 3' in ready.tpu('logs'))


def test_stop_kills_a_run_that_is_deaf_to_sigterm(ready: Pod) -> None:
    ready.training('stubborn')
    ready.tpu('run')
    for worker in range(WORKERS):
        wait_for((ready.home(worker) / 'listening').exists)
    stopped = ready.tpu('stop', '--grace=1')
    assert stopped.count('still alive 1 s after SIGTERM: it is killed') == WORKERS
    assert stopped.count('ended with exit code 137') == WORKERS
    assert not any(is_training(ready.pid(worker)) for worker in range(WORKERS))


def test_of_runs_at_the_same_moment_one_trains(ready: Pod) -> None:
    ready.training('wait')
    for trial in range(1, 3):
        starts = [
            subprocess.Popen(
                [ready.tree / 'launch' / 'tpu.sh', 'run', '--', f'--name={name}'],
                env=ready.environment, cwd=ready.here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for name in 'abc'
        ]  # fmt: skip
        outputs = [start.communicate(timeout=60)[0] for start in starts]
        assert sorted(start.returncode for start in starts) == [0, 2, 2], outputs
        chosen = {json.dumps(ready.trained(worker, trial)[trial - 1]['argv']) for worker in range(WORKERS)}
        assert len(chosen) == 1
        assert ready.tpu('stop').count('ended with exit code 42') == WORKERS
        assert all(len(ready.trained(worker)) == trial for worker in range(WORKERS))


def test_a_command_that_gcloud_repeats_starts_one_run(ready: Pod) -> None:
    ready.set(state='READY', connection_breaks=True)
    for what in ('0', 'wait'):  # over before the second time, or alive then
        ready.training(what)
        assert ready.tpu('run').count('already started') == WORKERS
    for worker in range(WORKERS):
        assert len(ready.trained(worker, times=2)) == 2


def test_a_pid_that_another_process_has_by_now_is_no_run(ready: Pod) -> None:
    other_run = [sys.executable, '-c', 'import time; time.sleep(20)', '-m', 'contrastive_jax.main']
    with subprocess.Popen(other_run) as other:  # somebody else's training
        (ready.logs(0) / 'run-0.pid').write_text(f'{other.pid} 1 earlier\n')
        assert 'worker 0: no run is alive' in ready.tpu('stop')
        ready.tpu('run')
        assert other.poll() is None
        other.kill()


def test_before_setup_and_before_run(pod: Pod) -> None:
    for command in ('run', 'stop', 'logs'):
        assert 'no code on pod yet -> launch/tpu.sh setup' in pod.tpu(command, code=2)
    pod.tpu('setup')
    assert 'launch/tpu.sh run' in pod.tpu('logs', code=2)
