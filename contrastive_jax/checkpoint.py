"""Checkpoints: everything that trains, written by Orbax in the background, in the layout that one device would have.

So a run goes on bit for bit on the same devices, and restores onto another number of them.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from contrastive_jax import parallel
from contrastive_jax.errors import CheckpointError

PyTree = Any

FOLDER = 'checkpoints'


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: holds the folder `checkpoints`.
      devices: of the run.
      specs: how the state lies on them, a pytree prefix of PartitionSpecs.
      keep: how many of the newest are kept.
    """

    def __init__(self, workdir: Path, devices: parallel.Devices, specs: PyTree, keep: int = 2):
        self._devices, self._specs = devices, specs
        # Orbax logs each of its stages at INFO; its warnings still come through.
        logging.getLogger('absl').setLevel(logging.WARNING)
        self._manager = ocp.CheckpointManager(
            (workdir / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
        )

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree) -> None:
        """Saves the state (in the devices' layout) in the background; does nothing if the step is there."""
        if step in self._manager.all_steps():
            return
        # The next step takes over these buffers, and on CPU Orbax would still be reading them: give it a copy.
        copied = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree))(self._devices.collect(state, self._specs))
        self._manager.save(step, args=ocp.args.StandardSave(copied))

    def restore(self, state: PyTree) -> tuple[int, PyTree] | None:
        """The newest checkpoint that can be read.

        Args:
          state: of the same structure, shapes and dtypes, in the devices' layout; what it holds is not used.

        Returns:
          Its step and the state, or None if there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        shapes = jax.eval_shape(lambda tree: self._devices.collect(tree, self._specs), state)
        shardings = self._devices.shardings(shapes, self._specs)
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings
        )
        failures = []
        for step in reversed(self.steps):
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
                return step, self._devices.place(restored, self._specs)
            except Exception as error:  # Orbax raises many kinds for a damaged file
                reason = ' '.join(str(error).split())[:200]
                failures.append(f'step {step}: {type(error).__name__}: {reason}')
                logging.warning('cannot read the checkpoint of step %d (%s); trying an older one', step, reason)
        if failures:
            raise CheckpointError(
                f'no checkpoint in {self._manager.directory} can be read ({"; ".join(failures)}) '
                '-> use another --workdir, or the config that it was written with'
            )
        return None

    def wait(self) -> None:
        """Until everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends Orbax's threads."""
        self._manager.close()
