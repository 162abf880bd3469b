"""Whether the disk has room for the checkpoints of a run: looked at before anything is trained."""

import math
from pathlib import Path

import jax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import DiskFullError
from contrastive_jax.training.best import BestBy
from contrastive_jax.training.run import Run
from contrastive_jax.workdir import disk
from contrastive_jax.workdir.disk import in_bytes

NEWEST = 3  # the newest two, and the one that is being written
FILES = 64  # files and folders of a checkpoint: 25 to 40, more from several hosts


def check_room(shapes: PyTree, workdir: Path) -> None:
    """Makes sure that one more checkpoint fits on the disk.

    Args:
      shapes: the state in the global layout, as jax.ShapeDtypeStruct.
      workdir: the folder of the run.

    Raises:
      DiskFullError: it does not fit.
    """
    needed, found = checkpoint_bytes(shapes) + disk.METADATA, disk.room(workdir)
    if found.bytes < needed or found.files < FILES:
        raise DiskFullError(
            f'the disk of workdir {workdir} is full: a checkpoint needs {in_bytes(needed)} and {FILES} files, and free '
            f'are {found}',
            remedy='make room; the same command goes on',
        )


def disk_line(
    shapes: PyTree, start: int, existing: int, run: Run, every: int, best: BestBy | None, workdir: Path
) -> str:
    """The line about the space of the checkpoints that a run keeps; '' if it keeps the newest two, which fit.

    Args:
      shapes: the state in the global layout, as jax.ShapeDtypeStruct.
      start: the step that the run goes on from.
      existing: number of checkpoints that are there.
      run: what is constant in the run.
      every: checkpoints of multiples of so many steps are kept; 0: none.
      best: how the best checkpoint is chosen, which is kept; None: it is not.
      workdir: the folder of the run; only the first process sees it.
    """
    if jax.process_index() != 0:
        return ''
    size, found = checkpoint_bytes(shapes), disk.room(workdir)
    more = run.total_steps // every - start // every if every else 0
    kept = [f'{more} until the end, one every {every} steps'] if every else []
    kept += [f'the best by {best.metric} ({"highest" if best.mode == "max" else "lowest"})'] if best else []
    count = max(NEWEST + more + (best is not None) - existing, 1)
    little = count * size > found.bytes or count * FILES > found.files
    if not (kept or little):
        return ''
    remedy = 'raise keep_every_epochs, or make room' if every else 'make room'
    return (
        f'a checkpoint holds {in_bytes(size)} of arrays; kept'
        + (f' beside the newest two: {", and ".join(kept)}' if kept else ': the newest two')
        + f'; together {in_bytes(count * size)}, with {found} free'
        + (f': too little -> {remedy}' if little else '')
    )


def checkpoint_bytes(shapes: PyTree) -> int:
    """Bytes of the arrays of a checkpoint; Orbax compresses them a little."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
