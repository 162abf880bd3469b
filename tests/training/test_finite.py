"""A step in which a value is not finite changes nothing, on all devices; the run goes on, or ends with a way on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import CheckpointError, NumericalError, UserError
from contrastive_jax.methods.base import Batch, LossOutput, MethodState
from contrastive_jax.methods.moco import MoCo
from contrastive_jax.training import feed
from contrastive_jax.training.finite import PLACES, all_finite
from contrastive_jax.workdir.described import FOLDER
from tests import complete_runs, train_steps
from tests.complete_runs import digest, fit, lines, saved, tiny_config
from tests.training.test_devices import differing

STEPS = 13
# The step in which each thing is not finite, on the second device alone.
LOSS, GRADIENT, MEMORY, STATISTICS, TARGET, STREAK = 1, 2, 4, 5, 6, (8, 9, 10, 11)
PLACE = {LOSS: 1, GRADIENT: 2, MEMORY: 3, STATISTICS: 3, TARGET: 4, **dict.fromkeys(STREAK, 1)}


@dataclasses.dataclass(frozen=True)
class Poisoned(MoCo):
    """MoCo with values that are not finite in some steps."""

    total: int = STEPS
    losses: tuple[int, ...] = (LOSS, *STREAK)
    elsewhere: bool = True

    def loss(
        self, params: Any, state: MethodState, batch: Batch, *, rng: Any, progress: Any, axis_name: str | None = None
    ) -> LossOutput:
        loss, (state, metrics) = super().loss(params, state, batch, rng=rng, progress=progress, axis_name=axis_name)
        step = jnp.round(progress * self.total).astype(jnp.int32)
        here = collectives.axis_index(axis_name) == collectives.axis_size(axis_name) - 1
        poison = lambda at, value: jnp.where((step == at) & here & self.elsewhere, value, 0.0)  # noqa: E731
        loss += jnp.where(jnp.isin(step, jnp.asarray(self.losses)) & here, jnp.nan, 0.0)
        # The root of 0 is 0, and its slope there is infinite.
        bad = (step == GRADIENT) & here & self.elsewhere
        u = jnp.where(bad, 0.0 * jnp.sum(params['projector']['linear_0']['kernel']), 1.0)
        loss += jnp.sqrt(u) - jnp.where(bad, 0.0, 1.0)
        queue = {**state.memory['queue'], 'keys': state.memory['queue']['keys'] + poison(MEMORY, jnp.inf)}
        stats = jax.tree.map(lambda x: x + poison(STATISTICS, jnp.nan), state.batch_stats)
        return loss, (MethodState(state.target, stats, {**state.memory, 'queue': queue}), metrics)

    def after_update(self, params: Any, state: MethodState, *, progress: Any) -> tuple[Any, MethodState]:
        bad = (jnp.round(progress * self.total) == TARGET) & self.elsewhere
        target = jax.tree.map(lambda x: jnp.where(bad, -jnp.inf, x), state.target)
        return params, dataclasses.replace(state, target=target)


def poisoned(method: Any, **changes: Any) -> Poisoned:
    return Poisoned(**{f.name: getattr(method, f.name) for f in dataclasses.fields(MoCo)}, **changes)


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_the_whole_update_is_dropped(mode):
    """Wherever a value is not finite: parameters, optimizer, target, statistics and queue keep their bits."""
    run, source = train_steps.build(train_steps.load_small('mocov2:tiny', steps=STEPS))
    run = dataclasses.replace(run, method=poisoned(run.method), max_dropped_in_row=len(STREAK))
    devices = find_devices(mode, 2)
    data = feed.ResidentFeed(run, devices, source, 1)
    state = train_steps.start(run, devices)
    host = lambda: jax.device_get(devices.collect(state, run.state_specs))  # noqa: E731
    before, total = host(), 0
    for step in range(STEPS):
        state, (sums,) = data.advance(state, step, step + 1)
        after, sums = host(), devices.fetch(sums)
        kept = all(digest(a) != digest(b) for a, b in zip(parts(before), parts(after), strict=True))
        same = digest(parts(before)) == digest(parts(after))
        bad = step in PLACE or step > STREAK[-1]  # after too many in a row nothing is kept: the run stops
        assert (same, kept) == (bad, not bad), step
        total += bad
        assert after.step == step + 1 and after.dropped.total == total
        assert (sums['dropped'], sums['steps']) == (bad, not bad)
        assert np.isfinite(list(sums.values())).all() and (bad or sums['loss'] > 0)
        assert differing(state, run, devices) == []
        if step in PLACE:
            assert (after.dropped.step, after.dropped.place) == (step, PLACE[step]), PLACES[after.dropped.place]
        before = after
    assert before.dropped.in_row == 4 and all(np.isfinite(x).all() for x in jax.tree.leaves(before))


def parts(state: Any) -> tuple[Any, ...]:
    return state.params, state.opt_state, state.method.target, state.method.batch_stats, state.method.memory


def test_all_finite():
    tree = {'a': jnp.ones((2, 3)), 'b': (jnp.zeros((2, 3)), jnp.arange(3)), 'c': jnp.ones((), jnp.bfloat16)}
    assert all_finite(tree) and all_finite({}) and all_finite({'x': jnp.arange(2)})
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        assert not all_finite({**tree, 'c': jnp.asarray(value, jnp.bfloat16)})
        assert not all_finite({**tree, 'a': tree['a'].at[1, 2].set(value)})


# ================================ whole runs ================================


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return complete_runs.write_npz(tmp_path_factory.mktemp('data') / 'digits.npz', 56)


def load(data: Path, **changes: Any) -> Any:
    given = {'data.source': 'npz', 'data.path': str(data), 'data.name': '', 'steps': 8, 'eval_every_steps': 0}
    config = tiny_config('mocov2', **{**given, 'log_every_steps': 3, 'checkpoint_every_steps': 2, **changes})
    config.eval.evaluators = ()
    return config


def test_one_bad_step_costs_one_step(data, tmp_path, capsys):
    """It is said and logged, and a run that is interrupted around it ends in the same bits."""
    config = load(data, **{'checkpoint_every_steps': 5})
    method = poisoned(train_steps.build(config)[0].method, total=8, losses=(4,), elsewhere=False)
    fit(config, tmp_path / 'whole', method=method)
    said = capsys.readouterr().out
    assert said.count('step 5: the loss was not finite, so this step changed nothing (dropped steps') == 1
    found = {line['step']: line for line in lines(tmp_path / 'whole')}
    assert [step for step, line in found.items() if 'dropped' in line] == [5]
    assert found[5]['dropped'] == 1 and found[5]['loss'] > 0, 'the mean is over step 4'
    for step in (4, 5):
        fit(config, tmp_path / 'cut', at=step, method=method)
    fit(config, tmp_path / 'cut', method=method)
    step, state = saved(config, tmp_path / 'whole')
    assert (step, state.dropped.total, state.dropped.in_row) == (8, 1, 0)
    assert digest(saved(config, tmp_path / 'cut')[1]) == digest(state)
    assert lines(tmp_path / 'cut') == lines(tmp_path / 'whole')


def test_a_run_that_diverges_and_its_way_on(data, tmp_path, capsys):
    """It stops, keeps what is from before, and goes on in the same workdir with another rate; `run.json` says so."""
    config = load(data, max_dropped_in_row=3)
    method = poisoned(train_steps.build(config)[0].method, total=8, losses=(4, 5, 6, 7), elsewhere=False)
    with pytest.raises(
        NumericalError, match=r'3 steps in a row were dropped; .*step 7, the loss .*--rollback=STEP'
    ) as e:
        fit(config, tmp_path, method=method)
    assert e.value.exit_code == 4 and 'lower optimizer.learning_rate' in str(e.value)
    assert str(e.value).endswith('has the steps 0, 2, 4')
    names = lambda: sorted(p.name for p in (tmp_path / FOLDER).iterdir())  # noqa: E731
    assert names() == ['2', '4']
    with pytest.raises(NumericalError):  # it is no different on another try
        fit(config, tmp_path, method=method)

    lower = load(data, max_dropped_in_row=3, **{'optimizer.learning_rate': 0.001})
    with pytest.raises(UserError, match='holds a run of another config'):
        fit(lower, tmp_path)
    with pytest.raises(UserError, match=r'no checkpoint of step 3 .* -> choose from 2, 4, or 0'):
        fit(lower, tmp_path, rollback=3)
    other = load(data, max_dropped_in_row=3, **{'method.queue_size': 32})
    with pytest.raises(CheckpointError, match='holds another model'):
        fit(other, tmp_path, rollback=2)
    assert names() == ['2', '4'] and 'rollbacks' not in json.loads((tmp_path / 'run.json').read_text())
    assert json.loads((tmp_path / 'config.json').read_text())['optimizer']['learning_rate'] != 0.001

    capsys.readouterr()
    assert isinstance(said := fit(lower, tmp_path, at=5, rollback=2), str) and 'at step 5' in said
    said = capsys.readouterr().out
    assert 'rolled back to step 2' in said and 'optimizer.learning_rate: ' in said and 'going on at step 2' in said
    assert '4.undone' in names() and '5' in names()
    record = json.loads((tmp_path / 'run.json').read_text())['rollbacks']
    assert len(record) == 1 and record[0]['to_step'] == 2 and 'learning_rate' in record[0]['changes'][0]
    assert isinstance(fit(lower, tmp_path, rollback=2), dict), 'the same command goes on'
    assert 'going on at step 5' in capsys.readouterr().out
    assert [line['step'] for line in lines(tmp_path)] == [2, 3, 4, 6, 8]
    assert isinstance(fit(lower, tmp_path), dict)
