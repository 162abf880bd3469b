"""Staleness: if the key encoder does not change, entries are those that it writes now; otherwise they differ."""

from pathlib import Path

import numpy as np
import pytest

from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.report import staleness
from contrastive_jax.training.build import build_run
from contrastive_jax.workdir.checkpoint import Checkpoints
from contrastive_jax.workdir.folder import open_workdir
from tests import train_steps
from tests.tiny_configs import get_config

STEPS = 5


def trained(name: str, workdir: Path, **changes: object) -> staleness.Staleness | None:
    """Trains on one device, saves a checkpoint, and measures its staleness on two devices."""
    config = get_config(name)
    config.update_from_flattened_dict({'steps': 9, **changes})
    run, source = train_steps.build(config)
    state, _ = train_steps.steps(run, source, find_devices('jit', 1), STEPS)
    devices = find_devices('jit', 2)
    checkpoints = Checkpoints(open_workdir(str(workdir), config), devices, run.state_specs)
    checkpoints.save(STEPS, devices.place(state, run.state_specs))
    checkpoints.close()
    return staleness.measure(workdir, run, source, devices, on_device=config.data.on_device)


@pytest.mark.parametrize(
    ('name', 'changes', 'ages'),
    [
        ('mocov2,symmetric', {'method.momentum': 1.0, 'method.queue_size': 128}, 4),
        ('swav,queue', {'optimizer.learning_rate': 0.0, 'method.queue_size': 32}, 2),
        ('cmc', {'optimizer.learning_rate': 0.0, 'method.momentum': 0.0}, 5),
    ],
)
def test_keys_of_a_constant_encoder_are_not_stale(
    name: str, changes: dict[str, object], ages: int, tmp_path: Path
) -> None:
    """Views, order, shuffling and positions in the memory of each step are replayed, on another number of devices."""
    found = trained(name, tmp_path, **changes)
    assert found is not None
    np.testing.assert_allclose(found.same, 1, atol=1e-4)
    assert max(found.other) < 0.999, 'entries of different images differ'
    assert found.ages == list(range(ages)) and found.oldest == ages - 1


def test_keys_of_a_changing_encoder_become_stale(tmp_path: Path) -> None:
    found = trained(
        'mocov2', tmp_path, **{'method.momentum': 0.5, 'optimizer.learning_rate': 1.0, 'method.queue_size': 64}
    )
    assert found is not None and found.kind == 'queue' and found.entries == 64
    assert found.same[0] == pytest.approx(1, abs=1e-5), 'the last keys were encoded by the current encoder'
    assert found.same[-1] < 0.999 and found.ages == [0, 1, 2, 3]


def test_a_method_without_a_dictionary(tmp_path: Path) -> None:
    assert trained('simsiam', tmp_path) is None


@pytest.mark.parametrize(('now', 'steps'), [(0, []), (1, [0]), (3, [0, 1, 2]), (70, [*range(66, 70)])])
def test_the_steps_that_a_queue_holds(now: int, steps: list[int]) -> None:
    config = get_config('mocov2')
    config.method.queue_size = 64
    run = build_run(config, 100)
    held = {'queue': {'keys': np.zeros((4, 16, 8))}}
    assert staleness.steps_to_replay(now, 'queue', held, run).tolist() == steps
    two_batches = build_run(get_config('simclrv2,memory'), 100)  # two batches of keys a step
    assert staleness.steps_to_replay(70, 'queue', held, two_batches).tolist() == [68, 69]
    long = {'queue': {'keys': np.zeros((400, 16, 8))}}
    spread = staleness.steps_to_replay(1000, 'queue', long, run)
    assert len(spread) == staleness.NUM_AGES and (spread[0], spread[-1]) == (600, 999)
    assert staleness.steps_to_replay(15, 'bank', {'bank': 0}, run).tolist() == [12, 13, 14], (
        'steps of the third epoch, which has six steps'
    )
    assert staleness.steps_to_replay(12, 'bank', {'bank': 0}, run).tolist() == [6, 7, 8, 9, 10, 11]
