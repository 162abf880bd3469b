"""What a run notes about where it was trained: sessions that follow each other, whatever is in the file."""

import json
import re
import subprocess
from pathlib import Path

import jax
import pytest

from contrastive_jax.errors import UserError
from contrastive_jax.workdir import about

RUN = {'data': 'digits', 'train_images': 1437}


def spans(workdir: Path) -> list[tuple[int, int]]:
    return [(s['from_step'], s['to_step']) for s in about.sessions(about.read(workdir))]


def test_a_session_says_where_it_ran(tmp_path: Path) -> None:
    noted = about.About(tmp_path, 0, RUN, 'jit')
    noted.update(7)
    found = about.read(tmp_path)
    assert about.run(found) == RUN
    (session,) = about.sessions(found)
    assert (session['from_step'], session['to_step'], session['parallel']) == (0, 7, 'jit')
    assert (session['devices'], session['hosts'], session['jax']) == (8, 1, jax.__version__)
    assert session['device_kind'] == jax.devices()[0].device_kind and session['seconds'] >= 0
    assert [p.name for p in tmp_path.iterdir()] == [about.FILE]


def test_sessions_follow_each_other_and_forget_what_a_kill_has_lost(tmp_path: Path) -> None:
    for start, stop in ((0, 20), (20, 50), (30, 40)):  # the second was killed behind its last checkpoint, at 30
        about.About(tmp_path, start, RUN, 'jit').update(stop)
    assert spans(tmp_path) == [(0, 20), (20, 30), (30, 40)]
    about.About(tmp_path, 20, RUN, 'jit').update(60)
    assert spans(tmp_path) == [(0, 20), (20, 60)]
    about.About(tmp_path, 0, RUN, 'pmap')
    assert spans(tmp_path) == [(0, 0)]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    about.About(tmp_path, 0, RUN, 'jit', enabled=False).update(3)
    assert not list(tmp_path.iterdir()) and about.read(tmp_path) == {}


@pytest.mark.parametrize('content', ['', '[]', '{"sessions": 3, "run": 4}', '{"sessions": [{"from_step": 1}, 2]}'])
def test_a_file_of_somebody_else_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / about.FILE).write_text(content)
    found = about.read(tmp_path)
    assert about.sessions(found) == [] and about.run(found) == {}
    about.About(tmp_path, 5, RUN, 'jit')
    assert spans(tmp_path) == [(5, 5)] and json.loads((tmp_path / about.FILE).read_text())['run'] == RUN


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / about.FILE).mkdir()
    with pytest.raises(UserError, match=rf'cannot write {tmp_path}/about.json: .* -> choose another workdir'):
        about.About(tmp_path, 0, RUN, 'jit')


def test_the_commit_is_that_of_git(tmp_path: Path) -> None:
    """In a repository of its own; and none where the code lies in no checkout, be there one further up."""
    git = ['git', '-C', str(tmp_path), '-c', 'user.name=x', '-c', 'user.email=x@y']
    inside = tmp_path / 'contrastive_jax'
    inside.mkdir()
    (inside / 'about.py').write_text('1')
    assert about.commit(tmp_path) is None
    for command in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'x']):
        subprocess.run([*git, *command], check=True)
    head = about.commit(tmp_path)
    assert head is not None and re.fullmatch('[0-9a-f]{40}', head)
    (inside / 'about.py').write_text('2')
    assert about.commit(tmp_path) == f'{head}+'
    deeper = inside / 'lib' / 'contrastive_jax'
    deeper.mkdir(parents=True)
    assert about.commit(deeper.parent) is None
