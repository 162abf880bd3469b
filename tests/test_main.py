"""The command as a user starts it, outside of the repository. tests/config/ has mistakes in its arguments."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[1] / 'configs'


def start(folder: Path, *args: str, platforms: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, with a home of its own; on the CPU unless the environment names the platforms."""
    home = {'HOME': str(folder / 'home'), 'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')}
    env = {name: value for name, value in os.environ.items() if name != 'TFDS_DATA_DIR'}
    cpu = {'JAX_PLATFORMS': 'cpu'} if platforms else {}
    command = [sys.executable, '-m', 'contrastive_jax.main', *args]
    return subprocess.run(command, cwd=folder, env={**env, **home, **cpu}, capture_output=True, text=True, timeout=60)


def test_help(tmp_path: Path) -> None:
    done = start(tmp_path, '--help')
    assert done.returncode == 0 and done.stderr == ''
    assert done.stdout.startswith('Trains: python -m contrastive_jax.main --config=configs/')
    for part in ('--workdir', '--verbose_errors', '--coordinator_address', '42 interrupted and saved'):
        assert part in done.stdout


def test_imagenet_on_a_machine_without_it(tmp_path: Path) -> None:
    """The config file is found, and its neighbours that it imports, from any folder."""
    began = time.monotonic()
    done = start(tmp_path, f'--config={CONFIGS}/mocov3_vit.py', '--workdir=runs/vit')
    assert time.monotonic() - began < 30
    assert done.returncode == 2 and done.stdout == 'reading the data (imagenet2012) ...\n'
    line, hint = done.stderr.splitlines()
    assert line.startswith("contrastive_jax: error: TFDS data set 'imagenet2012' is not prepared: looked for ")
    assert f'{tmp_path}/home/tensorflow_datasets' in line and 'tfds build imagenet2012' in line
    assert hint.endswith(f'--config={CONFIGS}/mocov3_vit.py:digits')
    assert set(os.listdir(tmp_path)) <= {'home'}, 'no workdir, and nothing was compiled'


def test_a_machine_without_the_devices_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (('JAX_PLATFORMS', 'cuda'), ('XLA_FLAGS', '--xla_force_host_platform_device_count=0')):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            done = start(
                tmp_path, f'--config={CONFIGS}/mocov2.py:tiny', '--workdir=runs/one', platforms=name == 'XLA_FLAGS'
            )
        assert done.returncode == 2 and done.stdout == ''
        line = done.stderr.splitlines()[-1]  # jax may log lines of its own
        assert line.startswith('contrastive_jax: error: jax finds no device with ') and f'{name}={value}' in line
        assert ' -> change or unset ' in line and 'Traceback' not in done.stderr
        assert not (tmp_path / 'runs').exists()


def test_mistakes_of_all_kinds(tmp_path: Path) -> None:
    done = start(
        tmp_path, f'--config={CONFIGS}/dictionary.py:moco,tiny', 'lr=3', '--config.batch_size=x', '--config.seed=-1'
    )
    assert done.returncode == 2 and done.stdout == ''
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and all(line.startswith('contrastive_jax: error: ') for line in lines)
    for part in ('--config.batch_size=x', "'lr=3'", 'no --workdir', 'seed -1'):
        assert part in done.stderr
    assert set(os.listdir(tmp_path)) <= {'home'}, 'no workdir, and nothing was compiled'
