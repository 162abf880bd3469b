"""A config is found by its path or its name, in a checkout and elsewhere."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict

from contrastive_jax import main
from contrastive_jax.config import command_line
from contrastive_jax.config.find import find_config, list_configs, variants_of
from contrastive_jax.errors import UserError

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / 'configs'


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes another folder than the repository the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ================================ what is found ================================


@pytest.mark.parametrize(
    ('name', 'file', 'variant'),
    [
        ('mocov2', 'mocov2.py', ''),
        ('mocov2:digits', 'mocov2.py', 'digits'),
        ('dino:base,patch8', 'dino.py', 'base,patch8'),
        ('eval/knn:digits', 'eval/knn.py', 'digits'),
        ('configs/mocov2.py:digits', 'mocov2.py', 'digits'),
        ('./configs/mocov2.py', 'mocov2.py', ''),
        ('configs/eval/linear.py:simclr', 'eval/linear.py', 'simclr'),
        ('mocov2.py:', 'mocov2.py', ''),
    ],
)
def test_a_recipe_is_found_from_anywhere(elsewhere: Path, name: str, file: str, variant: str) -> None:
    assert find_config(name) == (CONFIGS / file, variant)


def test_a_file_on_disk_comes_before_a_recipe(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = elsewhere / 'configs' / 'mocov2.py'
    mine.parent.mkdir()
    mine.touch()
    assert find_config('configs/mocov2.py:digits') == (Path('configs/mocov2.py'), 'digits')
    assert find_config(f'{mine}:a,b') == (mine, 'a,b')
    assert find_config('mocov2:digits') == (CONFIGS / 'mocov2.py', 'digits'), 'a name is not a path'
    monkeypatch.setenv('HOME', str(elsewhere))
    assert find_config('~/configs/mocov2.py') == (mine, '')


def test_a_config_of_ones_own_changes_a_recipe(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command reads a config that lies outside of the repository and imports a recipe."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    (elsewhere / 'mine.py').write_text(
        'from contrastive_jax.configs import mocov2\n'
        'def get_config(variant=""):\n'
        '    c = mocov2.get_config(variant)\n'
        '    c.method.temperature = 0.123\n'
        '    return c\n'
    )
    with flagsaver.flagsaver():
        args = ['main.py', '--config=mine.py:digits', '--workdir=x', '--config.batch_size=64']
        config, _ = command_line.parse(args, main._check, main._sections)
        assert main.FLAGS.workdir == 'x'
    assert (config.method.temperature, config.batch_size, config.data.source) == (0.123, 64, 'digits')


# ================================ what is not found ================================


@pytest.mark.parametrize(
    ('name', 'start', 'part'),
    [
        ('mocv2:digits', "there is no recipe 'mocv2'; did you mean mocov2", ', simsiam, swav, vicreg, eval/distill, '),
        ('knn', "there is no recipe 'knn'; did you mean eval/knn? -> choose from barlow_twins, byol, ", ''),
        ('eval/liner', "there is no recipe 'eval/liner'; did you mean eval/linear? ", ', or give the path of a file'),
        ('variants', "there is no recipe 'variants' -> choose from ", ''),
        ('', "there is no recipe '' -> choose from ", ''),
        ('/', "there is no recipe '/' -> choose from ", ''),
        ('configs', "there is no recipe 'configs' -> choose from ", ''),
        ('x' * 5000, "there is no recipe 'xxx", ' -> choose from barlow_twins, byol, '),
        ('configs/mocov4.py', 'config file configs/mocov4.py does not exist; did you mean mocov', ', mocov3_vit, '),
        ('../configs/mocov2.py', 'config file ../configs/mocov2.py does not exist; did you mean mocov2', ''),
        (
            '/no/such/folder/zzz.py',
            'config file /no/such/folder/zzz.py does not exist -> choose from barlow_twins, byol, ',
            '',
        ),
    ],
)
def test_what_does_not_exist_names_what_does(elsewhere: Path, name: str, start: str, part: str) -> None:
    with pytest.raises(UserError) as error:
        find_config(name)
    assert str(error.value).startswith(start) and part in str(error.value) and '\n' not in str(error.value)


def test_a_missing_file_names_the_configs_beside_it(elsewhere: Path) -> None:
    for name in ('mine.py', 'other.py', 'setup.py'):
        (elsewhere / name).write_text('' if name == 'setup.py' else 'def get_config():\n    ...\n')
    (elsewhere / 'gone.py').symlink_to(elsewhere / 'nowhere')
    with pytest.raises(
        UserError, match=r'^config file mne\.py does not exist; did you mean mine\.py\? -> choose from '
    ):
        find_config('mne.py')
    with pytest.raises(UserError, match=rf' -> choose from {elsewhere}/mine\.py, {elsewhere}/other\.py$'):
        find_config(f'{elsewhere}/zzzz.py:digits')


# ================================ what there is ================================


def test_every_recipe_is_listed() -> None:
    names = list_configs()
    there = {file.stem for file in CONFIGS.glob('[!_]*.py')} - {'variants'}
    evaluations = {f'eval/{file.stem}' for file in (CONFIGS / 'eval').glob('[!_]*.py')}
    assert set(names) == there | evaluations and len(names) == len(set(names))
    assert names == [*sorted(there), *sorted(evaluations)]


@pytest.mark.parametrize('name', list_configs())
def test_variants_are_those_that_the_recipe_takes(name: str) -> None:
    get_config = importlib.import_module(f'contrastive_jax.configs.{name.replace("/", ".")}').get_config
    assert isinstance(get_config(), ConfigDict)
    with pytest.raises(UserError) as error:
        get_config('?')
    assert str(error.value).split('choose from ')[1].split(', ') == variants_of(f'{name}:tiny')


def test_looking_up_imports_nothing_heavy() -> None:
    code = (
        'import sys; from contrastive_jax.config import find; find.find_config("mocov2:digits"); '
        'assert find.variants_of("eval/knn"); assert not {"jax", "flax", "numpy"} & set(sys.modules)'
    )
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)
