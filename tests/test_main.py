"""The command as a user starts it, from a folder that is not the repository's. For its mistakes see test_cli.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / 'configs'


def start(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, with a home of its own."""
    home = {'HOME': str(folder / 'home'), 'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')}
    env = {name: value for name, value in os.environ.items() if name != 'TFDS_DATA_DIR'}
    command = [sys.executable, '-m', 'contrastive_jax.main', *args]
    return subprocess.run(
        command, cwd=folder, env={**env, **home, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, timeout=60
    )


def test_help(tmp_path: Path) -> None:
    done = start(tmp_path, '--help')
    assert done.returncode == 0 and done.stderr == ''
    assert done.stdout.startswith('Trains: python -m contrastive_jax.main --config=configs/')
    for part in ('--workdir', '--[no]verbose_errors', '--coordinator_address', '42 interrupted and saved'):
        assert part in done.stdout


def test_imagenet_on_a_machine_without_it(tmp_path: Path) -> None:
    """The config file is found, and its neighbours that it imports, from any folder."""
    began = time.monotonic()
    done = start(tmp_path, f'--config={CONFIGS}/mocov3_vit.py', '--workdir=runs/vit')
    assert time.monotonic() - began < 30
    assert done.returncode == 2 and done.stdout == ''
    line, hint = done.stderr.splitlines()
    assert line.startswith("contrastive_jax: error: TFDS data set 'imagenet2012' is not prepared: looked for ")
    assert f'{tmp_path}/home/tensorflow_datasets' in line and 'tfds build imagenet2012' in line
    assert hint.endswith(f'--config={CONFIGS}/mocov3_vit.py:digits')
    assert set(os.listdir(tmp_path)) <= {'home'}, 'no workdir, and nothing was compiled'


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
