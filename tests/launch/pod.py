"""A pod of directories to launch on: fake gcloud, fake python, and a checkout with a copy of launch/."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
LAUNCH = HERE.parents[1] / 'launch'
WORKERS = 2  # one whose login shell is bash, one with sh
# What a worker may use besides the fake python3 and curl; nothing else is on its PATH.
WORKER_TOOLS = 'bash sh base64 comm cp date flock grep gzip mkdir mv nohup rm setsid sleep sort tail tar tr xargs'
TOOLS = f'{WORKER_TOOLS} dirname mktemp sed'  # and those of tpu.sh itself
SETTINGS = {
    'TPU_NAME': 'pod',
    'ZONE': 'us-east5-b',
    'PROJECT': 'my-project',
    'ACCELERATOR_TYPE': 'v6e-16',
    'RUNTIME_VERSION': 'v2-alpha-tpuv6e',
}
WHERE = ('--zone=us-east5-b', '--project=my-project')
# Arguments that some shell or file format on the way could change.
AWKWARD: list[str | bytes] = [
    '--config=configs/moco.py:tiny', '', ' ', 'two words', "it's", '"double"', '\'"\'', '$HOME `id` $(id) ${x:-y}',
    'a;b|c&d>e<f', '*', '?[a-z]*', 'line\nbreak\n', '\n', 'tab\t', 'naïve Ünïcödé 画像 🧪', '--', '-x', '--dry-run',
    '--help', '\\', 'back\\slash\\n', '!history', '~', '#hash', '{a,b}', '%s %d', '=x', ' trailing ', b'\xff\xfe raw',
    'x' * 40_000, '',
]  # fmt: skip


class Pod:
    """The fake pod, and a checkout with a copy of launch/ to call tpu.sh from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree, self.here = folder, folder / 'tree with spaces', folder / 'here'
        for made in (self.tree, self.here, folder / 'bin', folder / 'fake', *(self.home(n) for n in range(WORKERS))):
            made.mkdir()
        for tool in TOOLS.split():
            (folder / 'bin' / tool).symlink_to(str(shutil.which(tool)))
        python = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS'
        self.script('bin/python3', f'{python} {shlex.quote(str(HERE / "fake_python.py"))} "$@"\n')
        self.script('bin/curl', '#!/bin/sh\nprintf %s "$FAKE_WORKER"\n')
        self.script('fake/gcloud', f'{python} {shlex.quote(str(HERE / "fake_gcloud.py"))} "$@"\n')
        shutil.copytree(LAUNCH, self.tree / 'launch')
        self.set(state='READY')
        # GIT_*: these tests may run inside a git hook, which points git at the repository it belongs to.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith('GIT_') and k not in SETTINGS}
        self.environment |= SETTINGS | {'FAKE_POD': str(folder), 'HOME': str(self.here)}
        self.environment['GIT_CONFIG_GLOBAL'] = os.devnull
        self.environment['PATH'] = f'{folder / "fake"}:{self.environment["PATH"]}'
        self.git('init', '-q')

    def script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def set(self, **pod: object) -> None:
        """A pod that launch/tpu.sh has made, as fake_gcloud.py finds it, but for `pod`."""
        made = {'workers': WORKERS, 'state': '', 'type': 'v6e-16', 'label': 'launch', 'request': '', 'error': ''}
        (self.folder / 'pod.json').write_text(json.dumps(made | pod))

    def get(self) -> dict:
        return json.loads((self.folder / 'pod.json').read_text())

    def git(self, *words: str) -> None:
        subprocess.run(['git', '-C', str(self.tree), *words], env=self.environment, check=True)

    def home(self, worker: int) -> Path:
        return self.folder / f'worker-{worker}'

    def logs(self, worker: int) -> Path:
        return self.home(worker) / 'contrastive_jax' / 'logs'

    def tpu(self, *words: str | bytes, code: int = 0, answer: str = '', **environment: str) -> str:
        """Calls tpu.sh and returns what it printed on both streams; `environment` '' takes a variable away."""
        done = subprocess.run(
            [os.fsencode(word) for word in (str(self.tree / 'launch' / 'tpu.sh'), *words)],
            env={k: v for k, v in (self.environment | environment).items() if v},
            cwd=self.here, input=answer, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, encoding='utf-8',
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def error(self, *words: str, **environment: str) -> str:
        """The one line of an error that is the user's to mend."""
        lines = self.tpu(*words, code=2, answer='', **environment).splitlines()
        assert len(lines) == 1 and lines[0].startswith('launch/tpu.sh: error: '), lines
        assert ' -> ' in lines[0]
        return lines[0]

    def calls(self) -> list[list[str]]:
        """The calls of gcloud since the last time, without their first words `gcloud compute tpus` and `tpu-vm`."""
        file = self.folder / 'calls.jsonl'
        calls = self.notes(file)
        file.unlink(missing_ok=True)
        assert all(call[:3] == ['gcloud', 'compute', 'tpus'] for call in calls)
        return [call[4:] if call[3] == 'tpu-vm' else call[3:] for call in calls]

    @staticmethod
    def notes(file: Path) -> list:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def trained(self, worker: int, times: int = 1) -> list[dict]:
        """What the runs of a worker have noted, once there are that many."""
        file = self.home(worker) / 'training.jsonl'
        wait_for(lambda: len(self.notes(file)) >= times)
        return self.notes(file)

    def training(self, what: str) -> None:
        for worker in range(WORKERS):
            (self.home(worker) / 'training').write_text(what)

    def pid(self, worker: int) -> int:
        return int((self.logs(worker) / f'run-{worker}.pid').read_text().split()[0])

    def kill(self) -> None:
        for worker in range(WORKERS):
            if (self.logs(worker) / f'run-{worker}.pid').exists() and is_training(self.pid(worker)):
                os.kill(self.pid(worker), signal.SIGKILL)


def is_training(pid: int) -> bool:
    try:
        return b'contrastive_jax.main' in Path(f'/proc/{pid}/cmdline').read_bytes()
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
