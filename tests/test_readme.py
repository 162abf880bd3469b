"""The README is short, and its two commands are those of continuous integration; tests/test_docs.py checks the rest."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
COMMANDS = re.findall(r'^```bash\n(.*?)\n```', README, re.DOTALL | re.MULTILINE)


def test_it_is_short() -> None:
    assert len(README.split()) <= 1100


def test_the_two_commands_come_first() -> None:
    train = 'pip install -e . && python -m contrastive_jax.main --config=configs/mocov2.py:digits --workdir=runs/digits'
    test = "pip install -e '.[test]' && python -m pytest"
    assert COMMANDS[0] == train and COMMANDS[2] == test


def test_continuous_integration_runs_the_readme_s_commands() -> None:
    install, test = next(block for block in COMMANDS if 'pytest' in block).split(' && ')
    script = (ROOT / '.ci' / 'run').read_text(encoding='utf-8').replace('--quiet ', '')
    lines = [line.strip() for line in script.splitlines()]
    assert install in lines and test in lines
