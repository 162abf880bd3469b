"""A config file of one's own: what it may import, and mistakes in it."""

import sys
from pathlib import Path

import pytest

from contrastive_jax.config.load import load
from contrastive_jax.errors import UserError

BASE = """from contrastive_jax.config.base import base_config
def config():
    c = base_config('moco')
    c.batch_size = 8
    return c
"""


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.delitem(sys.modules, 'json5_base', raising=False)


def test_neighbors_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'own_configs_1'
    folder.mkdir()
    (folder / 'own_base_1.py').write_text(BASE)
    (folder / 'bare.py').write_text('from own_base_1 import config\ndef get_config():\n    return config()\n')
    (folder / 'dotted.py').write_text('from own_configs_1 import own_base_1\nget_config = own_base_1.config\n')
    monkeypatch.chdir(tmp_path.parent)
    for name in ('bare', 'dotted'):
        config = load(str(folder / f'{name}.py'))
        assert config.batch_size == 8 and config.is_locked
    monkeypatch.chdir(folder)
    assert load('bare.py').batch_size == 8


def test_a_neighbor_takes_no_module_s_place(tmp_path: Path) -> None:
    """Such as a config that is called like a library which is not imported yet."""
    (tmp_path / 'colorsys.py').write_text('raise RuntimeError("this is not the module that was meant")\n')
    (tmp_path / 'mine.py').write_text('import colorsys\n' + BASE + 'get_config = config\n')
    sys.modules.pop('colorsys', None)
    assert load(str(tmp_path / 'mine.py')).batch_size == 8


def test_dataclasses_and_variants(tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(
        BASE + 'import dataclasses\n@dataclasses.dataclass\nclass Size:\n    n: "int" = 3\n'
        'def get_config(variant="none"):\n    c = config()\n    c.data.name = f"{variant}{Size().n}"\n    return c\n'
    )
    assert load(str(file)).data.name == 'none3'
    assert load(f'{file}:big').data.name == 'big3'
    assert load(f'{file}:').data.name == '3'


def test_a_variant_that_nobody_takes(tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(BASE + 'get_config = config\n')
    with pytest.raises(UserError) as error:
        load(f'{file}:big')
    assert str(error.value) == f'config {file}:big: get_config takes no variant -> give {file}'


def test_the_line_in_a_neighbor(tmp_path: Path) -> None:
    (tmp_path / 'own_base_2.py').write_text('\n\nx = {}["nope"]\n')
    (tmp_path / 'mine.py').write_text('import own_base_2\n')
    with pytest.raises(UserError) as error:
        load(str(tmp_path / 'mine.py'))
    assert str(error.value) == f'config {tmp_path}/mine.py fails at {tmp_path}/own_base_2.py:3: KeyError: nope'


@pytest.mark.parametrize(
    ('code', 'what'),
    [
        ('x = (\n', ":1: '(' was never closed"),
        ('x = 1\0\n', 'source code string cannot contain null bytes'),
        ('\nimport not_there_1\n', ":2: No module named 'not_there_1'"),
        ('import sys\nsys.exit(3)\n', ':2: SystemExit: 3'),
        ('def get_config():\n    raise ValueError("a\\nb")\n', ':2: a b'),
        ('def get_config():\n    assert False\n', ':2: AssertionError'),
        (BASE + 'def get_config():\n    config().nope.x = 3\n', ':7: AttributeError: nope'),
        (BASE + 'def get_config():\n    config().lock().nope = 3\n', ':7: Key "nope" does not exist'),
    ],
)
def test_the_line_of_every_error(code: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(code)
    with pytest.raises(UserError) as error:
        load(str(file))
    message = str(error.value)
    assert message.startswith(f'config {file} fails at {file}') and what in message
    assert '\n' not in message and 'importlib' not in message and len(message) < 500
