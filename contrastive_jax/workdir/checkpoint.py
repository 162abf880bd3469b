"""Checkpoints: the whole training state, written by Orbax in the background, in the layout that one device would have.

A run continues from it bit for bit on the same devices, and can be restored on another number of them. Each checkpoint
holds a checksum of its values, its step and its run: Orbax restores changed data, and a folder that was renamed or is
of another run, without an error.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from jax.experimental import multihost_utils

from contrastive_jax.distributed.agree import text_of_first, together
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.errors import BusyError, CheckpointError, NumericalError, UserError
from contrastive_jax.optim.optimizers import is_below
from contrastive_jax.workdir import lock, run_record
from contrastive_jax.workdir.checksum import checksum, checksums, digest
from contrastive_jax.workdir.described import FOLDER, ITEM, alone, check_model, check_origin, few, named, runs_of
from contrastive_jax.workdir.disk import cannot_write, free, in_bytes
from contrastive_jax.workdir.kept import Kept
from contrastive_jax.workdir.orbax_output import brief, collect_quietly, worth_showing

ADDED = ('dropped',)  # fields of the state that checkpoints of older versions lack; they start at 0
UNDONE = 'undone'  # a checkpoint that a run was rolled back from is kept as `<step>.undone`
SLOW_S = 15.0  # seconds that the loop waits for the checkpoint before, from which on the disk is called slow
VISIBLE_S = 20.0  # seconds after which a file that one host writes is visible on the others
UNFINISHED = '*.orbax-checkpoint-tmp*'  # what Orbax names folders until they are complete
DAMAGED = 'damaged'  # a checkpoint that could not be read is set aside as `<step>.damaged`


class Restored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
      step: steps done.
      state: in the devices' layout.
      unlogged: sums of the metrics of the last steps, where the run was stopped between two lines of its log.
      plan: length and schedules of the run that wrote it, `training.run.Run.plan`; {} in those of older versions.
    """

    step: int
    state: PyTree
    unlogged: dict[str, float]
    plan: dict[str, float]


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: the workdir, in which the folder `checkpoints` is.
      devices: the devices that the run uses.
      specs: the sharding of the state, a pytree prefix of PartitionSpecs.
      keep: number of newest checkpoints that are kept.
      keep_every: checkpoints of multiples of so many steps are never deleted; 0: none.

    Attributes:
      kept: the checkpoints that are kept beside the newest.

    Raises:
      UserError: the folder cannot be created or listed.
    """

    def __init__(self, workdir: Path, devices: Devices, specs: PyTree, keep: int = 2, keep_every: int = 0):
        self._devices, self._specs, self._workdir = devices, specs, workdir
        self._needed = 0  # bytes of the arrays of a checkpoint
        # Copies to the host, and the files that Orbax makes before it writes in threads of its own. Orbax raises an
        # error once in each thread that asks for it, so only this one asks.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
        self._handed: Future[None] | None = None  # the last save, until Orbax has it
        logging.getLogger('absl').addFilter(worth_showing)
        folder = (workdir / FOLDER).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self.kept = Kept(workdir, keep, keep_every)
            self._manager = ocp.CheckpointManager(
                folder,
                # Given here, it also describes checkpoints of other processes. Trained values are nearly random bits:
                # compression would take a fifth of the time of a save, and remove 7 % of the bytes.
                item_handlers=ocp.PyTreeCheckpointHandler(use_compression=False),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self.kept,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=True,
                    # If a folder cannot be created, Orbax's threads would wait for it for minutes.
                    async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
                ),
            )
            handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone())
            self._reader = ocp.Checkpointer(handler, multiprocessing_options=alone())
            # The first process alone writes, and checks the run.
            first = jax.process_index() == 0
            begun = together(lambda: run_record.begin(workdir, runs_of(self._manager)) if first else '')
            self._run = text_of_first(begun)
            together(self._check_shared)
            self.kept.match(self.steps)
        except OSError as error:
            raise cannot_write(folder / 'new', error, f'checkpoints to {folder}') from error

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints and of the one that is being written, oldest first."""
        self._settle()
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        unlogged: Mapping[str, float] | None = None,
        plan: Mapping[str, float] | None = None,
        shapes: PyTree | None = None,
    ) -> None:
        """Saves the state (in the devices' layout) in the background; does nothing if the step is saved already.

        It waits for the save before, so that a kill loses no more than two intervals. On several processes it also
        waits until the arrays of this one are on the host: there Orbax computes on all devices, which must do
        everything in the same order.

        Args:
          step: number of steps done.
          state: the state; it may be donated as soon as this returns.
          unlogged, plan: see `Restored`.
          shapes: the shapes that `restore` takes; without them the devices must divide every sharded axis.

        Raises:
          NumericalError: a value of this state, or of the one before it, is not finite; that one is not written.
          CheckpointError: this checkpoint, or the one before it, cannot be written.
        """
        began = time.monotonic()
        self.wait()
        if step in self.steps:
            return
        if (waited := time.monotonic() - began) > SLOW_S:
            logging.warning(
                'the disk is slow: step %d has waited %.0f s for the checkpoint before it -> save less often, or to '
                'another disk', step, waited,
            )  # fmt: skip
        lock.check(self._workdir)
        state = self._devices.collect(state, self._specs, shapes)
        # Both are only dispatched here, before the next step reuses the buffers.
        sums, finite = checksums(state, self._devices.sharding(REPLICATED))
        copy = _copy(state)
        note: dict[str, Any] = {'run': self._run, 'step': step}
        note |= {'unlogged': dict(unlogged or {}), 'plan': dict(plan or {})}
        self.kept.add(step)
        self._needed = sum(x.nbytes for x in jax.tree.leaves(state))
        self._handed = self._thread.submit(self._hand_over, step, copy, sums, finite, note)
        if jax.process_count() > 1:
            self._settle()

    def _hand_over(self, step: int, state: PyTree, sums: Array, finite: Array, note: dict[str, Any]) -> None:
        """Gives a state to Orbax: copies it to the host, and begins to write."""
        sums, finite = jax.device_get((sums, finite))
        if not finite.all():
            names = [name for name, good in zip(named(state), finite, strict=True) if not good]
            raise NumericalError(
                f'the state after step {step} is not finite ({few(names)}) -> lower optimizer.learning_rate or '
                f'lengthen the warm-up; the checkpoints in {self._manager.directory} are from before'
            )
        note['leaves'] = dict(zip(named(state), sums.tolist(), strict=True))
        note['checksum'] = digest(sums, note)
        saved = self._manager.save(step, args=ocp.args.PyTreeSave(_without_empty_fields(state)), custom_metadata=note)
        assert saved, f'Orbax refused to save step {step}'

    def _settle(self) -> None:
        """Waits until Orbax has the last state; raises what has happened meanwhile."""
        handed, self._handed = self._handed, None
        if handed is not None:
            with self._writing():
                handed.result()

    def restore(self, shapes: PyTree) -> Restored | None:
        """The newest complete checkpoint. Newer ones that are damaged are renamed, with a warning.

        Args:
          shapes: the state in the global layout, as jax.ShapeDtypeStruct.

        Returns:
          The content of the checkpoint; None if there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints, but none can be used. They are not changed.
        """
        failures: dict[int, str] = {}
        for step in reversed(self.steps):
            found: Restored | None = None
            try:
                found = self._read(step, shapes)
            except Exception as error:  # Orbax raises many types for a damaged file
                failures[step] = str(error) if isinstance(error, CheckpointError) else brief(error)
            if found is None:
                collect_quietly()
            if self._everywhere(found is not None):
                assert found is not None
                self._set_aside(failures, step)
                return found._replace(state=self._devices.place(found.state, self._specs))
            failures.setdefault(step, 'another process cannot read it')
        if failures:
            reasons = '; '.join(f'step {step}: {reason}' for step, reason in failures.items())
            raise CheckpointError(
                f'no checkpoint in {self._manager.directory} can be used ({reasons}) '
                '-> use another workdir, or the code and config that it was written with'
            )
        return None

    def roll_back(self, step: int, shapes: PyTree) -> None:
        """Makes the checkpoint of `step` the newest one: later ones are renamed. If it cannot be used, nothing changes.

        Args:
          step: a step that has a checkpoint, or 0 to start anew.
          shapes: the shapes that `restore` takes.

        Raises:
          UserError: there is no checkpoint of this step.
          CheckpointError: it cannot be used.
        """
        if step not in (0, *self.steps):
            raise UserError(
                f'there is no checkpoint of step {step} in {self._manager.directory}',
                remedy=f'choose from {", ".join(map(str, self.steps))}, or 0 to start anew',
            )
        if step:
            try:
                self._read(step, shapes)
            except Exception as error:  # Orbax raises many types for a damaged file
                reason = str(error) if isinstance(error, CheckpointError) else brief(error)
                raise CheckpointError(
                    f'the checkpoint of step {step} in {self._manager.directory} cannot be used: {reason}',
                    remedy='choose another step, or give the fields that it depends on their old values',
                ) from error
        self._rename([x for x in self.steps if x > step], UNDONE)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          CheckpointError: the last checkpoint cannot be written.
        """
        self._settle()
        with self._writing():
            self._thread.submit(self._manager.wait_until_finished).result()

    def close(self) -> None:
        """Waits, and stops all threads."""
        self._reader.close()
        try:
            self._settle()
        finally:
            with self._writing(), self._thread:
                self._thread.submit(self._manager.close).result()

    def _remove_unfinished(self, folder: Path) -> None:
        """Deletes the checkpoint that could not be written."""
        if jax.process_index() == 0:
            for unfinished in folder.glob(UNFINISHED):
                shutil.rmtree(unfinished, ignore_errors=True)

    def _check_shared(self) -> None:
        """Makes sure that this process sees the workdir of the first one: each writes its part of a checkpoint."""
        end = time.monotonic() + VISIBLE_S
        while run_record.read(self._workdir).get('id') != self._run:
            if time.monotonic() > end:
                raise UserError(
                    f'process {jax.process_index()} does not see in workdir {self._workdir} what process 0 has written',
                    remedy='give a folder of storage that all hosts mount',
                )
            time.sleep(0.1)

    def _read(self, step: int, shapes: PyTree) -> Restored:
        """A checkpoint as numpy in the global layout, checked against its checksum."""
        described = self._manager.metadata(step)
        note = described.custom_metadata or {}
        check_origin(note, step, self._run)
        held = named(described.item_metadata)
        lacking = [name for name in ADDED if hasattr(shapes, name) and not any(is_below(x, (name,)) for x in held)]
        expected = dataclasses.replace(shapes, **dict.fromkeys(lacking)) if lacking else shapes
        check_model(held, named(expected))
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), expected)
        args = ocp.args.StandardRestore(_without_empty_fields(wanted))
        state = self._reader.restore(self._folder(step) / ITEM, args=args)
        state = dataclasses.replace(expected, **state) if isinstance(state, dict) else state
        sums = np.stack([checksum(x, np) for x in jax.tree.leaves(state)])
        if digest(sums, note) != note.get('checksum'):
            raise CheckpointError(f'its values do not match their checksum {note.get("checksum", "(missing)")}')
        zeros = {name: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), getattr(shapes, name)) for name in lacking}
        state = dataclasses.replace(state, **zeros) if lacking else state
        return Restored(step, state, dict(note.get('unlogged', {})), dict(note.get('plan', {})))

    def _folder(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)

    def _set_aside(self, failures: dict[int, str], good: int) -> None:
        """Renames checkpoints that cannot be used, so that training can save these steps again."""
        for step, aside in self._rename(list(failures), DAMAGED).items():
            logging.warning(
                'the checkpoint of step %d cannot be used (%s): set aside as %s, going on from step %d',
                step, failures[step], aside, good,
            )  # fmt: skip

    def _rename(self, steps: list[int], to: str) -> dict[int, Path]:
        """Renames checkpoints to `<step>.<to>`; returns the new folders, on the first process."""
        if not steps:
            return {}
        renamed: dict[int, Path] = {}
        for step in steps if jax.process_index() == 0 else ():
            folder = self._folder(step)
            renamed[step] = next(p for n in range(1000) if not (p := _aside(folder, to, n)).exists())
            folder.rename(renamed[step])
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('checkpoints renamed')
        self._manager.reload()
        self.kept.match(self.steps)
        return renamed

    def _everywhere(self, flag: bool) -> bool:
        """Whether the flag is True in every process: all must start from the same step."""
        return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).all())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an error of Orbax, such as that of a full disk, into one line, also one of its threads."""
        try:
            yield
        except NumericalError:
            raise
        except Exception as error:
            folder = Path(self._manager.directory)
            try:
                lock.check(self._workdir)  # a workdir that was deleted or taken over is the cause
            except BusyError:
                raise
            except UserError:
                self._remove_unfinished(folder)
                with contextlib.suppress(OSError):  # Orbax has made them again; an error if they hold anything
                    folder.rmdir()
                    self._workdir.rmdir()
                raise
            self._remove_unfinished(folder)  # it would fill the disk until the next start
            found = sorted(int(x.name) for x in folder.glob('[0-9]*') if x.name.isdecimal())
            raise CheckpointError(
                f'cannot write a checkpoint to {folder}: {brief(error)}; it needs {in_bytes(self._needed)}, and free '
                f'are {free(folder)}',
                remedy='make room or repair the disk; the same command goes on '
                + (f'from step {found[-1]}' if found else 'from the start'),
            ) from error


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _without_empty_fields(state: PyTree) -> PyTree:
    """A state without the fields that are None, which Orbax would take for a part of the checkpoint."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    present = {name: value for name, value in fields.items() if value is not None}
    return state if len(present) == len(fields) else present


def _aside(folder: Path, to: str, n: int) -> Path:
    return folder.with_name(f'{folder.name}.{to}{f".{n}" if n else ""}')
