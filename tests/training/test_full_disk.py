"""A run whose disk becomes full ends with what it needs and what is free; with room it goes on to the same bits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from contrastive_jax.errors import DiskFullError, UserError
from contrastive_jax.training.evaluators import Context, Evaluator, Pictures
from contrastive_jax.workdir.described import FOLDER
from tests import complete_runs, small_disks
from tests.complete_runs import digest, fit, lines, saved, tiny_config

pytestmark = pytest.mark.usefixtures('quick_runs')

SIZE = 40_000_000


@pytest.fixture
def config(tmp_path: Path):
    path = complete_runs.write_npz(tmp_path / 'data.npz', 32)
    changes = {'data.source': 'npz', 'data.path': str(path), 'data.name': '', 'steps': 4, 'log_every_steps': 1}
    config = tiny_config('mocov2', **changes, eval_every_steps=2, checkpoint_every_steps=1)
    config.eval.evaluators = ('signals',)
    return config


def filling(use: Callable[[Path], object]) -> type[Evaluator]:
    """An evaluator that fills the disk when step 2 is saved."""

    class Fill(Evaluator):
        name, at_start, every_steps = 'fill', False, 2

        def __init__(self, context: Context):
            del context

        def __call__(self, step, state):
            return {}

        def draw(self, step, workdir):
            if step == 2:
                complete_runs.wait_until((workdir / FOLDER / '2').exists, lambda: True)
                use(workdir.parent)
            return {}

    return Fill


@pytest.mark.parametrize('what', ['checkpoint', 'metrics', 'picture', 'files'])
def test_a_disk_that_becomes_full(what, config, tmp_path):
    """While a checkpoint, a line of metrics or a picture is written; or no more files can be made."""
    fit(config, tmp_path / 'whole', 1, evaluators=[Pictures])
    fillers: list[Path] = []

    def use(disk: Path) -> None:
        left = 150_000 if what == 'checkpoint' else 0
        fillers.append(small_disks.use_files(disk, 3) if what == 'files' else small_disks.fill(disk, left))

    with small_disks.mounted(tmp_path / 'disk', SIZE, 1000) as disk:
        workdir, fill = disk / 'run', filling(use)
        with pytest.raises(UserError, match=r'No space left on device.* free are') as error:
            fit(config, workdir, 1, evaluators=[fill, Pictures] if what == 'picture' else [Pictures, fill])
        assert error.value.exit_code == 5 and 'make room' in error.value.remedy
        assert ('.png' in str(error.value)) == (what == 'picture') and ('metrics' in str(error.value)) == (
            what == 'metrics'
        )
        assert max(int(x.name) for x in (workdir / FOLDER).iterdir()) == 2
        with pytest.raises(DiskFullError, match=r'is full: a checkpoint needs .* and free are .* -> make room'):
            fit(config, workdir, 1)
        small_disks.make_room(fillers[0])
        assert isinstance(fit(config, workdir, 1, evaluators=[Pictures]), dict)
        assert digest(saved(config, workdir)[1]) == digest(saved(config, tmp_path / 'whole')[1])
        assert lines(workdir) == lines(tmp_path / 'whole')
        assert {x.name for x in workdir.glob('*.png')} == {x.name for x in (tmp_path / 'whole').glob('*.png')}
