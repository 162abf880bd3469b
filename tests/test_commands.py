"""`python -m contrastive_jax` and the console command: what there is, and that a command is its module."""

import importlib

import pytest

from contrastive_jax import __main__ as command
from contrastive_jax import __version__


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ['--help'], ['help']):
        assert command.main(argv) == 0
        out = capsys.readouterr().out
        assert all(f'  {name} ' in out for name in command.COMMANDS) and __version__ in out
    assert command.main(['--version']) == 0 and capsys.readouterr().out == f'{__version__}\n'


def test_configs(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(['configs']) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert {'digits', 'tiny', 'folder'} <= set(lines['mocov2']) and 'digits' in lines['eval/knn']


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(['trian']) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "contrastive_jax: error: unknown command 'trian'; did you mean 'train'? -> choose from train, "
    )
    assert err.count('\n') == 1


@pytest.mark.parametrize('name', [name for name, (module, _) in command.COMMANDS.items() if module])
def test_a_command_has_the_help_of_its_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, texts = importlib.import_module(command.COMMANDS[name][0]), []
    for main, argv in ((command.main, [name, '--help']), (module.main, ['--help'])):
        try:
            assert main(argv) == 0
        except SystemExit as end:
            assert end.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and '--' in texts[0]
