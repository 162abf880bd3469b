"""The launchers other than tpu.sh, with a Python that notes its arguments: what arrives, and what is started again.

The real tools check their files where they are installed (shellcheck, hadolint, xpk, SkyPilot, the schemas of
Kubernetes and JobSet); elsewhere these tests skip. slurm_on_loopback.sh runs launch/slurm.sbatch under a real Slurm.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from contrastive_jax import errors
from tests.launch.pod import AWKWARD, HERE, LAUNCH, Pod, wait_for

# The table of contrastive_jax/errors.py: exit codes, and whether the same command is worth another start.
TABLE = {code: not answer.startswith('no') for code, (_, answer) in errors.EXIT_CODES.items()}
BUSY = errors.BusyError.exit_code  # on Kubernetes: a pod that was killed counts as using the workdir for a minute


class Machine:
    """A folder with programs: python is tests/launch/fake_python.py, others are given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / 'bin'
        self.bin.mkdir()
        python = shlex.quote(str(HERE / 'fake_python.py'))
        self.program('python', f'exec {shlex.quote(sys.executable)} -IS {python} "$@"')
        (self.bin / 'contrastive-jax-encoded').symlink_to(LAUNCH / 'encoded.sh')
        path = f'{self.bin}:{os.environ["PATH"]}'
        self.environment = os.environ | {'HOME': str(folder), 'FAKE_WORKER': '0', 'PATH': path}
        self.environment.pop('PYTHON', None)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f'#!/bin/bash\n{text}\n')
        (self.bin / name).chmod(0o755)

    def training(self, what: str) -> None:
        (self.folder / 'training').write_text(what)

    def trained(self) -> list[list[bytes]]:
        """The arguments of the runs."""
        return [[bytes.fromhex(word) for word in note['argv']] for note in Pod.notes(self.folder / 'training.jsonl')]

    def call(self, *words: str | bytes | Path, **environment: str) -> tuple[int, str]:
        """Runs a command here; its exit code and what it printed."""
        done = subprocess.run(
            [os.fsencode(word) for word in words], env=self.environment | environment, cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, encoding='utf-8',
        )  # fmt: skip
        return done.returncode, done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def raw(words: list[str | bytes]) -> list[bytes]:
    return [os.fsencode(word) for word in words]


def tool(name: str) -> Path:
    """A program of this Python's environment."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        pytest.skip(f'{name} is not installed')
    return program


def test_shellcheck_is_clean() -> None:
    scripts = [*sorted(LAUNCH.rglob('*.sh')), LAUNCH / 'slurm.sbatch', *sorted(HERE.glob('*.sh'))]
    done = subprocess.run([tool('shellcheck'), '-x', *scripts], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_table_is_read() -> None:
    assert TABLE[42] and TABLE[1] and TABLE[142] and not TABLE[0] and not any(TABLE[code] for code in range(2, 7))


@pytest.mark.parametrize('code', TABLE)
def test_restarts(machine: Machine, code: int) -> None:
    script = f'. {shlex.quote(str(LAUNCH / "restarts.sh"))}; worth_a_restart {code}'
    assert machine.call('bash', '-c', script)[0] == (0 if TABLE[code] else 1)


# ============ encoded.sh ============


def encoded(machine: Machine, words: list[str | bytes]) -> str:
    code, text = machine.call(LAUNCH / 'encoded.sh', 'encode', *words)
    assert code == 0 and re.fullmatch('[A-Za-z0-9+/=]*', text)
    return text


def test_encoded_arguments_arrive_byte_for_byte(machine: Machine) -> None:
    for words in (AWKWARD, []):
        assert machine.call('contrastive-jax-encoded', 'run', encoded(machine, words))[0] == 0
        assert machine.trained()[-1] == raw(words)
    assert 'no such command' in machine.call('contrastive-jax-encoded')[1]


# ============ gpu.sh ============


def test_gpu_passes_arguments_on_and_starts_again(machine: Machine) -> None:
    for codes, times, last in (('42 1 142 0', 4, 0), ('3', 1, 3), ('1 1 1 1', 3, 1)):
        machine.training(codes)
        (machine.folder / 'training.jsonl').unlink(missing_ok=True)
        code, printed = machine.call(LAUNCH / 'gpu.sh', '--pause=0', f'--retries={2 + (last == 0)}', '--', *AWKWARD)
        assert code == last, printed
        assert machine.trained() == [raw(AWKWARD)] * times


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_gpu_passes_a_signal_on_once_and_ends(machine: Machine, name: str) -> None:
    machine.training('wait')
    # A shell that starts the tests in the background ignores SIGINT for them, and bash cannot trap what was ignored.
    command = ['env', f'--default-signal={name}', LAUNCH / 'gpu.sh', '--', 'x']
    with subprocess.Popen(command, env=machine.environment, start_new_session=True) as process:
        wait_for((machine.folder / 'listening').exists)
        os.killpg(process.pid, getattr(signal, name))  # as a terminal does: to all processes of its group
        assert process.wait(timeout=20) == 42
    assert Pod.notes(machine.folder / 'signals.jsonl') == [{'signal': name}]
    assert len(machine.trained()) == 1


def test_gpu_usage(machine: Machine) -> None:
    assert machine.call(LAUNCH / 'gpu.sh', '--help')[0] == 0
    for words in ([], ['--config=c'], ['--retries=x', '--', 'y']):
        code, printed = machine.call(LAUNCH / 'gpu.sh', *words)
        assert code == 2 and printed.startswith('launch/gpu.sh: error: ') and ' -> ' in printed
    assert machine.trained() == []


# ============ Slurm ============


# Slurm 22.05 as the script sees it: srun runs two tasks, here one a little after the other, and ends with the largest
# exit code; scontrol notes what it is asked for, and a requeue ends the script.
SRUN = """
"$@" & sleep "$(cat "$HOME/later")"; [ ! -e "$HOME/second" ] || mv "$HOME/second" "$HOME/training"; "$@" &
wait %2; second=$?; wait %1; first=$?
exit $((first > second ? first : second))
"""
SCONTROL = """
echo "$@" >>"$HOME/scontrol"
case "$1 $3" in
  update*Comment=*) echo "${3#*=}" >"$HOME/comment" ;;
  requeue*) kill "$PPID" ;;
esac
"""


@pytest.fixture
def slurm(machine: Machine) -> Machine:
    machine.program('srun', SRUN)
    machine.program('squeue', 'case "$*" in *%T*) cat "$HOME/state" ;; *) cat "$HOME/comment" ;; esac')
    machine.program('scontrol', SCONTROL)
    machine.environment |= {'SLURM_JOB_ID': '7', 'SLURM_JOB_NODELIST': 'n[1-2]'}
    for file, text in (('state', 'RUNNING'), ('comment', '(null)'), ('later', '0')):
        (machine.folder / file).write_text(text)
    return machine


def sbatch(slurm: Machine, *words: str | bytes) -> tuple[int, list[str], str]:
    """The exit code, what scontrol was asked for, and the output of the job script."""
    (slurm.folder / 'scontrol').write_text('')
    code, printed = slurm.call('bash', LAUNCH / 'slurm.sbatch', *words)
    return code, (slurm.folder / 'scontrol').read_text().splitlines(), printed


@pytest.mark.parametrize('code', TABLE)
def test_slurm_requeues_what_is_worth_it(slurm: Machine, code: int) -> None:
    slurm.training(str(code))
    ended, asked, printed = sbatch(slurm, *AWKWARD)
    assert slurm.trained() == [raw(AWKWARD)] * 2
    if TABLE[code]:
        assert asked == ['update JobId=7 Comment=short runs: 1', 'requeue 7']
    else:
        assert (ended, asked) == (code, [])
    assert f'ended with exit code {code}' in printed


def test_slurm_ends_with_the_cause_and_after_several_short_runs(slurm: Machine) -> None:
    """A task with an error of its data, and another that has lost it."""
    (slurm.folder / 'later').write_text('0.3')
    (slurm.folder / 'second').write_text('142')
    slurm.training('3')
    assert sbatch(slurm)[:2] == (3, [])
    slurm.training('142')
    (slurm.folder / 'comment').write_text('short runs: 5')
    code, asked, printed = sbatch(slurm)
    assert (code, asked) == (142, []) and '6 runs in a row ended early ->' in printed


def test_slurm_leaves_a_cancelled_job_and_a_comment_of_the_user_alone(slurm: Machine) -> None:
    slurm.training('42')
    (slurm.folder / 'comment').write_text('mine')
    assert sbatch(slurm)[1] == ['requeue 7']
    (slurm.folder / 'state').write_text('CANCELLED')
    assert sbatch(slurm)[:2] == (42, [])


# ============ Kubernetes ============

JOBSET = (
    '--name=moco',
    '--image=eu.gcr.io/p/i:1',
    '--bucket=gs://b-1',
    '--accelerator=tpu-v6e-slice',
    '--topology=4x4',
)


def jobset(machine: Machine, *options: str) -> dict:
    code, text = machine.call(LAUNCH / 'gke' / 'jobset.sh', *JOBSET, *options, '--', *AWKWARD)
    assert code == 0, text
    return yaml.safe_load(text)


def test_jobset_runs_the_arguments_and_restarts_by_the_table(machine: Machine) -> None:
    made = jobset(machine)
    (slice_,) = made['spec']['replicatedJobs']
    job = slice_['template']['spec']
    (container,) = job['template']['spec']['containers']
    assert machine.call(*container['command'])[0] == 0
    assert machine.trained() == [raw(AWKWARD)]
    (rule,) = job['podFailurePolicy']['rules']
    assert rule['action'] == 'FailJob' and rule['onExitCodes']['containerName'] == container['name']
    never = rule['onExitCodes']['values']
    assert all((code in never) != again for code, again in (TABLE | {BUSY: True}).items() if code)
    assert made['spec']['failurePolicy']['rules'][0]['action'] == 'FailJobSet'
    assert job['parallelism'] == job['completions'] == 4 and job['backoffLimit'] == 0


@pytest.mark.parametrize('options', [(), ('--spot',)])
def test_jobset_is_legal(machine: Machine, options: tuple[str, ...]) -> None:
    validate = pytest.importorskip('kubernetes_validate')
    models = pytest.importorskip('kubeflow_trainer_api.models')
    made = jobset(machine, *options)
    template = made['spec']['replicatedJobs'][0]['template']
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'x'}} | template
    validate.validate(job, validate.latest_version(), strict=True)
    checked = models.JobsetV1alpha2JobSet.from_dict(made)
    for name in ('name', 'action', 'onJobFailureReasons'):
        assert name in checked.to_dict()['spec']['failurePolicy']['rules'][0]


@pytest.mark.parametrize(
    'options', [['--name=A_b'], ['--topology=3x3'], ['--bucket='], ['--image=a b'], ['--wrong'], ['--topology=$(id)']]
)
def test_jobset_refuses_what_kubernetes_would(machine: Machine, options: list[str]) -> None:
    code, printed = machine.call(LAUNCH / 'gke' / 'jobset.sh', *JOBSET, *options, '--', 'x')
    assert code == 2 and printed.startswith('launch/gke/jobset.sh: error: ') and printed.count('\n') == 1


XPK = ('--cluster=c', '--workload=moco', '--tpu-type=v6e-16', '--project=p', '--zone=us-east5-b', '--docker-image=i')


def test_xpk_gets_a_command_that_runs_the_arguments(machine: Machine) -> None:
    machine.program('xpk', 'printf "%s\\0" "$@" >"$HOME/xpk"')
    assert machine.call(LAUNCH / 'gke' / 'xpk.sh', *XPK, '--max-restarts=7', '--', *AWKWARD) == (0, '')
    words = (machine.folder / 'xpk').read_text().split('\0')[:-1]
    assert words[:2] == ['workload', 'create'] and words[2] == '--max-restarts=50' and words[-2] == '--max-restarts=7'
    assert machine.call('bash', '-c', words[-1].removeprefix('--command='))[0] == 0
    assert machine.trained() == [raw(AWKWARD)]
    assert machine.call(LAUNCH / 'gke' / 'xpk.sh', *XPK)[0] == 2
    assert machine.call(LAUNCH / 'gke' / 'xpk.sh', '--command=x', '--', 'y')[0] == 2


def test_xpk_itself_runs_it_and_passes_sigterm_on(machine: Machine) -> None:
    (machine.bin / 'xpk').symlink_to(tool('xpk'))
    options = (*XPK, '--dry-run', '--skip-validation', '--output-manifest-file=m.yaml')
    code, printed = machine.call(LAUNCH / 'gke' / 'xpk.sh', *options, '--', *AWKWARD)
    assert code == 0, printed
    made = yaml.safe_load((machine.folder / 'm.yaml').read_text())
    job = made['spec']['replicatedJobs'][0]['template']['spec']
    again = job['podFailurePolicy']['rules'][0]['onExitCodes']['values']
    assert made['spec']['failurePolicy']['maxRestarts'] == 50
    assert all((code in again) == worth for code, worth in (TABLE | {BUSY: True}).items())
    machine.training('wait')
    (container,) = job['template']['spec']['containers']
    with subprocess.Popen(container['command'], env=machine.environment, stdout=subprocess.DEVNULL) as process:
        wait_for((machine.folder / 'listening').exists)
        process.terminate()
        assert process.wait(timeout=30) == 42
    assert machine.trained() == [raw(AWKWARD)]


# ============ SkyPilot ============


def test_skypilot_runs_the_arguments(machine: Machine) -> None:
    task = yaml.safe_load((LAUNCH / 'skypilot.yaml').read_text())
    assert all(TABLE[code] for code in task['resources']['job_recovery']['recover_on_exit_codes'])
    (machine.folder / 'contrastive_jax_venv' / 'bin').mkdir(parents=True)
    (machine.folder / 'contrastive_jax_venv' / 'bin' / 'python').symlink_to(machine.bin / 'python')
    (machine.folder / 'launch').symlink_to(LAUNCH)
    for nodes, more in (
        ('1', []),
        ('2', [b'--coordinator_address=10.0.0.1:8476', b'--num_processes=2', b'--process_id=1']),
    ):
        environment = {
            'SKYPILOT_NUM_NODES': nodes,
            'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2',
            'SKYPILOT_NODE_RANK': '1',
        }
        code, printed = machine.call('bash', '-c', task['run'], ARGUMENTS=encoded(machine, AWKWARD), **environment)
        assert code == 0, printed
        assert machine.trained()[-1] == more + raw(AWKWARD)


def test_skypilot_reads_its_file() -> None:
    sky = pytest.importorskip('sky')
    task = sky.Task.from_yaml_config(
        yaml.safe_load((LAUNCH / 'skypilot.yaml').read_text()) | {'workdir': None},
        env_overrides=[('BUCKET', 'gs://b'), ('ARGUMENTS', 'QQ==')],
    )
    (resources,) = task.resources
    assert resources.job_recovery['recover_on_exit_codes'] == [42]


# ============ Dockerfile ============


def test_hadolint_is_clean() -> None:
    done = subprocess.run([tool('hadolint'), LAUNCH / 'Dockerfile'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_dockerfile_copies_what_the_context_has() -> None:
    ignored = (LAUNCH / 'Dockerfile.dockerignore').read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith('!')}
    assert all((LAUNCH.parent / name).exists() for name in kept)
    copied = re.findall(r'^COPY (?!--from|\. )(\S+)', (LAUNCH / 'Dockerfile').read_text(), re.MULTILINE)
    assert copied and set(copied) <= kept
    setup = (LAUNCH.parent / 'setup.py').read_text()
    assert json.dumps(sorted(re.findall(r"^ {8}'(gpu|tpu)':", setup, re.MULTILINE))) == '["gpu", "tpu"]'
