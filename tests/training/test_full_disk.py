"""A run whose disk becomes full ends with what it needs and what is free; with room it goes on to the same bits."""

import pytest

from contrastive_jax.errors import DiskFullError, UserError
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.workdir.described import FOLDER
from tests import complete_runs, small_disks
from tests.complete_runs import digest, fit, lines, saved, tiny_config


class Fill(Evaluator):
    """Leaves room for half a checkpoint after step 2 is saved."""

    name, at_start, every_steps = 'fill', False, 2

    def __init__(self, context):
        pass

    def __call__(self, step, state):
        return {}

    def draw(self, step, workdir):
        saved_at = workdir / FOLDER / '2'
        if step == 2:
            complete_runs.wait_until(saved_at.exists, lambda: True)
            size = sum(file.stat().st_size for file in saved_at.rglob('*'))
            small_disks.fill(workdir.parent, size // 2)
        return {}


def test_a_disk_that_becomes_full(tmp_path):
    path = complete_runs.write_npz(tmp_path / 'data.npz', 32)
    fields = {'data.source': 'npz', 'data.path': str(path), 'data.name': '', 'steps': 4, 'log_every_steps': 1}
    config = tiny_config('mocov2', **fields, eval_every_steps=0, checkpoint_every_steps=1)
    config.eval.evaluators = ()
    fit(config, tmp_path / 'whole', 1)
    with small_disks.mounted(tmp_path / 'disk', 40_000_000) as disk:
        workdir = disk / 'run'
        with pytest.raises(UserError, match=r'No space left on device.*it needs .* and free are .* -> make room') as e:
            fit(config, workdir, 1, evaluators=[Fill])
        assert e.value.exit_code == 5 and e.value.remedy.endswith('goes on from step 2')
        with pytest.raises(DiskFullError, match=r'is full: a checkpoint needs .* and free are .* -> make room'):
            fit(config, workdir, 1)
        assert max(int(x.name) for x in (workdir / FOLDER).iterdir()) == 2
        (disk / 'filler').unlink()
        assert isinstance(fit(config, workdir, 1), dict)
        assert digest(saved(config, workdir)[1]) == digest(saved(config, tmp_path / 'whole')[1])
        assert lines(workdir) == lines(tmp_path / 'whole')
