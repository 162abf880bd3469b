"""Checkpoints alone: what is saved comes back, on any devices, whatever happens to the files."""

import dataclasses
import hashlib
import json
import resource
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contrastive_jax.distributed.devices import REPLICATED, find_devices
from contrastive_jax.errors import CheckpointError, NumericalError, UserError
from contrastive_jax.methods import MethodState, memory
from contrastive_jax.training.finite import Dropped
from contrastive_jax.training.run import TrainState
from contrastive_jax.workdir import checkpoint
from contrastive_jax.workdir.checkpoint import Checkpoints
from contrastive_jax.workdir.checksum import checksum
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.reading import read_part

# A read that Orbax gives up may end after its event loop: it is what pytest makes of this that is ignored.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

R = REPLICATED
SPECS = TrainState(R, R, R, method=MethodState(R, R, {'queue': memory.QUEUE_SPEC}), dropped=R)


def make_state(step: int, width: int = 6) -> TrainState:
    """A state of the form of a real one, in the global layout; its values follow from the step."""
    rng = np.random.default_rng(step)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {'encoder': {'conv1': {'kernel': draw(3, 3, 3, width)}}, 'projector': {'bias': draw(width)}}
    return TrainState(
        step=np.int32(step),
        params=params,
        opt_state=(optax.EmptyState(), optax.TraceState(jax.tree.map(lambda x: draw(*x.shape), params))),
        method=MethodState(
            target=jax.tree.map(lambda x: draw(*x.shape), params),
            batch_stats={'online': {}, 'target': {}},
            memory={'queue': {'keys': draw(4, 16, 64), 'slot': np.int32(step % 4)}},
        ),
    )


def shapes(width: int = 6) -> TrainState:
    return jax.eval_shape(lambda: make_state(0, width))


class Run:
    """The checkpoints of a folder, on some devices, given and taken as numpy in the global layout."""

    def __init__(
        self, workdir: Path, mode: str = 'jit', count: int = 1, width: int = 6, keep: int = 2, keep_every: int = 0
    ):
        self.devices = find_devices(mode, count)
        self.checkpoints = Checkpoints(workdir, self.devices, SPECS, keep=keep, keep_every=keep_every)
        self.width = width

    def save(self, step: int) -> None:
        self.checkpoints.save(step, self.devices.place(make_state(step, self.width), SPECS), shapes=shapes(self.width))
        self.checkpoints.wait()

    def restore(self) -> tuple[int, TrainState] | None:
        found = self.checkpoints.restore(shapes(self.width))
        return found and (found.step, jax.device_get(self.devices.collect(found.state, SPECS, shapes(self.width))))


def assert_restores(run: Run, step: int) -> None:
    found = run.restore()
    assert found is not None and found[0] == step
    jax.tree.map(np.testing.assert_array_equal, found[1], make_state(step, run.width))


@pytest.fixture(scope='module')
def two(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 3 and 6; copied, never changed."""
    workdir = tmp_path_factory.mktemp('two')
    run = Run(workdir)
    run.save(3)
    run.save(6)
    run.checkpoints.close()
    return workdir


@pytest.fixture
def workdir(two, tmp_path) -> Path:
    shutil.copytree(two / FOLDER, tmp_path / FOLDER)
    return tmp_path


def files(workdir: Path, step: int) -> list[Path]:
    return sorted(p for p in (workdir / FOLDER / str(step)).rglob('*') if p.is_file())


LAYOUTS = [(('jit', 8), ('jit', 1)), (('jit', 2), ('jit', 4)), (('jit', 4), ('pmap', 8)), (('pmap', 4), ('jit', 2)),
           (('pmap', 8), ('pmap', 2)), (('jit', 4), ('jit', 3)), (('pmap', 3), ('jit', 5))]  # fmt: skip


@pytest.mark.parametrize(('before', 'after'), LAYOUTS)
def test_a_checkpoint_fits_any_devices(before, after, tmp_path):
    Run(tmp_path, *before).save(5)
    run = Run(tmp_path, *after)
    assert_restores(run, 5)
    state = run.checkpoints.restore(shapes()).state
    keys = state.method.memory['queue']['keys'].addressable_shards
    assert len(keys) == after[1]
    assert keys[0].data.size == 4 * -(-16 // after[1]) * 64, 'a device holds its part of the queue only'


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path):
    assert Run(tmp_path).restore() is None


def test_two_are_kept_and_others_files_stay(tmp_path):
    run = Run(tmp_path)
    (tmp_path / FOLDER / 'notes.txt').write_text('mine')
    (tmp_path / FOLDER / 'best').mkdir()
    for step in (2, 4, 6, 6, 8):
        run.save(step)
    assert run.checkpoints.steps == [6, 8]
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == ['6', '8', 'best', 'notes.txt']


def test_metrics_not_yet_logged_travel_along(tmp_path):
    run = Run(tmp_path)
    sums = {'loss': 1 / 3 + 2.0**-40, 'steps': 2.0}
    run.checkpoints.save(1, run.devices.place(make_state(1), SPECS), sums)
    run.checkpoints.close()
    run = Run(tmp_path)
    assert run.checkpoints.restore(shapes()).unlogged == sums


@pytest.mark.parametrize('mode', ['jit', 'pmap'])
def test_the_state_may_be_donated_right_after(mode, tmp_path):
    run = Run(tmp_path, mode, 4)
    ruin = run.devices.run(
        lambda state: jax.tree.map(lambda x: (x * 0 - 1).astype(x.dtype), state), (SPECS,), SPECS, donate=(0,)
    )
    compiled = ruin(run.devices.place(make_state(1), SPECS))  # compiling here would give the save all the time it needs
    state = run.devices.place(make_state(7), SPECS)
    run.checkpoints.save(7, state)
    for _ in range(20):
        state = ruin(state)
    jax.block_until_ready((state, compiled))
    run.checkpoints.close()
    assert_restores(Run(tmp_path, mode, 4), 7)


# ================================ damage ================================


def flip(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


DAMAGE = {
    'deleted': None,
    'emptied': lambda data, rng: b'',
    'truncated': lambda data, rng: data[: len(data) // 2],
    'garbage': lambda data, rng: rng.bytes(len(data)),
    'zeros': lambda data, rng: bytes(len(data)),
}


def check_survives(workdir: Path, what: str, caplog) -> bool:
    """The newest checkpoint, exactly, or with a warning the older one. Returns whether it fell back."""
    caplog.clear()
    run = Run(workdir)
    found = run.restore()
    assert found is not None, what
    step, state = found
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, err_msg=what), state, make_state(step))
    warned = [r.getMessage() for r in caplog.records if 'set aside' in r.getMessage()]
    assert len(warned) == (step == 3), (what, caplog.text)
    if step == 3:
        assert 'step 6' in warned[0] and str(workdir / FOLDER / '6.damaged') in warned[0]
        assert '\n' not in warned[0]
    run.checkpoints.close()
    return step == 3


@pytest.mark.parametrize('kind', DAMAGE)
def test_any_damaged_file_falls_back(kind, two, tmp_path, rng, caplog):
    fell_back = []
    for i, file in enumerate(files(two, 6)):
        workdir = tmp_path / str(i)
        shutil.copytree(two / FOLDER, workdir / FOLDER)
        target = workdir / file.relative_to(two)
        if DAMAGE[kind] is None:
            target.unlink()
        else:
            target.write_bytes(DAMAGE[kind](target.read_bytes(), rng))
        name = str(file.relative_to(two / FOLDER / '6'))
        if check_survives(workdir, f'{kind} {name}', caplog):
            fell_back.append(name)
    # The checksum and the arrays are what a checkpoint cannot do without; of Orbax's other files some are spare.
    assert '_CHECKPOINT_METADATA' in fell_back
    assert any('/d/' in name for name in fell_back)


def test_a_flipped_bit_in_the_arrays_is_found(two, tmp_path, rng, caplog):
    """Orbax alone gives nearly all of these back as if they were right."""
    file = max(files(two, 6), key=lambda file: file.stat().st_size)
    found = 0
    for i in range(12):
        workdir = tmp_path / str(i)
        shutil.copytree(two / FOLDER, workdir / FOLDER)
        data, position, bit = file.read_bytes(), int(rng.integers(file.stat().st_size)), int(rng.integers(8))
        (workdir / file.relative_to(two)).write_bytes(flip(data, position, bit))
        found += check_survives(workdir, f'bit {bit} of byte {position} of {file.name}', caplog)
    assert found > 9, 'nearly all of this file is values'


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16, np.int32, np.uint8])
def test_a_checksum_tells_apart(dtype):
    """One changed element, two swapped ones, and another order of the same values."""
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    others = [x.copy() for _ in range(3)]
    others[0][1, 2, 3] += 1
    others[1][0, 0, 1], others[1][1, 0, 0] = x[1, 0, 0], x[0, 0, 1]
    others[2] = np.ascontiguousarray(x[::-1])
    sums = [int(checksum(jnp.asarray(y), jnp)) for y in (x, *others)]
    assert len(set(sums)) == 4
    assert [int(checksum(y, np)) for y in (x, *others)] == sums
    scalar = np.asarray(x[0, 0, 3])
    assert int(checksum(scalar, np)) == int(checksum(jnp.asarray(scalar), jnp))


def test_an_empty_or_foreign_folder_in_place_of_the_newest(workdir, caplog):
    shutil.rmtree(workdir / FOLDER / '6')
    (workdir / FOLDER / '6').mkdir()
    assert check_survives(workdir, 'empty', caplog)


def test_a_damaged_step_is_saved_again(workdir):
    """Training goes on from the older one, passes the steps again, and saves the damaged one anew."""
    for file in files(workdir, 6):
        file.write_bytes(b'')
    run = Run(workdir)
    assert_restores(run, 3)
    assert run.checkpoints.steps == [3]
    for step in (5, 6):
        run.save(step)
    assert run.checkpoints.steps == [5, 6]
    run.checkpoints.close()
    run = Run(workdir)
    assert_restores(run, 6)
    assert (workdir / FOLDER / '6.damaged').is_dir(), 'nothing is deleted that a person might still want'


def test_damaged_twice(workdir):
    for name in ('6.damaged', '6.damaged.1'):
        for file in files(workdir, 6):
            file.write_bytes(b'')
        run = Run(workdir)
        assert_restores(run, 3)
        assert (workdir / FOLDER / name).is_dir()
        run.save(6)
        run.checkpoints.close()


def test_all_damaged_is_an_error_and_nothing_moves(workdir):
    for step in (3, 6):
        for file in files(workdir, step):
            file.write_bytes(b'')
    for _ in range(2):  # a second try must not start from scratch either
        with pytest.raises(CheckpointError, match=r'no checkpoint .* can be used .*step 6: .*step 3: .* -> ') as caught:
            Run(workdir).restore()
        assert caught.value.exit_code == 5
        assert '\n' not in str(caught.value)
    assert sorted(p.name for p in (workdir / FOLDER).iterdir()) == ['3', '6']


def test_another_architecture_is_named(workdir):
    with pytest.raises(CheckpointError) as caught:
        Run(workdir, width=8).restore()
    message = str(caught.value)
    assert 'holds another model' in message and '\n' not in message and len(message) < 1500
    assert 'params/encoder/conv1/kernel is float32[3, 3, 3, 6] there and float32[3, 3, 3, 8] here' in message
    assert 'and 1 more' in message
    assert sorted(p.name for p in (workdir / FOLDER).iterdir()) == ['3', '6']


def test_missing_and_surplus_leaves_are_named(workdir):
    params = {'encoder': shapes().params['encoder'], 'predictor': {'bias': jax.ShapeDtypeStruct((2,), np.float32)}}
    with pytest.raises(CheckpointError) as caught:
        Run(workdir).checkpoints.restore(shapes().replace(params=params))
    assert 'params/predictor/bias is missing there and float32[2] here' in str(caught.value)
    assert 'params/projector/bias is float32[6] there and missing here' in str(caught.value)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    run = Run(tmp_path)
    run.save(1)
    state = make_state(2)
    state.params['projector']['bias'][3] = np.nan
    state.method.memory['queue']['keys'][0, 0, 0] = np.inf
    with pytest.raises(NumericalError) as caught:
        run.checkpoints.save(2, run.devices.place(state, SPECS))
        run.checkpoints.wait()
    assert 'params/projector/bias, method/memory/queue/keys' in str(caught.value)
    assert run.checkpoints.steps == [1]


def test_a_save_does_not_hold_the_loop(tmp_path, caplog, monkeypatch):
    """It returns before Orbax has the state; the next one waits for it, and a disk that is slow is named."""
    run, free, saved = Run(tmp_path), threading.Event(), list[int]()
    monkeypatch.setattr(checkpoint, 'SLOW_S', 0.01)
    monkeypatch.setattr(run.checkpoints._manager, 'save', lambda step, **_: free.wait(60) and not saved.append(step))
    run.checkpoints.save(3, run.devices.place(make_state(3), SPECS))
    assert saved == []
    threading.Timer(0.1, free.set).start()
    run.checkpoints.save(6, run.devices.place(make_state(6), SPECS))
    assert saved[:1] == [3]
    assert 'the disk is slow: step 6 has waited 0 s for the checkpoint before it -> save less often' in caplog.text
    run.checkpoints.close()
    assert saved == [3, 6]


# ================================ kills and disks ================================


def test_leftovers_of_a_killed_save_are_swept(workdir):
    folder = workdir / FOLDER
    shutil.copytree(folder / '6', folder / '9.orbax-checkpoint-tmp')
    shutil.copytree(folder / '6' / 'default', folder / '9.orbax-checkpoint-tmp' / 'default.orbax-checkpoint-tmp')
    shutil.copytree(folder / '3', folder / '6.orbax-checkpoint-tmp')
    run = Run(workdir)
    assert_restores(run, 6)
    run.save(9)
    assert_restores(run, 9)
    run.checkpoints.close()
    assert sorted(p.name for p in folder.iterdir()) == ['6', '9']


def test_a_kill_while_the_old_one_is_deleted(workdir):
    for file in files(workdir, 3)[::2]:
        file.unlink()
    run = Run(workdir)
    assert_restores(run, 6)
    run.save(9)
    assert run.checkpoints.steps == [6, 9]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / FOLDER).write_text('a file')
    with pytest.raises(UserError, match=r'cannot write checkpoints to .* -> choose another workdir'):
        Run(tmp_path)


@pytest.fixture
def file_limit():
    """Files of this process end at 256 KiB, as if the disk were full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full(tmp_path, file_limit):
    """Arrays are written in the background: the error comes at the latest when the run waits for them."""
    run = Run(tmp_path)
    run.save(3)
    large = Run(tmp_path, width=20_000)
    with pytest.raises(
        CheckpointError, match=r'cannot write a checkpoint to .*it needs .* and free are .* -> make room'
    ) as caught:
        large.save(6)
    assert '\n' not in str(caught.value) and caught.value.exit_code == 5
    file_limit()
    run = Run(tmp_path)
    assert_restores(run, 3)
    run.save(6)
    assert_restores(run, 6)
    run.checkpoints.close()
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == ['3', '6']


def test_a_disk_that_is_gone(workdir):
    run = Run(workdir)
    assert_restores(run, 6)
    shutil.move(workdir / FOLDER, workdir / 'elsewhere')
    (workdir / FOLDER).write_text('in the way')
    with pytest.raises(CheckpointError, match=r'cannot write a checkpoint to .* -> ') as caught:
        run.save(9)
    assert '\n' not in str(caught.value) and caught.value.exit_code == 5
    (workdir / FOLDER).unlink()
    shutil.move(workdir / 'elsewhere', workdir / FOLDER)
    assert_restores(Run(workdir), 6)


def test_a_folder_under_another_step_is_not_taken_for_it(workdir, caplog):
    """Copied over another step's, or renamed to a later one: its values are whole, and of another step."""
    shutil.copytree(workdir / FOLDER / '3', workdir / FOLDER / '9')
    shutil.rmtree(workdir / FOLDER / '6')
    shutil.copytree(workdir / FOLDER / '3', workdir / FOLDER / '6')
    part = read_part(workdir, {'params': shapes().params}, ('params',))
    assert part[0] == 3
    assert_restores(Run(workdir), 3)
    assert 'step 9 cannot be used (it was written as step 3)' in caplog.text
    assert {'3', '6.damaged', '9.damaged'} <= {p.name for p in (workdir / FOLDER).iterdir()}


def test_a_checkpoint_of_another_run_is_not_taken_for_its_own(two, tmp_path, caplog):
    """Another run has arrays of the same names, shapes and types: only the id tells them apart."""
    run = Run(tmp_path / 'mine')
    run.save(2)
    run.checkpoints.close()
    shutil.copytree(two / FOLDER / '6', tmp_path / 'mine' / FOLDER / '6')
    assert read_part(tmp_path / 'mine', {'params': shapes().params}, ('params',))[0] == 2
    assert_restores(Run(tmp_path / 'mine'), 2)
    assert 'step 6 cannot be used (it belongs to another run' in caplog.text
    shutil.rmtree(tmp_path / 'mine' / FOLDER / '2')
    (tmp_path / 'mine' / FOLDER / '6.damaged').rename(tmp_path / 'mine' / FOLDER / '6')
    with pytest.raises(CheckpointError, match='it belongs to another run'):
        read_part(tmp_path / 'mine', {'params': shapes().params}, ('params',))
    with pytest.raises(CheckpointError, match='it belongs to another run'):
        Run(tmp_path / 'mine').restore()


def test_a_copy_of_a_whole_workdir_is_the_same_run(two, tmp_path):
    shutil.copytree(two, tmp_path / 'copy')
    run = Run(tmp_path / 'copy')
    assert_restores(run, 6)
    run.save(9)
    assert (tmp_path / 'copy' / 'run.json').read_bytes() == (two / 'run.json').read_bytes()


def test_a_lost_run_file_is_made_again_from_the_checkpoints(two, workdir, tmp_path_factory):
    """Unless they disagree: then nobody knows which of them belong to this run."""
    assert read_part(workdir, {'params': shapes().params}, ('params',))[0] == 6
    assert_restores(Run(workdir), 6)
    assert (workdir / 'run.json').read_bytes() == (two / 'run.json').read_bytes()
    other = tmp_path_factory.mktemp('other')
    run = Run(other)
    run.save(9)
    run.checkpoints.close()
    shutil.copytree(other / FOLDER / '9', workdir / FOLDER / '9')
    (workdir / 'run.json').unlink()
    for read in (lambda: Run(workdir), lambda: read_part(workdir, {'params': shapes().params}, ('params',))):
        with pytest.raises(CheckpointError, match=r'belong to different runs \(step 3: run .*step 9: run .*run.json'):
            read()
    (workdir / 'run.json').write_text('[]')
    with pytest.raises(UserError, match=r'run\.json cannot be read'):
        Run(workdir)


@pytest.mark.parametrize('field', ['step', 'run'])
def test_run_and_step_are_under_the_checksum(field, workdir, caplog):
    """A note that was changed to fit another place is found."""
    Run(workdir).checkpoints.close()
    file = workdir / FOLDER / '6' / '_CHECKPOINT_METADATA'
    metadata = json.loads(file.read_text())
    if field == 'step':
        metadata['custom_metadata']['step'] = 9
        (workdir / FOLDER / '6').rename(workdir / FOLDER / '9')
        file = workdir / FOLDER / '9' / '_CHECKPOINT_METADATA'
    else:
        del metadata['custom_metadata']['run']
    file.write_text(json.dumps(metadata))
    if field == 'step':
        assert read_part(workdir, {'params': shapes().params}, ('params',))[0] == 3
    assert_restores(Run(workdir), 3)
    assert 'do not match their checksum' in caplog.text


def test_checkpoints_of_an_older_version_go_on(workdir):
    """Their notes have neither run nor step, and a checksum of the values alone; the next start makes an id."""
    for step in (3, 6):
        file = workdir / FOLDER / str(step) / '_CHECKPOINT_METADATA'
        metadata = json.loads(file.read_text())
        note = metadata['custom_metadata']
        del note['run'], note['step']
        sums = np.array(list(note['leaves'].values()), '<u4')
        note['checksum'] = hashlib.sha256(sums.tobytes()).hexdigest()
        file.write_text(json.dumps(metadata))
    assert read_part(workdir, {'params': shapes().params}, ('params',))[0] == 6
    run = Run(workdir)
    assert_restores(run, 6)
    run.save(9)
    run.checkpoints.close()
    assert json.loads((workdir / 'run.json').read_text())['id']
    assert_restores(Run(workdir), 9)


def test_a_field_that_older_checkpoints_lack_starts_at_zero(workdir):
    given = dataclasses.replace(shapes(), dropped=jax.eval_shape(Dropped.none))
    found = Run(workdir).checkpoints.restore(given)
    assert found.step == 6 and jax.tree.leaves(jax.device_get(found.state.dropped)) == [0, 0, 0, 0]
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(found.state, dropped=None), make_state(6))
