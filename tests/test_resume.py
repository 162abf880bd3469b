"""An interrupted run ends as if it had never been interrupted, bit for bit; only the clock can tell."""

import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_digits

from contrastive_jax import feed, parallel
from contrastive_jax.checkpoint import FOLDER
from contrastive_jax.data import sampler
from contrastive_jax.errors import NumericalError
from tests import runs, whole_runs
from tests.whole_runs import children, compiled, digest, fit, lines, quick_runs, saved  # noqa: F401

pytestmark = pytest.mark.usefixtures('quick_runs')

STEPS = 8
IMAGES = 56  # 3 steps of 16 an epoch: 8 steps end in the middle of the third


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """An .npz file, and a folder of images in several formats, sizes and classes, one of them damaged."""
    folder = tmp_path_factory.mktemp('data')
    whole_runs.write_npz(folder / 'digits.npz', IMAGES)
    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images[:70], digits.target, strict=False)):
        place = folder / 'images' / ('train' if i < IMAGES else 'val') / str(label % 2)
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).resize((9 + i % 4, 11 - i % 3))
        picture.convert('RGB').save(place / f'{i:03}.{("jpg", "png")[i % 2]}')
    (folder / 'images' / 'train' / '1' / '007.png').write_bytes(b'no image')
    return folder


@pytest.fixture(scope='module')
def uninterrupted(data, tmp_path_factory) -> Callable[[str, str, str], Path]:
    """Runs without interruption, each made once, when it is first asked for."""
    made: dict[tuple[str, str, str], Path] = {}

    def make(name: str, mode: str, source: str) -> Path:
        if (name, mode, source) not in made:
            workdir = tmp_path_factory.mktemp('uninterrupted')
            assert isinstance(fit(load(name, mode, source, data), workdir), dict)
            made[name, mode, source] = workdir
        return made[name, mode, source]

    return make


def load(name: str, mode: str, source: str, data: Path, **changes) -> ConfigDict:
    """A short run. `source`: 'resident', 'stream' (both off the .npz file) or 'folder'.

    Lines are logged at 3 and 6, evaluated at 4, saved at 5, and everything at the end: each alone, and epochs end at 3
    and 6.
    """
    where = {'data.source': 'folder', 'data.path': str(data / 'images')}
    if source != 'folder':
        where = {'data.source': 'npz', 'data.path': str(data / 'digits.npz'), 'data.on_device': source == 'resident'}
    cadences = {'steps': STEPS, 'log_every_steps': 3, 'eval_every_steps': 4, 'checkpoint_every_steps': 5}
    return runs.load(name, **{'parallel': mode, 'data.name': '', **where, **cadences, **changes})


def finish(config: ConfigDict, workdir: Path, stretches: tuple[int, ...], count: int = 2) -> list[int]:
    """Trains to the end, interrupted after so many stops (see `loop.Trainer.train`). Returns the steps of the cuts."""
    cuts = []
    for after in stretches:
        said = fit(config, workdir, count, after)
        assert isinstance(said, str) and said.startswith('SIGTERM at step ') and ', saved;' in said
        cuts.append(int(said.split()[3]))
        assert max(int(p.name) for p in (workdir / FOLDER).iterdir()) == cuts[-1]
    assert isinstance(fit(config, workdir, count), dict)
    return cuts


# The stops of a start at s are s+1 and every step that logs, evaluates or saves: 3, 4, 5, 6, 8. Each row of stretches
# makes the cuts behind it; between them they cut after every step but the last.
CASES = [
    ('mocov2:tiny', 'jit', 'resident', (1, 1, 1, 1), [1, 2, 3, 4]),
    ('mocov2:tiny', 'jit', 'resident', (4, 1, 1), [5, 6, 7]),
    ('mocov2:tiny', 'pmap', 'resident', (1, 2), [1, 3]),
    ('mocov2:tiny', 'jit', 'stream', (1, 3), [1, 4]),
    ('mocov2:tiny', 'pmap', 'folder', (2, 1), [3, 4]),
    ('mocov3_vit:tiny', 'jit', 'resident', (1, 1), [1, 2]),
    ('mocov3_vit:tiny', 'pmap', 'stream', (5, 1), [6, 7]),
    ('dictionary:memory_bank,tiny', 'jit', 'resident', (3,), [4]),
    ('dictionary:memory_bank,tiny', 'jit', 'folder', (1, 4), [1, 5]),
]


@pytest.mark.parametrize(('name', 'mode', 'source', 'stretches', 'cuts'), CASES)
def test_the_same_bits(name, mode, source, stretches, cuts, data, uninterrupted, tmp_path):
    """State, lines and evaluations; the evaluation that a cut at step 4 prevents is made up for."""
    whole = uninterrupted(name, mode, source)
    config = load(name, mode, source, data)
    assert finish(config, tmp_path, stretches) == cuts
    step, state = saved(config, tmp_path)
    assert step == STEPS == state.step
    assert digest(state) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_the_log_of_a_run(uninterrupted):
    """What the tests above compare with: a line for each step that is due, and none twice."""
    found = lines(uninterrupted('mocov2:tiny', 'jit', 'resident'))
    assert [line['step'] for line in found if 'loss' in line] == [3, 4, 5, 6, 8]
    assert [line['step'] for line in found if 'eval/knn_top1' in line] == [0, 4, 8]
    assert len(found) == 8


def test_two_equal_runs_are_equal(data, uninterrupted, tmp_path):
    config = load('mocov2:tiny', 'jit', 'resident', data)
    fit(config, tmp_path)
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, uninterrupted('mocov2:tiny', 'jit', 'resident'))[1])
    other = load('mocov2:tiny', 'jit', 'resident', data, seed=1)
    fit(other, tmp_path / 'other')
    assert digest(saved(other, tmp_path / 'other')[1]) != digest(saved(config, tmp_path)[1])


def test_a_signal_before_the_first_step(data, uninterrupted, tmp_path):
    """Before the first evaluation, after it, and right after a restart: nothing bogus is saved, nothing is repeated."""
    config = load('mocov2:tiny', 'jit', 'resident', data)
    for after in (-1, 0):
        said = fit(config, tmp_path, after=after)
        assert said == 'SIGTERM before the first step; the same command goes on from there'
        assert list((tmp_path / FOLDER).iterdir()) == []
    fit(config, tmp_path, after=1)
    said = fit(config, tmp_path, after=0)
    assert said == 'SIGTERM at step 1 of 8, already saved; the same command goes on from there'
    finish(config, tmp_path, ())
    whole = uninterrupted('mocov2:tiny', 'jit', 'resident')
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_a_damaged_checkpoint_costs_only_time(data, uninterrupted, tmp_path):
    """Back to an older one: the steps are trained, logged, evaluated and saved again, to the same bits."""
    config = load('mocov2:tiny', 'jit', 'resident', data)
    finish(config, tmp_path, (5,))  # at 6; 5 and 6 are there, then 8
    for file in (tmp_path / FOLDER / '8').rglob('*'):
        if file.is_file():
            file.write_bytes(b'')
    assert isinstance(fit(config, tmp_path), dict)
    whole = uninterrupted('mocov2:tiny', 'jit', 'resident')
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_a_finished_run_stays_as_it_is(data, uninterrupted, capsys):
    workdir = uninterrupted('mocov2:tiny', 'jit', 'resident')
    config = load('mocov2:tiny', 'jit', 'resident', data)
    before = whole_runs.tree_digest(workdir)
    last = lines(workdir)[-1]
    again = fit(config, workdir)
    assert 'already complete at step 8 of 8' in capsys.readouterr().out
    assert whole_runs.tree_digest(workdir) == before
    assert again['eval/knn_top1'] == last['eval/knn_top1'] and 'baseline/knn_top1' in again


def test_more_and_fewer_steps(data, tmp_path, capsys):
    """`steps` may change: a longer run goes on, with the learning rate of the longer schedule from there."""
    short = load('mocov2:tiny', 'jit', 'resident', data, steps=4)
    fit(short, tmp_path)
    capsys.readouterr()
    fit(load('mocov2:tiny', 'jit', 'resident', data), tmp_path)
    assert 'going on at step 4' in capsys.readouterr().out
    found = lines(tmp_path)
    assert [line['step'] for line in found if 'loss' in line] == [3, 4, 5, 6, 8]
    assert [line['step'] for line in found if 'eval/knn_top1' in line] == [0, 4, 8]
    fit(short, tmp_path)
    said = capsys.readouterr().out
    assert 'already complete at step 8 of 4' in said and f'{FOLDER}/8 ' in said
    assert lines(tmp_path) == found


def test_a_loss_that_is_not_finite(data, tmp_path):
    """Exit code 4, and what is saved is from before."""
    config = load(
        'mocov2:tiny', 'jit', 'resident', data, **{'optimizer.learning_rate': 1e30, 'checkpoint_every_steps': 1}
    )
    with pytest.raises(NumericalError, match='lower optimizer.learning_rate') as caught:
        fit(config, tmp_path)
    assert caught.value.exit_code == 4
    assert [p.name for p in (tmp_path / FOLDER).iterdir()] in ([], ['1'])
    if (tmp_path / FOLDER / '1').exists():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved(config, tmp_path)[1]))
    with pytest.raises(NumericalError):  # it is no different on another try
        fit(config, tmp_path)


def test_a_torn_last_line(data, uninterrupted, tmp_path):
    """A machine that loses power may lose the end of the log: what is whole stays, what follows is added."""
    config = load('mocov2:tiny', 'jit', 'resident', data)
    fit(config, tmp_path, after=4)
    file = tmp_path / 'metrics.jsonl'
    file.write_bytes(file.read_bytes()[:-30])
    fit(config, tmp_path)
    whole = lines(uninterrupted('mocov2:tiny', 'jit', 'resident'))
    assert [line for line in whole if line not in lines(tmp_path)] == [line for line in whole if line['step'] == 5]


# ================================ other devices ================================


@pytest.fixture
def order(monkeypatch) -> list[np.ndarray]:
    """The examples of every step that is trained, as the feeds take them from the sampler or the loader."""
    seen: list[np.ndarray] = []
    chunk_index, train_batches = feed.sampler.chunk_index, feed.train_batches

    def chunk(*args):
        seen.extend(rows := chunk_index(*args))
        return np.array(rows)

    def batches(*args, **kwargs):
        iterator = train_batches(*args, **kwargs)

        def record():
            for batch in iterator:
                seen.append(batch['index'])
                yield batch

        return record()

    monkeypatch.setattr(feed.sampler, 'chunk_index', chunk)
    monkeypatch.setattr(feed, 'train_batches', batches)
    return seen


def test_both_feeds_take_the_examples_in_the_same_order(data, order, tmp_path):
    expected = np.stack([sampler.batch_index(0, step, IMAGES, 16) for step in range(STEPS)])
    for source in ('resident', 'stream'):
        order.clear()
        finish(load('mocov2:tiny', 'jit', source, data), tmp_path / source, (1, 3))
        np.testing.assert_array_equal(np.stack(order), expected)
    for epoch in (expected[:3], expected[3:6]):
        assert len(np.unique(epoch)) == 48, 'no example comes twice in an epoch'


@pytest.mark.parametrize(('name', 'source'), [('mocov2:tiny', 'resident'), ('dictionary:memory_bank,tiny', 'stream')])
def test_on_other_devices_and_modes(name, source, data, uninterrupted, order, tmp_path):
    """jit on 1, pmap on 4, jit on 2: the same examples, the same queue or bank, the same training but for rounding."""
    whole = uninterrupted(name, 'jit', source)
    order.clear()
    for mode, count, after in (('jit', 1, 2), ('pmap', 4, 1), ('jit', 2, None)):
        fit(config := load(name, mode, source, data), tmp_path, count, after)
    np.testing.assert_array_equal(
        np.stack(order), [sampler.batch_index(0, step, IMAGES, 16) for step in range(STEPS)]
    )
    state, expected = saved(config, tmp_path)[1], saved(config, whole)[1]
    assert runs.relative_error(state, expected) < 1e-5
    assert runs.relative_error(state.method.memory, expected.method.memory) < 1e-5
    for line, other in zip(lines(tmp_path), lines(whole), strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-4) or 'eval/knn_top1' in line
        assert line['step'] == other['step'] and line.keys() == other.keys()


# ================================ many steps in a call ================================


@pytest.mark.parametrize(('name', 'mode'), [('mocov2:tiny', 'jit'), ('mocov2:tiny', 'pmap'), ('mocov3_vit:tiny', 'jit')])
def test_a_compiled_loop_of_many_steps(name, mode, data, monkeypatch):
    """The form that runs on accelerators: the same bits however it is cut, and the steps that single calls make."""
    run, source = runs.build(load(name, mode, 'resident', data))
    devices = parallel.devices(mode, 2)

    def train(max_steps: int, *cuts: int):
        with monkeypatch.context() as patch:
            patch.setattr(feed.jax, 'default_backend', lambda: 'gpu')
            loop = feed.ResidentFeed(run, devices, source, max_steps)
        state, sums = runs.start(run, devices), []
        for start, stop in zip((0, *cuts), (*cuts, STEPS), strict=True):
            state, metrics = loop.advance(state, start, stop)
            sums += [devices.fetch(m) for m in metrics]
        assert sum(m['steps'] for m in sums) == STEPS
        loss = sum(m['loss'] for m in sums)
        return jax.device_get(devices.collect(state, run.state_specs)), loss

    whole, loss = train(5)
    for cuts in ((3, 5), (1, 2, 7)):
        again, other = train(5, *cuts)
        assert digest(again) == digest(whole)
        np.testing.assert_allclose(other, loss, rtol=1e-6)
    single, other = train(1)
    assert runs.relative_error(whole, single) < 1e-6
    np.testing.assert_allclose(other, loss, rtol=1e-5)


# ================================ real signals ================================


def test_kill_and_sigterm(data, compiled, children, tmp_path):  # noqa: F811
    """kill -9 loses the steps since the last checkpoint, SIGTERM none: three starts of one command are one run."""
    steps = 60
    changes = {'steps': steps, 'log_every_steps': 1, 'eval_every_steps': 0, 'checkpoint_every_steps': 10}
    config = load('mocov2:tiny', 'jit', 'resident', data, **changes)
    fit(config, tmp_path / 'whole')

    workdir = tmp_path / 'run'
    overrides = ['--config.data.source=npz', f'--config.data.path={data / "digits.npz"}', '--config.data.name=']
    command = [*overrides, *(f'--config.{field}={value}' for field, value in changes.items())]

    def start():
        children.append(whole_runs.start('mocov2.py:tiny', workdir, compiled, *command))
        return children[-1]

    killed = start()
    whole_runs.wait_for_step(workdir, 25, killed)
    killed.send_signal(signal.SIGKILL)
    assert whole_runs.ended(killed)[0] == -signal.SIGKILL
    reached = max(line['step'] for line in lines(workdir))

    stopped = start()
    whole_runs.wait_for_step(workdir, reached + 5, stopped)
    stopped.send_signal(signal.SIGTERM)
    code, out, err = whole_runs.ended(stopped)
    assert code == 42
    assert 'going on at step ' in out and out.split('going on at step ')[1].split()[0] in ('10', '20', '30', '40', '50')
    step = out.split('contrastive_jax: SIGTERM at step ')[1].split()[0]
    assert out.splitlines()[-1] == (
        f'contrastive_jax: SIGTERM at step {step} of 60, saved; the same command goes on from there'
    )
    assert (workdir / FOLDER / step).is_dir()
    assert err == ''

    code, out, err = whole_runs.ended(start())
    assert code == 0 and f'going on at step {step}' in out and err == ''
    assert lines(workdir) == lines(tmp_path / 'whole')
    assert digest(saved(config, workdir)[1]) == digest(saved(config, tmp_path / 'whole')[1])
