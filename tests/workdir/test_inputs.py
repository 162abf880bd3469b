"""A workdir belongs to its inputs: other content is refused under whatever name, the same content is fine anywhere."""

import json
from pathlib import Path

import pytest

from contrastive_jax.errors import UserError
from contrastive_jax.workdir.inputs import FILE, check_inputs

DIGITS = {'training images': ('abc', '1,437 of digits')}


def test_the_same_inputs_and_others(tmp_path: Path) -> None:
    check_inputs(tmp_path, DIGITS)
    assert json.loads((tmp_path / FILE).read_text()) == {'training images': ['abc', '1,437 of digits']}
    check_inputs(tmp_path, DIGITS)
    check_inputs(tmp_path, {'training images': ('abc', '1,437 of moved')})  # moved elsewhere
    with pytest.raises(UserError) as error:
        check_inputs(tmp_path, {'training images': ('abd', '1,437 of digits')})
    assert str(error.value) == (
        f'workdir {tmp_path} was begun with other inputs (training images: 1,437 of digits -> 1,437 of digits, '
        'with other content) -> choose another workdir, or give the same inputs'
    )
    with pytest.raises(UserError, match=r'training images: 1,437 of digits -> 9 of x\)'):
        check_inputs(tmp_path, {'training images': ('xyz', '9 of x')})
    assert json.loads((tmp_path / FILE).read_text()) == {'training images': ['abc', '1,437 of digits']}


def test_a_fingerprint_of_an_older_version_is_not_compared(tmp_path: Path) -> None:
    check_inputs(tmp_path, DIGITS)
    check_inputs(tmp_path, {'training images': ('longer', '1,437 of digits')})
    with pytest.raises(UserError, match='with other content'):  # from then on it is
        check_inputs(tmp_path, {'training images': ('othera', '1,437 of digits')})


def test_an_input_that_is_new_is_noted_and_another_process_writes_nothing(tmp_path: Path) -> None:
    check_inputs(tmp_path, DIGITS, write=False)
    assert not (tmp_path / FILE).exists()
    check_inputs(tmp_path, DIGITS)
    check_inputs(tmp_path, {**DIGITS, 'encoder': ('e', 'runs/x at step 3')})
    assert list(json.loads((tmp_path / FILE).read_text())) == ['training images', 'encoder']


@pytest.mark.parametrize('content', ['', '[]', '{"a": 1}', '{"a": []}'])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r'cannot be read .* -> restore it from a copy, or delete it'):
        check_inputs(tmp_path, DIGITS)
