"""The rooms of the package: each imports only what lies below it, lazy imports included, and there are no circles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import contrastive_jax

PACKAGE = Path(contrastive_jax.__file__).parent
GROUND = ('errors', 'rules')
COMMANDS = (
    'main',
    'ablate',
    'compare',
    'features',
    'convert',
    'report',
    'reproduce',
    'doctor',
    'plan',
    'prepare',
    '__main__',
)
# From bottom to top. A room imports itself and what stands on lower lines.
LAYERS = (
    ('errors',),
    ('rules',),
    ('distributed',),
    ('optim',),
    ('losses', 'models', 'workdir'),
    ('augment', 'methods'),
    ('data',),
    ('evaluate',),
    ('config', 'plots'),
    ('training', 'pretrained'),
    ('protocols',),
    ('configs',),
    COMMANDS,
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package, 'contrastive_jax.losses.nce' -> its file."""
    files = {'.'.join(('contrastive_jax', *file.relative_to(PACKAGE).with_suffix('').parts)): file
             for file in PACKAGE.rglob('*.py')}  # fmt: skip
    return {name.removesuffix('.__init__'): file for name, file in files.items()}


MODULES = modules()


def imports(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports anywhere, but for those that only type checkers read."""
    tree = ast.parse(file.read_text(encoding='utf-8'))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING'
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}: relative imports hide what is imported'
            for name in node.names:
                inner = f'{node.module}.{name.name}'
                if (found := inner if inner in MODULES else node.module or '') in MODULES:
                    yield found
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)


EDGES = {name: set(imports(file)) - {name} for name, file in MODULES.items()}


def room(module: str) -> str:
    """'contrastive_jax.losses.nce' -> 'losses'; '' of the package itself."""
    return module.split('.')[1] if '.' in module else ''


def test_only_commands_and_ground_files_lie_at_the_top() -> None:
    files = {file.stem for file in PACKAGE.glob('*.py')} - {'__init__'}
    assert files <= {*GROUND, *COMMANDS}


def test_every_room_has_a_place() -> None:
    assert {room(name) for name in MODULES} - {''} == set(LEVEL) - ({'__main__'} - {room(x) for x in MODULES})


def test_nothing_imports_upward_or_sideways() -> None:
    wrong = [
        f'{name} imports {other}'
        for name, others in EDGES.items()
        for other in others
        if room(name) and room(other) not in (room(name), '') and LEVEL[room(other)] >= LEVEL[room(name)]
    ]
    assert wrong == []


def test_no_circles() -> None:
    """Files are taken away as soon as all that they import is gone; what is left are circles."""
    # A package's __init__ only gathers its files: they may be imported through it from elsewhere, not by each other.
    left = {name: set(others) for name, others in EDGES.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}, 'circles among these files'


@pytest.mark.parametrize(
    ('module', 'absent'),
    [
        ('contrastive_jax', ('jax', 'flax', 'tensorflow')),
        ('contrastive_jax.losses', ('flax', 'optax', 'ml_collections', 'tensorflow', 'orbax', 'PIL')),
        ('contrastive_jax.training.fit', ('tensorflow', 'torch', 'matplotlib.pyplot')),
    ],
)
def test_light_imports(module: str, absent: tuple[str, ...]) -> None:
    code = f'import sys, {module}; print([name for name in {absent!r} if name in sys.modules])'
    run = subprocess.run([sys.executable, '-c', code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout == '[]\n'
