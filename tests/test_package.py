"""What a wheel and an sdist hold, and that a wheel finds its recipes without a checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import contrastive_jax

ROOT = Path(__file__).parents[1]
FILES = ('CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'MANIFEST.in', 'README.md', 'pyproject.toml')
FOLDERS = ('benchmarks', 'configs', 'contrastive_jax', 'launch', 'tests')
BUILD = 'import sys; from setuptools import build_meta; build_meta.build_{0}(sys.argv[1])'


def build(tree: Path, kind: str, folder: Path) -> Path:
    """Builds a 'wheel' or an 'sdist' of a source tree; returns the file."""
    folder.mkdir()
    command = [sys.executable, '-c', BUILD.format(kind), str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist and the wheel of a copy of this checkout, and the wheel of the unpacked sdist."""
    pytest.importorskip('setuptools', minversion='77')  # as pyproject.toml asks for
    folder = tmp_path_factory.mktemp('package')
    tree = folder / 'tree'
    tree.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns('__pycache__', 'golden'))
    for name in (*FILES, 'setup.py'):
        shutil.copy(ROOT / name, tree)
    sdist = build(tree, 'sdist', folder / 'sdist')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / 'unpacked', filter='data')
    (unpacked,) = (folder / 'unpacked').iterdir()
    return {
        'sdist': sdist,
        'wheel': build(tree, 'wheel', folder / 'wheel'),
        'wheel of the sdist': build(unpacked, 'wheel', folder / 'again'),
    }


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources() -> dict[str, bytes]:
    """What a wheel must hold: the package, with the recipes in place of what leads to them in a checkout."""
    found = {file.relative_to(ROOT): file for file in (ROOT / 'contrastive_jax').rglob('*') if file.is_file()}
    found = {str(name): file for name, file in found.items() if '__pycache__' not in name.parts}
    configs = list((ROOT / 'configs').rglob('*.py'))
    found |= {f'contrastive_jax/{file.relative_to(ROOT)}': file for file in configs}
    return {name: file.read_bytes() for name, file in found.items()}


@pytest.mark.parametrize('name', ['wheel', 'wheel of the sdist'])
def test_a_wheel_holds_the_package_with_its_recipes(built: dict[str, Path], name: str) -> None:
    held = contents(built[name])
    metadata = {file: held.pop(file) for file in list(held) if '.dist-info/' in file}
    assert held == sources()
    info = f'contrastive_jax-{contrastive_jax.__version__}.dist-info'
    assert f'\nVersion: {contrastive_jax.__version__}\n' in metadata[f'{info}/METADATA'].decode()
    assert b'contrastive-jax = contrastive_jax.__main__:main' in metadata[f'{info}/entry_points.txt']
    assert f'{info}/licenses/LICENSE' in metadata


def test_an_sdist_holds_no_more_than_it_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built['sdist']) as archive:
        names = [Path(*Path(member.name).parts[1:]) for member in archive.getmembers() if member.isfile()]
    assert {str(name) for name in names if len(name.parts) == 1} == {*FILES, 'setup.py', 'setup.cfg', 'PKG-INFO'}
    folders = {name.parts[0] for name in names if len(name.parts) > 1}
    assert folders == {'configs', 'contrastive_jax', 'contrastive_jax.egg-info'}


def test_an_installed_wheel_needs_no_checkout(built: dict[str, Path], tmp_path: Path) -> None:
    """In an empty folder: recipes are found by path and by name, and a config of one's own can import them."""
    site, empty = tmp_path / 'site', tmp_path / 'empty'
    with zipfile.ZipFile(built['wheel']) as archive:
        archive.extractall(site)
    empty.mkdir()
    (empty / 'mine.py').write_text('from contrastive_jax.configs import mocov2\nc = mocov2.get_config("digits")\n')
    code = (
        'import mine; from contrastive_jax.config.find import find_config, list_configs; '
        'print(mine.mocov2.__file__, mine.c.data.source, len(list_configs()), '
        '*find_config("configs/mocov2.py:tiny"), *find_config("eval/knn:digits"), sep="\\n")'
    )
    environment = {**os.environ, 'PYTHONPATH': str(site)}
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=empty, env=environment, check=True, capture_output=True, text=True
    )
    recipes = site / 'contrastive_jax' / 'configs'
    number = sum('def get_config(' in file.read_text(encoding='utf-8') for file in (ROOT / 'configs').rglob('*.py'))
    found = [recipes / 'mocov2.py', 'digits', number, recipes / 'mocov2.py', 'tiny', recipes / 'eval/knn.py', 'digits']
    assert run.stdout.splitlines() == [str(x) for x in found]


def test_versions_agree() -> None:
    """Of the package, the citation and the changelog's newest release."""
    citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    version, date = re.findall(r'^## \[(\d.*)\] - (.*)$', changelog, re.MULTILINE)[0]
    assert f'\nversion: {version}\ndate-released: {date}\n' in citation and version == contrastive_jax.__version__
