"""Finds a config by the path of its file or a recipe by its name, and lists the recipes and their variants.

Nothing here imports a recipe, which would import jax and flax with it.
"""

import ast
import importlib
import os
import re
from pathlib import Path

from contrastive_jax.errors import UserError
from contrastive_jax.rules import similar


def find_config(name: str) -> tuple[Path, str]:
    """Finds the file of a config.

    Args:
      name: the path of a file, 'my/config.py:variant', or the name of a recipe of this package, 'mocov2:digits' or
        'eval/knn:digits'. 'configs/mocov2.py:digits' is a path if that file exists and otherwise the name of a recipe,
        so that the commands for a checkout work without one.

    Returns:
      The file, and what follows the colon: variants separated by commas, '' if there are none.

    Raises:
      UserError: there is no such file and no such recipe.
    """
    path, _, variant = name.partition(':')
    file = Path(path).expanduser()
    if os.path.isfile(file):
        return file, variant
    recipe = Path(path).as_posix().removeprefix('configs/').removesuffix('.py')
    recipes = list_configs()
    if recipe in recipes:
        return _folder() / f'{recipe}.py', variant
    is_path = path.endswith('.py')
    choices = [str(other) for other in sorted(file.parent.glob('*.py')) if _is_config(other)] if is_path else []
    choices = choices or recipes
    names = [Path(choice).stem for choice in choices]
    near = [choices[names.index(stem)] for stem in similar(Path(path).stem, names, 3)]
    raise UserError(
        (f'config file {path} does not exist' if is_path else f'there is no recipe {path!r}')
        + (f'; did you mean {" or ".join(near)}?' if near else '')
        + f' -> choose from {", ".join(choices)}'
        + ('' if is_path else ', or give the path of a file')
    )


def list_configs() -> list[str]:
    """The names of all recipes of this package: first those for pre-training, then 'eval/...'."""
    folder = _folder()
    files = [*sorted(folder.glob('*.py')), *sorted(folder.glob('*/*.py'))]
    return [file.relative_to(folder).with_suffix('').as_posix() for file in files if _is_config(file)]


def variants_of(name: str) -> list[str]:
    """The names that may follow the colon of a recipe, in the order of its file.

    They are read from the source: the keys of the dict that the file gives to `apply_variants`.

    Args:
      name: as for `find_config`; what follows its colon is not used.

    Raises:
      UserError: there is no such file and no such recipe.
    """
    file, _ = find_config(name)
    calls = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func).split('.')[-1] == 'apply_variants']
    keys = [key for call in calls for table in call.args if isinstance(table, ast.Dict) for key in table.keys]
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def _folder() -> Path:
    """The folder of the recipes: configs/ of a checkout, or the package in a wheel."""
    # By name: this room lies below the recipes and imports none of them.
    return Path(importlib.import_module('contrastive_jax.configs').__path__[0])


def _is_config(file: Path) -> bool:
    """Whether a Python file defines `get_config`; the helpers of recipes, such as variants.py, do not."""
    try:
        text = file.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return False
    return re.search(r'^def get_config\(', text, re.MULTILINE) is not None
