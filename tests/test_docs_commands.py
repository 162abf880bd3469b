"""The command lines of the documentation: every one is read by the command's own parser, and the short ones are run."""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax import main as train
from contrastive_jax.__main__ import COMMANDS
from contrastive_jax.config import command_line
from contrastive_jax.config.fields import sections_of
from contrastive_jax.config.load import load
from contrastive_jax.config.overrides import PREFIXES, override
from contrastive_jax.data.open import open_source
from tests import train_steps, untrained_workdirs
from tests.pages import DOCS, OTHERS, ROOT, blocks, coded, prose, text

# Configs that together have every field.
ANY_OF_THESE = ('mocov2:tiny', 'eval/knn', 'eval/finetune', 'eval/distill')

OWN_RECIPE = 'docs/extending.md'  # the recipe is on the page; tests/test_extending.py has its commands

LAUNCHERS = ('launch/tpu.sh', 'launch/gpu.sh', 'launch/gke/jobset.sh', 'launch/gke/xpk.sh', 'sbatch', 'sky')
PROGRAMS = ('python', 'contrastive-jax', 'pip', 'ruff', 'mypy', 'export', 'ssh-add', 'docker', *LAUNCHERS)


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes back the flags that a command line sets, and what loading a config adds to the import path."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with flagsaver.flagsaver():
        yield


def commands(page: str) -> Iterator[list[str]]:
    """The commands in the shell code of a page, split into words."""
    for block in blocks(page, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            for command in re.split(r' && ', re.sub(r'(^|\s)#.*$', '', line)):
                words = shlex.split(command)
                while words and re.match(r'[A-Z]+=', words[0]):
                    words = words[1:]
                if words:
                    yield words


def inline_commands(page: str) -> Iterator[list[str]]:
    """The commands of this package in the text of a page; some name the command alone, without its arguments."""
    for code in coded(re.sub(r'\s*\n\s*', ' ', prose(page))):
        if code.startswith(('python -m ', 'contrastive-jax ')):
            yield shlex.split(code)


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments."""
    if words[0] == 'contrastive-jax' or words[:3] == ['python', '-m', 'contrastive_jax']:
        words = words[1 if words[0] == 'contrastive-jax' else 3 :]
        module = COMMANDS[words[0]][0] if words else ''
        return (module, words[1:]) if module else ('contrastive_jax.__main__', words)
    assert words[:2] == ['python', '-m'], words
    module = words[2]
    is_package = (ROOT / module.replace('.', '/')).is_dir()
    return (f'{module}.__main__' if is_package else module), words[3:]


def passed_on(words: list[str]) -> list[str]:
    """The arguments for the training in the command of a launcher."""
    if words[0] == 'sky':
        return shlex.split(words[-1].removeprefix('ARGUMENTS=$(launch/encoded.sh encode ').removesuffix(')'))
    before = 'launch/slurm.sbatch' if words[0] == 'sbatch' else '--'
    after = words[words.index(before) + 1 :] if before in words else []
    return after[: after.index('|')] if '|' in after else after


@functools.cache
def printed(module: str, *arguments: str) -> str:
    """What a command prints with arguments that make it print and end."""
    main, out = importlib.import_module(module).main, io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert main(list(arguments)) == 0
    return out.getvalue()


def options(module: str) -> set[str]:
    """The options of a command, from its help."""
    return set(re.findall(r'--\w+', printed(module, '--help')))


def sections(config: ConfigDict) -> Mapping[str, type]:
    return {} if 'protocol' in config else sections_of(config)


# ================================ parsed ================================


def parse(module: str, arguments: list[str]) -> None:
    """Reads whole arguments by the parser of the command: it knows them, and recipes, variants, fields and values."""
    if module == 'contrastive_jax.main':
        command_line.parse([module, *arguments], train._check, train._sections)
        return
    given, rest = importlib.import_module(module).options().parse_known_args(arguments)
    configs = getattr(given, 'config', None) or []
    assert not rest or hasattr(given, 'config'), rest
    for name in [configs] if isinstance(configs, str) else configs:
        assert not override(load(name), rest, sections), rest
    if module == 'contrastive_jax.reproduce.__main__' and given.name:
        experiments = re.findall(r'^\w+', printed(module, '--list'), re.MULTILINE)
        assert given.name in experiments or given.name == 'NAME_digits', given.name


def check_fields(overrides: list[str]) -> None:
    """Fails unless a config has these fields and they may have these values."""
    assert any(not override(load(name), overrides, sections) for name in ANY_OF_THESE), overrides


@pytest.mark.parametrize('page', [*DOCS, *OTHERS])
def test_commands_are_read_by_their_parsers(page: str) -> None:
    """Nothing is trained."""
    for words in commands(page):
        assert words[0] in PROGRAMS, words
        if words[0] in LAUNCHERS and (arguments := passed_on(words)):
            words = ['python', '-m', 'contrastive_jax.main', *arguments]
        if words[0] == 'pip':
            for extra in re.findall(r'\.\[(\w+)\]', ' '.join(words)):
                assert f"'{extra}': [" in text('setup.py'), words
        elif words[0] in ('python', 'contrastive-jax') and words[1:3] != ['-m', 'pytest'] and page != OWN_RECIPE:
            parse(*module_of(words))


@pytest.mark.parametrize('page', [*DOCS, *OTHERS])
def test_commands_in_the_text_exist(page: str) -> None:
    for words in inline_commands(page):
        module, arguments = module_of(words)
        assert importlib.util.find_spec(module), words
        if module == 'contrastive_jax.__main__' or arguments == ['--helpfull']:
            assert printed(module, *arguments)  # the overview, the recipes, the fields
        elif module == 'contrastive_jax.main' and any(word.startswith('--config=') for word in arguments):
            parse(module, arguments)
        elif module.startswith('contrastive_jax.'):
            assert {word.split('=')[0] for word in arguments if word.startswith('--')} <= options(module), words


@pytest.mark.parametrize('page', DOCS)
def test_options_in_the_text_exist(page: str) -> None:
    """`--OPTION=VALUE` in the text of a page is an option of at least one command."""
    known = {option for module, _ in COMMANDS.values() if module for option in options(module)}
    for code in coded(prose(page)):
        if code.startswith('--') and not code.startswith(PREFIXES):
            assert code.split('=')[0] in known, code


@pytest.mark.parametrize('page', DOCS)
def test_fields_in_the_text_exist(page: str) -> None:
    """`--config.FIELD=VALUE` in the text of a page, or the field alone."""
    for code in coded(prose(page)):
        if re.match(r'--config\.[a-z]', code) and '=' in code and not code.endswith('=...'):
            check_fields(shlex.split(code))
        elif re.match(r'(--)?config\.[a-z]', code) and code != 'config.json':
            field = code.split('config.')[1].removesuffix('=...')
            assert any(has_field(load(name), field) for name in ANY_OF_THESE), code


def has_field(config: ConfigDict, path: str) -> bool:
    """Whether a config has a field, by its path such as 'method.queue_size'."""
    for name in path.split('.'):
        if not isinstance(config, ConfigDict) or name not in config:
            return False
        config = config[name]
    return True


# ================================ run ================================


def test_short_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds, word for word, one after the other as a reader of README and docs/evaluation.md has them."""
    untrained_workdirs.save(train_steps.load('mocov2:tiny'), tmp_path / 'runs' / 'digits')
    (tmp_path / 'photos').mkdir()
    for i, image in enumerate(open_source('digits').array[:8]):
        Image.fromarray(image).save(tmp_path / 'photos' / f'{i}.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    short = ('contrastive_jax.features', 'contrastive_jax.convert')
    for page in ('README.md', 'docs/evaluation.md'):
        for words in commands(page):
            if words[0] == 'python' and words[2] in short:
                assert importlib.import_module(words[2]).main(words[3:]) == 0, words
                assert Path(words[-1]).is_file(), words
    with np.load('features.npz') as held:
        assert held['features'].shape[0] == len(open_source('digits', split='test'))

    # The table of near-duplicates, and the pipe that sorts it.
    (pipe,) = (code for code in coded(prose('docs/evaluation.md')) if code.startswith('sort '))
    (option,) = (code for code in coded(prose('docs/evaluation.md')) if code.startswith('--neighbours='))
    arguments = ['--workdir=runs/digits', '--source=folder', '--path=~/photos', option, 'photos.npz']
    assert importlib.import_module('contrastive_jax.features').main(arguments) == 0
    shown = subprocess.run(pipe, shell=True, capture_output=True, text=True, check=True).stdout.splitlines()
    cosines = [float(line.split(',')[2]) for line in shown if not line.startswith('file')]
    assert len(cosines) > 5 and cosines == sorted(cosines, reverse=True)
