"""A training and an evaluation hold the lock of their workdir, from before they read data until they end."""

import pytest

from contrastive_jax.errors import BusyError, DataError
from contrastive_jax.protocols.run import run_protocol
from contrastive_jax.training.fit import fit
from contrastive_jax.workdir.lock import FILE, Lock
from tests import untrained_workdirs
from tests.complete_runs import tiny_config
from tests.protocols.test_run import load as protocol


def test_a_training_ends_at_once(tmp_path, nothing_compiled):
    with Lock(tmp_path / 'run'), pytest.raises(BusyError, match='is in use by process'):
        fit(tiny_config('mocov2', **{'data.source': 'npz', 'data.path': 'missing.npz'}), str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def test_without_data_nothing_stays(tmp_path):
    with pytest.raises(DataError):
        fit(tiny_config('mocov2', **{'data.source': 'npz', 'data.path': 'missing.npz'}), str(tmp_path / 'run'))
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_ends_at_once_and_leaves_no_lock(tmp_path):
    untrained_workdirs.save(tiny_config('mocov2'), tmp_path / 'run')
    config = protocol('knn:digits', init=str(tmp_path / 'run'))
    with Lock(tmp_path / 'knn'), pytest.raises(BusyError, match='is in use by process'):
        run_protocol(config, str(tmp_path / 'knn'))
    run_protocol(config, str(tmp_path / 'knn'))
    assert (tmp_path / 'knn' / 'eval' / 'knn.json').exists() and not (tmp_path / 'knn' / FILE).exists()
