"""Several runs in one program: each is the run that would have been trained alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive_jax import compare, main
from contrastive_jax.ablate import __main__ as ablate
from contrastive_jax.config.check import check
from contrastive_jax.config.fields import OF_CHANNELS, sections_of
from contrastive_jax.config.group import members_of
from contrastive_jax.config.overrides import override
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import Interrupted, UserError
from contrastive_jax.training import fit as fit_module
from contrastive_jax.training import group
from contrastive_jax.training.fit import fit
from contrastive_jax.training.group import fit_group, spread
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
    """A short run of a recipe on the images of the file, with dotted fields changed."""
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


def test_several_devices(npz, tmp_path, monkeypatch):
    """The queue is sharded, and keys travel between the devices: also for several members under `vmap`."""
    monkeypatch.setattr(fit_module, 'find_devices', lambda mode: find_devices(mode, 2))
    config = load(npz, seed=1)
    fit(config, str(tmp_path / 'alone'))
    alone = state_of(config, tmp_path / 'alone')
    fit_group(load(npz, seeds=(0, 1)), str(tmp_path / 'in_turn'), vectorized=False)
    assert digest(state_of(config, tmp_path / 'in_turn' / 'seed1')) == digest(alone)
    fit_group(load(npz, seeds=(0, 1)), str(tmp_path / 'vectorized'), vectorized=True)
    ours = state_of(config, tmp_path / 'vectorized' / 'seed1')
    assert relative_error(ours.params, alone.params) < 1e-4
    assert relative_error(ours.method, alone.method) < 1e-4


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
    """After a signal between steps and one in an evaluation, and after a kill that one member was saved before."""
    advance = group.GroupFeeds.advance

    def counted(*args):
        Cut.steps += 1
        return advance(*args)

    monkeypatch.setattr(group.GroupFeeds, 'advance', counted)
    with monkeypatch.context() as patch:
        patch.setattr(group, 'Interrupt', Cut)
        for after, where in ((1, r'at step 2'), (2, r'during the evaluation at step 4')):
            Cut.steps, Cut.after = 0, after
            with pytest.raises(Interrupted, match=rf'2 of 2 runs .* SIGTERM {where} of 7, saved'):
                fit_group(load(npz, seeds=(0, 1)), str(tmp_path), vectorized=False)
    assert sorted(int(p.name) for p in (tmp_path / 'seed1' / FOLDER).iterdir()) == [2, 4]
    for name in ('2', '4'):
        (tmp_path / 'seed1' / FOLDER / name).rename(tmp_path / name)
    (tmp_path / 'seed1' / 'metrics.jsonl').unlink()
    Cut.steps = 0
    fit_group(load(npz, seeds=(0, 1)), str(tmp_path), vectorized=False)
    assert Cut.steps == 7  # four of them of one member
    for name in ('seed0', 'seed1'):
        assert digest(state_of(load(npz), tmp_path / name)) == digest(state_of(load(npz), trained / name))
        assert lines(tmp_path / name) == lines(trained / name)


def test_rates_and_temperatures_and_a_member_that_fails(npz, tmp_path, capsys):
    """The rate and the temperature are arguments of the program here, and constants of the run alone.

    What is chosen by the data, such as the batch and with it the factor of the rate, is as for the run alone.
    """
    few = {'steps': 3, 'eval.evaluators': ('signals',), 'max_dropped_in_row': 1, 'optimizer.learning_rate_batch': 32}
    chosen = ('batch_size', 'method.queue_size', 'method.temperature', 'optimizer.learning_rate')
    few |= {'auto.fields': chosen, 'auto.reference_batch': 64}
    config = load(npz, learning_rates=(0.2, 1e30), temperatures=(0.3,), seed=2, **few)
    with pytest.raises(UserError, match=r'1 of 2 runs failed, learning_rate1e\+30_temperature0.3 first') as stop:
        fit_group(config, str(tmp_path / 'group'), vectorized=False)
    assert stop.value.exit_code == 4
    said = capsys.readouterr()
    assert 'learning_rate1e+30_temperature0.3: 1 steps in a row were dropped' in said.err
    assert 'learning_rate0.2_temperature0.3: effective_rank: ' in said.out
    alone = load(npz, seed=2, **few)
    assert not override(alone, ['--config.optimizer.learning_rate=0.2', '--config.method.temperature=0.3'], sections_of)
    fit(alone, str(tmp_path / 'alone'))
    folders = [tmp_path / f for f in ('group/learning_rate0.2_temperature0.3', 'alone')]
    assert len({(folder / CONFIG_FILE).read_text() for folder in folders}) == 1
    found, expected = map(lines, folders)
    assert next(line['learning_rate'] for line in found if 'loss' in line) == pytest.approx(0.2 * 8 / 32)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-4, atol=1e-6)


def test_the_pass_that_fills_a_memory(npz, tmp_path):
    """A method that shows the untrained network an epoch first, and does something at the start of each epoch."""
    config = load(npz, 'deepcluster', steps=2, seeds=(0, 1), **{'eval.evaluators': ('signals',)})
    found = fit_group(config, str(tmp_path / 'group'), vectorized=True)
    alone = fit(load(npz, 'deepcluster', steps=2, seed=1, **{'eval.evaluators': ('signals',)}), str(tmp_path / 'alone'))
    assert found['seed1'] == pytest.approx(alone, rel=1e-3)


def test_mean_and_spread():
    """The sample standard deviation: numpy's with ddof 1."""
    accuracies = [0.9, 0.95, 0.97]
    found = [{'eval/knn_top1': x, 'eval/own': 1.0, 'baseline/knn_top1': 0.5} for x in accuracies]
    del found[2]['eval/own']
    assert spread(found) == [f'knn_top1: 0.94 +- {np.std(accuracies, ddof=1):.2g} (0.9 to 0.97, n = 3)']
    assert spread(found[:1]) == ['knn_top1: 0.9', 'own: 1']


def test_a_further_run_for_which_another_machine_chooses_otherwise(npz, tmp_path, monkeypatch, nothing_compiled):
    few = {'auto.fields': ('batch_size',), 'auto.reference_batch': 64, 'method.queue_size': 32}
    config = load(npz, seeds=(0, 1), **few)
    real = fit_module.choose
    monkeypatch.setattr(
        fit_module, 'choose', lambda c, *facts: real(c, *facts) if c.seed == 0 else (load(npz, seed=1), [])
    )
    with pytest.raises(UserError, match='share one program, and batch_size is 8 and 16'):
        fit_group(config, str(tmp_path))


def test_the_number_of_channels_is_derived_for_new_runs_and_kept_for_others(tmp_path, monkeypatch, nothing_compiled):
    file, found = tmp_path / 'bands.npz', []
    np.savez(file, train_images=np.zeros((20, 8, 8, 5), np.uint8), test_images=np.ones((20, 8, 8, 5), np.uint8))

    def session(trainer, interrupt):
        found.append(trainer.feed.data['images'].shape[-1])
        assert trainer.verbose == (trainer.label == 'seed0')
        return {}
        yield

    monkeypatch.setattr(group.Trainer, 'session', session)
    for seeds in ((0, 1), (0, 1), (0, 1, 2)):
        config = load(file, seeds=seeds, **{'auto.fields': OF_CHANNELS, 'augment.mean': (), 'augment.std': ()})
        fit_group(config, str(tmp_path / 'group'), verbose=True)
    assert found == [5] * 7


def test_the_members_of_a_config(npz):
    """Each rate with each seed; their configs are those of single runs."""
    config = load(npz, learning_rates=(0.1, 0.03), seeds=(4, 5), seed=3)
    members = members_of(config)
    assert [m.name for m in members] == [f'learning_rate{r}_seed{s}' for r in ('0.1', '0.03') for s in (4, 5)]
    assert members[1].setting == members[0].setting == 'learning_rate0.1'
    alone = load(npz, seed=5, **{'optimizer.learning_rate': 0.1})
    assert json.loads(members[1].config.to_json()) == json.loads(alone.to_json())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'seeds': (1, 1)}, 'seeds (1, 1) has a value twice -> give different values'),
        ({'seeds': (-1,)}, 'seeds (-1,) is out of range'),
        ({'seeds': (0,), 'parallel': 'pmap'}, "parallel 'pmap' is for one run, and seeds gives several -> it must be"),
        ({'seeds': (0,), 'profile_steps': 3}, 'profile_steps 3 is for one run, and seeds gives several'),
        ({'seeds': (0,), 'data.on_device': False}, 'data.on_device is False, and seeds gives several runs'),
        ({'learning_rates': (0.0,)}, 'learning_rates (0.0,) is out of range'),
        ({'temperatures': (0.1,), 'name': 'simsiam'}, "temperatures (0.1,): the method 'simsiam' has no field"),
    ],
)
def test_what_is_refused(npz, changes, message):
    problems = check(load(npz, **changes), 1)
    assert len(problems) == 1 and problems[0].startswith(message)


def test_images_that_are_read_while_a_run_trains_are_refused(tmp_path, nothing_compiled):
    for i in range(20):
        place = tmp_path / 'images' / ('train' if i < 16 else 'val') / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, 0, 0)).save(place / f'{i}.png')
    where = {'data.source': 'folder', 'data.path': str(tmp_path / 'images')}
    with pytest.raises(UserError, match='several runs share images in memory -> give each run a command of its own'):
        fit_group(load('', seeds=(0, 1), **where), str(tmp_path / 'group'))
    with pytest.raises(UserError, match='the config describes several runs, and fit trains one'):
        fit(load('', seeds=(0, 1)), str(tmp_path / 'group'))


def test_the_command(tmp_path, capsys, monkeypatch):
    """It trains the members, and names the commands that go on with the first of them."""
    trained = []

    def fit_group(config, workdir, load, verbose):
        trained.append(config.seeds)
        assert verbose
        return {'seed3': {}}

    monkeypatch.setattr(group, 'fit_group', fit_group)
    args = ['--config=tests/tiny_configs.py:mocov2', f'--workdir={tmp_path}/runs/', '--config.seeds=3,4', '--verbose']
    assert main.main(args) == 0
    assert trained == [(3, 4)]
    assert f'contrastive_jax.report --workdir={tmp_path}/runs/seed3' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('command', 'args', 'remedy'),
    [
        (compare.main, [], 'train the runs of one config with contrastive_jax.main'),
        (ablate.main, ['momentum'], 'give --seeds=0,1,2 for several seeds'),
    ],
)
def test_commands_that_start_each_run_by_itself_refuse_lists(command, args, remedy, tmp_path, capsys):
    assert command([*args, f'--workdir={tmp_path}/runs', '--config.seeds=0,1']) == 2
    assert f'--config.seeds=0,1: this command trains one run in each workdir -> {remedy}' in capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()
