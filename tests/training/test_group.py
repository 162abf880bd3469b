"""Several runs in one program: each is the run that would have been trained alone."""

from pathlib import Path

import numpy as np
import pytest

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import Interrupted
from contrastive_jax.training import fit as fit_module
from contrastive_jax.training import group
from contrastive_jax.training.fit import fit
from contrastive_jax.training.group import fit_group
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.folder import CONFIG_FILE
from tests.complete_runs import digest, lines, saved, tiny_config, write_npz
from tests.train_steps import relative_error

STEPS = 7  # two epochs, and a step


@pytest.fixture(scope='module')
def npz(tmp_path_factory) -> Path:
    return write_npz(tmp_path_factory.mktemp('data') / 'digits.npz', 56)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(fit_module, 'find_devices', lambda mode: find_devices(mode, 1))


def load(npz, name='mocov2', **changes):
    where = {'data.source': 'npz', 'data.path': str(npz), 'data.name': ''}
    cadences = {'steps': STEPS, 'log_every_steps': 3, 'eval_every_steps': 4, 'checkpoint_every_steps': 5}
    return tiny_config(name, **{**where, **cadences, **changes})


@pytest.fixture(scope='module')
def trained(npz, tmp_path_factory) -> Path:
    """Two seeds in one program, a call for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, 'find_devices', lambda mode: find_devices(mode, 1))
        workdir = tmp_path_factory.mktemp('group')
        fit_group(load(npz, seeds=(0, 1)), str(workdir), vectorized=False)
    return workdir


def state_of(config, workdir):
    step, state = saved(config, workdir)
    assert step == STEPS
    return state


def test_a_member_has_the_bits_of_its_own_run(npz, trained, tmp_path, capsys):
    config = load(npz, seed=1)
    fit(config, str(tmp_path))
    assert digest(state_of(config, trained / 'seed1')) == digest(state_of(config, tmp_path))
    assert digest(state_of(config, trained / 'seed0')) != digest(state_of(config, tmp_path))
    assert lines(trained / 'seed1') == lines(tmp_path)
    assert (trained / 'seed1' / CONFIG_FILE).read_text() == (tmp_path / CONFIG_FILE).read_text()
    capsys.readouterr()
    fit(config, str(trained / 'seed1'))  # the command for it alone
    assert f'already complete at step {STEPS}' in capsys.readouterr().out


def test_vectorized(npz, trained, tmp_path):
    """Another program of the same runs: equal up to rounding, which grows from step to step."""
    fit_group(load(npz, seeds=(0, 1)), str(tmp_path), vectorized=True)
    for name in ('seed0', 'seed1'):
        config = load(npz)
        ours, alone = (state_of(config, folder / name) for folder in (tmp_path, trained))
        assert relative_error(ours.params, alone.params) < 1e-4
        assert relative_error(ours.method, alone.method) < 1e-4
        found, expected = ([line['loss'] for line in lines(f / name) if 'loss' in line] for f in (tmp_path, trained))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


class Cut(group.Interrupt):
    """A SIGTERM when members have taken so many steps together."""

    steps, after = 0, 10**9

    @property
    def requested(self):
        return 'SIGTERM' if Cut.steps >= Cut.after else None

    @requested.setter
    def requested(self, value):
        pass


def test_resume(npz, trained, tmp_path, monkeypatch):
    """After a signal, and after a kill that one member was saved before and one was not."""
    advance = group.GroupFeeds.advance

    def counted(*args):
        Cut.steps += 1
        return advance(*args)

    monkeypatch.setattr(group.GroupFeeds, 'advance', counted)
    with monkeypatch.context() as patch:
        real = group.Interrupt
        patch.setattr(group, 'Interrupt', lambda made=[]: made.append(0) or (Cut() if len(made) == 1 else real()))
        Cut.steps, Cut.after = 0, 3
        with pytest.raises(Interrupted, match=r'2 of 2 runs .* SIGTERM at step 4 of 7, saved'):
            fit_group(load(npz, seeds=(0, 1)), str(tmp_path), vectorized=False)
    assert [int(p.name) for p in (tmp_path / 'seed1' / FOLDER).iterdir()] == [4]
    (tmp_path / 'seed1' / FOLDER / '4').rename(tmp_path / 'lost')
    (tmp_path / 'seed1' / 'metrics.jsonl').unlink()
    Cut.steps = 0
    fit_group(load(npz, seeds=(0, 1)), str(tmp_path), vectorized=False)
    assert Cut.steps == 7  # four of them of one member
    for name in ('seed0', 'seed1'):
        assert digest(state_of(load(npz), tmp_path / name)) == digest(state_of(load(npz), trained / name))
        assert lines(tmp_path / name) == lines(trained / name)
