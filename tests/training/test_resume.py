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

from contrastive_jax.data import sampler
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.training import feed
from contrastive_jax.training.build import build_run
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.fit import fit as checked_fit
from contrastive_jax.training.fit import load_data
from contrastive_jax.training.run import differing_plan
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.folder import CONFIG_FILE
from tests import complete_runs, train_steps
from tests.complete_runs import digest, fit, lines, saved, tiny_config
from tests.data.record_files import write_tar

STEPS = 8
IMAGES = 56  # 3 steps of 16 an epoch: 8 steps end in the middle of the third
DAMAGED = int((load_digits().target[:IMAGES] % 2 == 0).sum()) + 3  # in the folder, where it is the fourth of class 1
ORDER = np.stack([sampler.batch_index(0, step, IMAGES, 16) for step in range(STEPS)])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """An .npz file, and a folder of images in several formats, sizes and classes, one of them damaged."""
    folder = tmp_path_factory.mktemp('data')
    complete_runs.write_npz(folder / 'digits.npz', IMAGES)
    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images[:70], digits.target, strict=False)):
        place = folder / 'images' / ('train' if i < IMAGES else 'val') / str(label % 2)
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).resize((9 + i % 4, 11 - i % 3))
        picture.convert('RGB').save(place / f'{i:03}.{("jpg", "png")[i % 2]}')
    (folder / 'images' / 'train' / '1' / '007.png').write_bytes(b'no image')
    for split in ('train', 'val'):
        files = sorted((folder / 'images' / split).glob('*/*'))
        members = [(f'{file.stem}{end}', content) for file in files for end, content in
                   ((file.suffix, file.read_bytes()), ('.cls', file.parent.name.encode()))]  # fmt: skip
        write_tar(folder / 'shards' / f'{split}-000.tar', members[:20])
        write_tar(folder / 'shards' / f'{split}-001.tar', members[20:])
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
    """A short run. `source`: 'resident', 'stream' (both off the .npz file), 'folder', or 'webdataset', the same images.

    Lines are logged at 3 and 6, evaluated at 4, saved at 5, and everything at the end: each alone, and epochs end at 3
    and 6.
    """
    where = {'data.source': source, 'data.path': str(data / {'folder': 'images'}.get(source, 'shards'))}
    if source in ('resident', 'stream'):
        where = {'data.source': 'npz', 'data.path': str(data / 'digits.npz'), 'data.on_device': source == 'resident'}
    cadences = {'steps': STEPS, 'log_every_steps': 3, 'eval_every_steps': 4, 'checkpoint_every_steps': 5}
    return tiny_config(name, **{'parallel': mode, 'data.name': '', **where, **cadences, **changes})


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


def finish(config: ConfigDict, workdir: Path, *cuts: int) -> None:
    """Trains to the end, interrupted after these steps."""
    for step in cuts:
        said = fit(config, workdir, at=step)
        assert said == f'SIGTERM at step {step} of {STEPS}, saved; the same command goes on from there'
        assert max(int(p.name) for p in (workdir / FOLDER).iterdir()) == step
    assert isinstance(fit(config, workdir), dict)


CASES = [
    ('mocov2', 'jit', 'resident', (1, 2, 3, 4)),
    ('mocov2', 'jit', 'resident', (5, 6, 7)),
    ('mocov2', 'pmap', 'resident', (3,)),
    ('mocov3_vit', 'jit', 'folder', (1, 4)),
    ('mocov3_vit', 'jit', 'webdataset', (2, 5)),
    ('dictionary,memory_bank', 'pmap', 'stream', (2, 7)),
]


@pytest.mark.parametrize(('name', 'mode', 'source', 'cuts'), CASES)
def test_the_same_bits(name, mode, source, cuts, data, uninterrupted, order, tmp_path, monkeypatch):
    """State, examples, lines and evaluations; the evaluation that a cut at step 4 prevents is made up for.

    Tar files train what the folder with the same images trains.
    """
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    whole = uninterrupted(name, mode, source.replace('webdataset', 'folder'))
    config = load(name, mode, source, data)
    order.clear()
    finish(config, tmp_path, *cuts)
    wrong = np.stack(order) != ORDER
    assert not wrong.any() if source in ('resident', 'stream') else set(ORDER[wrong]) <= {DAMAGED}
    step, state = saved(config, tmp_path)
    assert step == STEPS == state.step
    assert digest(state) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_the_order_of_the_examples():
    for epoch in (ORDER[:3], ORDER[3:6]):
        assert len(np.unique(epoch)) == 48, 'no example comes twice in an epoch'


def test_the_log_of_a_run(uninterrupted):
    """What the tests above compare with: a line for each step that is due, and none twice."""
    found = lines(uninterrupted('mocov2', 'jit', 'resident'))
    assert [line['step'] for line in found if 'loss' in line] == [3, 4, 5, 6, 8]
    assert [line['step'] for line in found if 'eval/knn_top1' in line] == [0, 4, 8]
    assert len(found) == 8


def test_two_equal_runs_are_equal(data, uninterrupted, tmp_path):
    config = load('mocov2', 'jit', 'resident', data)
    fit(config, tmp_path)
    whole = uninterrupted('mocov2', 'jit', 'resident')
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, whole)[1])


def test_a_signal_before_the_first_step(data, uninterrupted, tmp_path):
    """Before the first evaluation, after it, and right after a restart: nothing bogus is saved, nothing is repeated."""
    config = load('mocov2', 'jit', 'resident', data)

    class Stop(Evaluator):
        """A signal during the evaluation of the untrained encoder."""

        name = 'stop'

        def __init__(self, context):
            pass

        def __call__(self, step, state):
            complete_runs.Cut.at = 0
            return {}

    assert fit(config, tmp_path, at=0) == 'SIGTERM before the first step; the same command goes on from there'
    assert not (tmp_path / 'metrics.jsonl').exists()
    said = fit(config, tmp_path, evaluators=[Stop])
    assert said == 'SIGTERM before the first step; the same command goes on from there'
    assert [line['step'] for line in lines(tmp_path)] == [0]
    assert list((tmp_path / FOLDER).iterdir()) == []
    fit(config, tmp_path, at=1)
    assert fit(config, tmp_path, at=0) == 'SIGTERM at step 1 of 8, already saved; the same command goes on from there'
    finish(config, tmp_path)
    whole = uninterrupted('mocov2', 'jit', 'resident')
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_a_signal_during_an_evaluation(data, uninterrupted, tmp_path):
    """It is heeded before the next evaluator; the state is saved, and the next start measures."""
    config = load('mocov2', 'jit', 'resident', data)
    reached = []

    class Asked(Evaluator):
        name = 'asked'
        at_start, every_steps = False, 4

        def __init__(self, context):
            pass

        def __call__(self, step, state):
            complete_runs.Cut.at = 0
            return {}

    class After(Asked):
        def __call__(self, step, state):
            reached.append(step)
            return {}

    for step in (4, STEPS):
        said = fit(config, tmp_path, evaluators=[Asked, After])
        assert said == (
            f'SIGTERM during the evaluation at step {step} of {STEPS}, saved; the same command goes on from there'
        )
        assert not any(line['step'] == step and 'eval/knn_top1' in line for line in lines(tmp_path))
        assert isinstance(fit(load('mocov2', 'jit', 'resident', data, steps=step), tmp_path), dict)
    assert reached == []
    whole = uninterrupted('mocov2', 'jit', 'resident')
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_a_damaged_checkpoint_costs_only_time(data, uninterrupted, tmp_path):
    """Back to an older one: the steps are trained, logged, evaluated and saved again, to the same bits."""
    config = load('mocov2', 'jit', 'resident', data)
    finish(config, tmp_path, 6)  # 6 and 8 are there
    for file in (tmp_path / FOLDER / '8').rglob('*'):
        if file.is_file():
            file.write_bytes(b'')
    assert isinstance(fit(config, tmp_path), dict)
    whole = uninterrupted('mocov2', 'jit', 'resident')
    assert digest(saved(config, tmp_path)[1]) == digest(saved(config, whole)[1])
    assert lines(tmp_path) == lines(whole)


def test_a_finished_run_stays_as_it_is(data, uninterrupted, capsys):
    workdir = uninterrupted('mocov2', 'jit', 'resident')
    config = load('mocov2', 'jit', 'resident', data)
    before = complete_runs.tree_digest(workdir)
    last = lines(workdir)[-1]
    again = fit(config, workdir)
    assert 'already complete at step 8 of 8' in capsys.readouterr().out
    assert complete_runs.tree_digest(workdir) == before
    assert again['eval/knn_top1'] == last['eval/knn_top1'] and 'baseline/knn_top1' in again


def test_more_steps(data, uninterrupted, tmp_path, capsys):
    """`steps` may grow: the run goes on, with the learning rate of the longer schedule from there, and says so.

    The schedule is half a cosine, constant within each epoch of 3 steps.
    """
    whole = lines(uninterrupted('mocov2', 'jit', 'resident'))
    short = load('mocov2', 'jit', 'resident', data, steps=4)
    fit(short, tmp_path)
    capsys.readouterr()
    fit(load('mocov2', 'jit', 'resident', data), tmp_path)
    said = capsys.readouterr().out
    assert 'going on at step 4' in said
    base = short.optimizer.learning_rate * (16 / b if (b := short.optimizer.learning_rate_batch) else 1)
    before, after = (base * (1 + np.cos(np.pi * 1 / (steps / 3))) / 2 for steps in (4, STEPS))
    assert 'the length changes from 4 to 8 steps, and the schedules with it' in said
    assert f'(learning rate {before:.4g} -> {after:.4g})' in said
    found = lines(tmp_path)
    assert [line['step'] for line in found if 'loss' in line] == [3, 4, 5, 6, 8]
    assert [line['step'] for line in found if 'eval/knn_top1' in line] == [0, 4, 8]
    rates = [[line['learning_rate'] for line in x if 'loss' in line and line['step'] > 4] for x in (found, whole)]
    assert rates[0] == rates[1]


def test_fewer_steps_than_are_trained(data, uninterrupted):
    """They are refused, also after a rollback to a later step; the config of the workdir stays as it is."""
    workdir = uninterrupted('mocov2', 'jit', 'resident')
    before = (workdir / CONFIG_FILE).read_bytes()
    for rollback in (None, 6):
        with pytest.raises(UserError, match=f'checkpoint of step {rollback or 8}, and the length given now is 4 steps'):
            checked_fit(load('mocov2', 'jit', 'resident', data, steps=4), str(workdir), rollback=rollback)
        assert (workdir / CONFIG_FILE).read_bytes() == before


def test_what_another_length_does_to_the_schedules():
    """At the end of a run of 40 steps that goes on to 80: the momentum of the target falls back from 1."""
    config = train_steps.load('byol:tiny', steps=40)
    long = train_steps.load('byol:tiny', steps=80)
    before, now = (build_run(c, 640).plan(40) for c in (config, long))
    momentum = 1 - (1 - long.method.momentum) * (1 + np.cos(np.pi / 2)) / 2
    assert before['momentum of the target'] == 1 and before['steps'] == 40
    assert now['momentum of the target'] == pytest.approx(momentum)
    said = differing_plan(40, before, now)
    assert said.startswith('the length changes from 40 to 80 steps') and f'target 1 -> {momentum:.4g}' in said
    assert differing_plan(40, {'steps': 40}, now).endswith('from step 40 on they are those of a run of 80 steps')
    assert differing_plan(40, {}, now) == differing_plan(40, now, now) == ''


def test_another_length_changes_the_weight_decay_of_dino():
    """DINO's weight decay goes from 0.04 to 0.4 along a cosine: half of the way in the middle of a longer run."""
    before, now = (build_run(train_steps.load('dino:tiny', steps=steps), 640).plan(40) for steps in (40, 80))
    assert before['weight decay'] == pytest.approx(0.4) and now['weight decay'] == pytest.approx(0.22)
    assert 'weight decay 0.4 -> 0.22' in differing_plan(40, before, now)
    assert 'weight decay' not in build_run(train_steps.load('byol:tiny', steps=40), 640).plan(40), 'it is constant'


def test_a_torn_last_line(data, uninterrupted, tmp_path):
    """A machine that loses power may lose the end of the log: what is whole stays, what follows is added."""
    config = load('mocov2', 'jit', 'resident', data)
    fit(config, tmp_path, at=5)
    file = tmp_path / 'metrics.jsonl'
    file.write_bytes(file.read_bytes()[:-30])
    fit(config, tmp_path)
    whole = lines(uninterrupted('mocov2', 'jit', 'resident'))
    assert [line for line in whole if line not in lines(tmp_path)] == [line for line in whole if line['step'] == 5]


# ================================ other devices ================================


OTHER_DEVICES = [
    ('mocov2', 'jit', 'resident', (('jit', 1, 3), ('pmap', 4, 4), ('jit', 2, None))),
    ('dictionary,memory_bank', 'pmap', 'stream', (('pmap', 2, 4), ('jit', 4, None))),
]


@pytest.mark.parametrize(('name', 'mode', 'source', 'parts'), OTHER_DEVICES)
def test_on_other_devices_and_modes(name, mode, source, parts, data, uninterrupted, order, tmp_path):
    """The same examples, the same queue or bank, the same training but for rounding."""
    whole = uninterrupted(name, mode, source)
    order.clear()
    for part_mode, count, step in parts:
        fit(config := load(name, part_mode, source, data), tmp_path, count, step)
    np.testing.assert_array_equal(np.stack(order), ORDER)
    state, expected = saved(config, tmp_path)[1], saved(config, whole)[1]
    assert train_steps.relative_error(state, expected) < 1e-5
    assert train_steps.relative_error(state.method.memory, expected.method.memory) < 1e-5
    for line, other in zip(lines(tmp_path), lines(whole), strict=True):
        assert line['step'] == other['step'] and line.keys() == other.keys()
        assert line.get('loss', 0.0) == pytest.approx(other.get('loss', 0.0), rel=1e-5)


# ================================ many steps in a call ================================


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_a_compiled_loop_of_many_steps(mode, data, monkeypatch):
    """The form that runs on accelerators: the same bits however it is cut, and the steps that single calls make."""
    config = load('mocov2', mode, 'resident', data)
    source, _ = load_data(config)
    run = build_run(config, len(source))
    devices = find_devices(mode, 2)

    def trained(max_steps: int, *cuts: int):
        with monkeypatch.context() as patch:
            patch.setattr(feed.jax, 'default_backend', lambda: 'gpu')
            resident = feed.ResidentFeed(run, devices, source, max_steps)
        state, sums = train_steps.start(run, devices), []
        for start, stop in zip((0, *cuts), (*cuts, STEPS), strict=True):
            state, metrics = resident.advance(state, start, stop)
            sums += [devices.fetch(m) for m in metrics]
        assert sum(m['steps'] for m in sums) == STEPS
        loss = sum(m['loss'] for m in sums)
        return jax.device_get(devices.collect(state, run.state_specs)), loss

    whole, loss = trained(5)
    for cuts in ((3, 5), (1, 2, 7)):
        again, other = trained(5, *cuts)
        assert digest(again) == digest(whole)
        np.testing.assert_allclose(other, loss, rtol=1e-6)
    single, other = trained(1)
    assert train_steps.relative_error(whole, single) < 1e-6
    np.testing.assert_allclose(other, loss, rtol=1e-5)


# ================================ real signals ================================


def test_kill_and_sigterm(data, children, tmp_path):
    """kill -9 loses the steps since the last checkpoint, SIGTERM none: three starts of one command are one run."""
    # Saving slows the run down: the signals come long before its end.
    changes = {'steps': 60, 'log_every_steps': 1, 'eval_every_steps': 0, 'checkpoint_every_steps': 4}
    changes |= {'data.source': 'npz', 'data.path': str(data / 'digits.npz'), 'data.name': ''}
    config = tiny_config('mocov2', **changes)
    # Rounding depends on how many devices share the threads of a machine, used or not: 8, as in conftest.py.
    fit(config, tmp_path / 'whole', 8)
    overrides = [f'--config.{field}={value}' for field, value in changes.items()]
    workdir = tmp_path / 'interrupted'

    def start():
        children.append(complete_runs.start('mocov2', workdir, *overrides, devices=8))
        return children[-1]

    killed = start()
    complete_runs.wait_for_step(workdir, 15, killed)
    killed.send_signal(signal.SIGKILL)
    assert complete_runs.ended(killed)[0] == -signal.SIGKILL
    reached = max(line['step'] for line in lines(workdir))

    stopped = start()
    complete_runs.wait_until(
        lambda: 'going on at step ' in stopped.streams[0].read_text(), lambda: stopped.poll() is None
    )
    complete_runs.wait_for_step(workdir, reached + 3, stopped)
    stopped.send_signal(signal.SIGTERM)
    code, out, err = complete_runs.ended(stopped)
    assert (code, err) == (42, '')
    assert reached - 12 < int(out.split('going on at step ')[1].split()[0]) <= reached, 'at most two intervals are lost'
    step = out.split('contrastive_jax: SIGTERM at step ')[1].split()[0]
    last = f'contrastive_jax: SIGTERM at step {step} of 60, saved; the same command goes on from there'
    assert out.splitlines()[-1] == last
    assert (workdir / FOLDER / step).is_dir()

    code, out, err = complete_runs.ended(start())
    assert (code, err) == (0, '')
    assert f'going on at step {step}' in out
    assert lines(workdir) == lines(tmp_path / 'whole')
    assert digest(saved(config, workdir)[1]) == digest(saved(config, tmp_path / 'whole')[1])
