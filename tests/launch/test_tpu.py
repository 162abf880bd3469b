"""launch/tpu.sh against a pod of four directories: what gcloud is asked for. No network, no real gcloud."""

import subprocess

import pytest

from tests.launch.fake_gcloud import REQUEST, TPU
from tests.launch.pod import WHERE, WORKERS, Pod, wait_for

COMMANDS = ('create', 'setup', 'run', 'up', 'watch', 'status', 'logs', 'stop', 'delete')
NEED_ALL_SETTINGS = ('create', 'up', 'watch')
DESCRIBE = ['describe', *WHERE, 'pod', f'--format={TPU}']
DESCRIBE_REQUEST = ['queued-resources', 'describe', *WHERE, 'pod', f'--format={REQUEST}']
LABEL = '--labels=contrastive_jax=launch'


# ============ create, delete ============


def test_create_asks_for_a_tpu_that_does_not_exist(pod: Pod) -> None:
    pod.set(state='')
    pod.tpu('create', '--spot')
    assert pod.calls() == [
        DESCRIBE,
        DESCRIBE_REQUEST,
        ['create', *WHERE, 'pod', '--accelerator-type=v6e-16', '--version=v2-alpha-tpuv6e', LABEL, '--spot'],
    ]


def test_settings_are_flags_or_environment_and_flags_win(pod: Pod) -> None:
    pod.set(state='')
    flags = ['--name', 'other', '--zone=eu', '--accelerator-type=v4-8', '--runtime-version', 'tpu-ubuntu2204-base']
    pod.tpu('--preemptible', 'create', *flags, PROJECT='')
    create = pod.calls()[-1]
    assert create == [
        'create', '--zone=eu', 'other', '--accelerator-type=v4-8', '--version=tpu-ubuntu2204-base', LABEL,
        '--preemptible',
    ]  # fmt: skip


def test_create_uses_one_that_is_ready(pod: Pod) -> None:
    assert 'using it' in pod.tpu('create')
    assert pod.calls() == [DESCRIBE]


def test_create_refuses_another_state_or_type(pod: Pod) -> None:
    pod.set(state='PREEMPTED')
    assert 'PREEMPTED' in pod.error('create')
    pod.set(state='READY', type='v4-8')
    assert 'v4-8' in pod.error('create')
    assert pod.calls() == [DESCRIBE, DESCRIBE]


def test_a_queued_resource_from_request_to_deletion(pod: Pod) -> None:
    pod.set(state='')
    pod.tpu('create', '--queued', '--spot')
    assert pod.calls()[-1] == [
        'queued-resources', 'create', *WHERE, 'pod', '--node-id=pod', '--accelerator-type=v6e-16',
        '--runtime-version=v2-alpha-tpuv6e', LABEL, '--spot',
    ]  # fmt: skip
    assert 'no TPU, queued resource WAITING_FOR_RESOURCES -> wait' in pod.tpu('status')
    assert 'READY, v6e-16, HEALTHY, queued resource ACTIVE' in pod.tpu('status')
    pod.calls()
    pod.tpu('delete', '--yes')
    assert pod.calls()[-1] == ['queued-resources', 'delete', *WHERE, 'pod', '--force', '--quiet']
    assert 'there is no TPU pod' in pod.error('delete', '--yes')


@pytest.mark.parametrize(
    'message, remedy',
    [
        ('{"code": 8, "message": "There is no more capacity in the zone \\"z\\""}', '-> create --queued'),
        ('{"code": 8, "message": "Quota limit \'TPUV6EPerProject\' has been exceeded. Limit: 0"}', '-> request it'),
        ('PERMISSION_DENIED: not you', '-> gcloud auth login'),
    ],
)
def test_failures_of_gcloud_are_shown_with_a_remedy(pod: Pod, message: str, remedy: str) -> None:
    pod.set(error=message)
    for command in ('create', 'run', 'status'):
        lines = pod.tpu(command, code=1).splitlines()
        assert message in lines[0] and remedy in lines[-1] and lines[-1].startswith('launch/tpu.sh: error: '), lines


@pytest.mark.parametrize(
    'state, remedy', [('PREEMPTED', '-> launch/tpu.sh delete, then create'), ('', '-> launch/tpu.sh create')]
)
def test_a_tpu_that_is_lost_or_absent_is_named_with_a_remedy(pod: Pod, state: str, remedy: str) -> None:
    pod.set(state=state)
    for command in ('setup', 'logs'):
        assert remedy in pod.tpu(command, code=1).splitlines()[-1]
    assert remedy in pod.tpu('status')


def test_delete_asks_first(pod: Pod) -> None:
    for answer in ('', 'n\n', '\n'):
        assert 'not deleted' in pod.tpu('delete', answer=answer, code=2)
    assert not any(call[0] == 'delete' for call in pod.calls())
    pod.tpu('delete', answer='y\n')
    assert pod.calls()[-1] == ['delete', *WHERE, 'pod', '--quiet']
    pod.set(state='READY')
    pod.tpu('delete', '--yes')
    assert pod.calls()[-1] == ['delete', *WHERE, 'pod', '--quiet']


def test_delete_takes_no_tpu_that_create_did_not_make(pod: Pod) -> None:
    for label in ('', 'another'):
        pod.set(state='READY', label=label)
        assert 'was not made by launch/tpu.sh' in pod.error('delete', '--yes')
    assert not any(call[0] == 'delete' for call in pod.calls())


def test_delete_names_a_run_that_is_alive(ready: Pod) -> None:
    ready.training('wait')
    ready.tpu('run')
    assert 'run is training' in ready.error('delete', '--yes')
    asked = ready.tpu('delete', answer='n\n', code=2)
    assert 'A run is training on it: worker 0: run ' in asked and 'not deleted' in asked
    assert not any(call[0] == 'delete' for call in ready.calls())


# ============ dry run, help, wrong usage ============


# What the printed commands ask for when they are pasted into a shell.
PASTED = {
    'create': [DESCRIBE, DESCRIBE_REQUEST, 'create'],
    'setup': ['scp', 'ssh'],
    'run': ['ssh', 'ssh'],
    'status': [DESCRIBE, DESCRIBE_REQUEST, 'ssh'],
    'logs': ['describe', 'scp'],
    'stop': ['ssh'],
    'delete': [DESCRIBE, DESCRIBE_REQUEST, 'delete'],
}


@pytest.mark.parametrize('command', PASTED)
def test_dry_run_prints_what_is_then_asked_and_executes_nothing(pod: Pod, command: str) -> None:
    words = ['logs', '--all'] if command == 'logs' else [command]
    words += ['--', "it's", 'a;b'] if command == 'run' else []
    before = sorted(pod.folder.rglob('*'))
    # No gcloud is needed for it: the PATH is that of a worker.
    printed = pod.tpu('--dry-run', *words, PATH=str(pod.folder / 'bin'), MY_TOKEN='hunter2')
    assert pod.tpu('--dry-run', *words, PATH=str(pod.folder / 'bin')) == printed
    assert sorted(pod.folder.rglob('*')) == before
    assert pod.calls() == [] and 'hunter2' not in printed
    # Pasted into a shell, they do it.
    if command in ('run', 'status', 'logs', 'stop'):
        pod.tpu('setup')
        pod.tpu('run')
        wait_for(lambda: all((pod.logs(n) / f'run-{n}.exit').exists() for n in range(WORKERS)))
        pod.calls()
    subprocess.run(['bash', '-c', printed], env=pod.environment, cwd=pod.here, capture_output=True)
    calls = pod.calls()
    assert len(calls) >= len(PASTED[command])
    for call, expected in zip(calls, PASTED[command], strict=False):
        assert expected in (call, call[0])
    if command == 'run':
        assert pod.trained(1, times=2)[1]['argv'] == [b"it's".hex(), b'a;b'.hex()]
    if command == 'setup':
        assert (pod.home(1) / 'contrastive_jax' / 'ready').exists()


def test_dry_run_of_up_and_watch(pod: Pod) -> None:
    parts = [pod.tpu('--dry-run', command) for command in ('create', 'setup')]
    up = pod.tpu('--dry-run', 'up', '--', 'x')
    assert up.startswith(''.join(parts)) and 'worker.sh run' in up
    watch = pod.tpu('--dry-run', 'watch', '--', 'x')
    assert watch.startswith(up) and 'tpu-vm delete' in watch
    assert pod.calls() == []


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
    assert ('--accelerator-type' in line) == ('--runtime-version' in line) == (command in NEED_ALL_SETTINGS)
    assert 'TPU_NAME' not in pod.error(command, ZONE='')
    assert pod.calls() == []


@pytest.mark.parametrize(
    'words, says',
    [
        ((), 'no command'),
        (('launch',), 'unknown command launch'),
        (('run', 'stop'), 'two commands'),
        (('run', '--config=c'), 'launch/tpu.sh run -- ARGUMENTS'),
        (('setup', '--', 'x'), 'are for run, up and watch'),
        (('create', '--queued', '--preemptible'), 'not preemptible'),
        (('run', '--interval=3'), '--interval is an option of up,watch'),
        (('watch', '--retries=many'), '--retries=many'),
        (('setup', '--spot'), '--spot is an option of create,up,watch'),
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
    assert 'https://cloud.google.com/sdk/docs/install' in pod.error('stop', PATH=str(pod.folder / 'bin'))
