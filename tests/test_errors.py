"""Errors that the user can correct: their attributes, and how a command prints them."""

import errno
import os
import pickle
import subprocess
import sys

import pytest

from contrastive_jax.errors import DataError, Interrupted, Problem, UserError, exit_code_of


def test_a_message_alone() -> None:
    error = UserError('a is wrong -> use b')
    assert str(error) == 'a is wrong -> use b'
    assert (error.field, error.remedy, error.value) == ('', '', None)
    assert error.problems == ('a is wrong -> use b',)


def test_field_and_remedy() -> None:
    error = DataError(
        'batch_size 30 is not divisible by 8 devices', field='batch_size', remedy='use 24 or 32', value=32
    )
    assert str(error) == 'batch_size 30 is not divisible by 8 devices -> use 24 or 32'
    assert (error.field, error.remedy, error.value) == ('batch_size', 'use 24 or 32', 32)
    again = pickle.loads(pickle.dumps(error))  # as worker processes send it
    assert (type(again), str(again), again.field, again.value) == (DataError, str(error), 'batch_size', 32)


def test_several_problems() -> None:
    error = UserError.of([Problem('a', field='x', remedy='b'), 'c'])
    assert str(error) == 'a -> b\nc' and error.field == 'x'
    assert [problem.field for problem in error.problems] == ['x', '']


def fail(error: Exception) -> None:
    raise error


def test_exit_codes_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: None) == 0 and exit_code_of(lambda: 7) == 7
    assert exit_code_of(lambda: fail(DataError('one\ntwo'))) == 3
    printed = capsys.readouterr()
    assert printed.err == 'contrastive_jax: error: one\ncontrastive_jax: error: two\n' and printed.out == ''
    assert exit_code_of(lambda: fail(Interrupted('saved'))) == 42
    assert capsys.readouterr().out == 'contrastive_jax: saved\n'
    for verbose in (True, lambda: True):
        with pytest.raises(UserError, match='one'):
            exit_code_of(lambda: fail(UserError('one')), verbose)
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), '/private/run')
    assert exit_code_of(lambda: fail(denied)) == 2
    line = "cannot access '/private/run': Permission denied -> give a path that this user may read and write"
    assert capsys.readouterr().err == f'contrastive_jax: error: {line}\n'
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        exit_code_of(lambda: fail(ZeroDivisionError()))


def test_output_of_any_text_into_any_stream() -> None:
    """Names of files that are not UTF-8, and a reader that ends early as in `... | head`: no traceback."""
    code = 'import sys; from contrastive_jax.errors import exit_code_of; sys.exit(exit_code_of(lambda: {}))'
    name = code.format("print('caf\\udce9 \u2713')")
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run([sys.executable, '-c', name], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'caf\\udce9 \\u2713\n', '')
    for lines in (1, 100_000):
        child = subprocess.Popen(
            [sys.executable, '-c', code.format(f'print("line\\n" * {lines})')],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        child.stdout.close()
        assert (child.stderr.read(), child.wait()) == ('', 141)
        child.stderr.close()


@pytest.mark.parametrize('command', [['configs'], ['--help'], ['nope']])
def test_every_output_may_lose_its_reader(command: list[str]) -> None:
    """The overview and the message of an error, too, as in `... 2>&1 | head`."""
    read, write = os.pipe()
    os.close(read)
    code = 'import sys; from contrastive_jax.__main__ import main; sys.exit(main())'
    done = subprocess.run([sys.executable, '-c', code, *command], stdout=write, stderr=write, check=False)
    os.close(write)
    assert done.returncode == 141
