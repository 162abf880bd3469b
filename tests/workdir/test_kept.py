"""Checkpoints that are kept beside the newest, and those that commands find by their step."""

import json
import shutil
from pathlib import Path

import pytest

from contrastive_jax.errors import UserError
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.kept import FILE, Best, Kept, find_step, parse_step
from contrastive_jax.workdir.reading import read_part
from tests.workdir.test_checkpoint import Run, assert_restores, shapes

BY = {'metric': 'eval/knn_top1', 'mode': 'max'}


def on_disk(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / FOLDER).iterdir() if p.name.isdigit())


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    """Steps 1 to 7 were saved, multiples of 3 are kept, and 2 is the best; copied, never changed."""
    workdir = tmp_path_factory.mktemp('kept')
    run = Run(workdir, keep_every=3)
    for step in range(1, 8):
        run.save(step)
        if step == 2:
            run.checkpoints.kept.set_best(Best(**BY, step=2, value=0.5))
    run.checkpoints.close()
    return workdir


@pytest.fixture
def workdir(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / 'run'))


def test_multiples_and_the_best_stay_with_the_newest_two(workdir):
    assert on_disk(workdir) == [2, 3, 6, 7]
    assert json.loads((workdir / FILE).read_text()) == {'steps': [3, 6], 'best': {**BY, 'step': 2, 'value': 0.5}}


def test_a_better_one_takes_the_place_of_the_best(workdir):
    run = Run(workdir, keep_every=3)
    assert run.checkpoints.kept.best == Best(**BY, step=2, value=0.5)
    run.save(8)
    run.checkpoints.kept.set_best(Best(**BY, step=8, value=0.6))
    for step in (9, 10, 11):
        run.save(step)
    assert run.checkpoints.steps == [3, 6, 8, 9, 10, 11]
    run.checkpoints.close()
    assert on_disk(workdir) == [3, 6, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ('every', 'after'), [(0, [2, 3, 6, 10, 11]), (5, [2, 3, 6, 10, 11]), (7, [2, 3, 6, 7, 10, 11])]
)
def test_what_is_kept_stays_when_a_run_goes_on_with_another_multiple(every, after, workdir):
    """7 was the newest, and is a multiple that the new command keeps."""
    run = Run(workdir, keep_every=every)
    for step in (8, 9, 10, 11):
        run.save(step)
    run.checkpoints.close()
    assert on_disk(workdir) == after


def test_a_rollback_takes_kept_ones_back_and_keeps_them_again(workdir):
    run = Run(workdir, keep_every=3)
    run.checkpoints.roll_back(3, shapes())
    assert json.loads((workdir / FILE).read_text())['steps'] == [3]
    for step in (4, 5, 6, 7, 8):
        run.save(step)
    assert_restores(run, 8)
    run.checkpoints.close()
    assert on_disk(workdir) == [2, 3, 6, 7, 8]
    assert (workdir / FOLDER / '6.undone').is_dir()


def test_a_best_checkpoint_that_is_gone_is_forgotten(workdir):
    shutil.rmtree(workdir / FOLDER / '2')
    run = Run(workdir, keep_every=3)
    assert run.checkpoints.kept.best is None and run.checkpoints.kept.steps_among(range(9)) == [3, 6]


def test_without_kept_ones_there_is_no_file(tmp_path):
    Run(tmp_path).save(1)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"steps": 3}', '{"steps": [], "best": 3}',
                                     '{"steps": [], "best": {"step": 3}}'])  # fmt: skip
def test_a_file_of_another_form_is_one_line(content, workdir):
    (workdir / FILE).write_text(content)
    with pytest.raises(UserError, match=r'cannot be read .*restore it from a copy') as error:
        Kept(workdir, 2)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('mode', ['max', 'min'])
def test_which_values_are_better(mode):
    best = Best('eval/x', mode, 3, 0.5)
    assert [best.beaten_by(x) for x in (0.4, 0.5, 0.6, float('nan'))] == [mode == 'min', False, mode == 'max', False]


# ================================ steps that are asked for ================================


@pytest.mark.parametrize(
    ('given', 'found'), [(None, 7), (2, 2), (3, 3), (6, 6), (7, 7), ('best', 2)], ids=str
)  # fmt: skip
def test_a_part_of_any_checkpoint(given, found, made):
    assert read_part(made, {'params': shapes().params}, ('params',), given)[0] == found


@pytest.mark.parametrize('given', [0, 1, 4, 70])
def test_a_step_without_checkpoint_lists_those_that_have_one(given, made):
    with pytest.raises(UserError) as error:
        read_part(made, {'params': shapes().params}, ('params',), given)
    assert str(error.value) == f'there is no checkpoint of step {given} in {made} -> choose from 2 (best), 3, 6, 7'
    assert error.value.exit_code == 2 and error.value.field == 'step'


def test_there_is_no_best(tmp_path):
    with pytest.raises(UserError, match=r"no best checkpoint in .* -> choose from 4, 5; .*keep_best='eval/knn_top1'"):
        find_step(tmp_path, 'best', [5, 4])
    with pytest.raises(UserError, match='it has no checkpoint'):
        find_step(tmp_path, 4, [])


def test_a_damaged_one_is_no_reason_to_take_another(workdir):
    for file in (p for p in (workdir / FOLDER / '3' / 'default').rglob('*') if p.is_file() and p.parent.name == 'd'):
        file.write_bytes(b'')
    with pytest.raises(UserError, match=r'can be used \(step 3: ') as error:
        read_part(workdir, {'params': shapes().params}, ('params',), 3)
    assert error.value.exit_code == 5


def test_a_step_as_people_write_it():
    assert [parse_step(x) for x in (None, '', 'best', 12, '12')] == [None, None, 'best', 12, 12]
    for wrong in ('last', '-1', '1.5', '१', True):
        with pytest.raises(UserError, match="neither a number nor 'best'"):
            parse_step(wrong)
