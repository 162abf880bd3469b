"""Says how a run is and what to do next. It only reads: the run may be training.

    python -m contrastive_jax.doctor --workdir=runs/digits [--config=configs/mocov2.py:digits --config.field=value]

It looks at the lock, reads every checkpoint and compares it with its checksums, compares the space that a checkpoint
needs with what is free, and tells how the last start ended. With a config it tells in which fields the run's differs,
and answers for a start with that config. The last line is what to do.

Exit codes: 0 nothing has to be done: the run trains, is finished, or was never started. 42 it was stopped or killed,
and the same command goes on. Otherwise the code that the same command would end with: 1 an unexpected error, 2 a wrong
folder or config, 3 the data, 4 values that are not finite, 5 a full disk or no usable checkpoint; 142 the process of
the run is stopped, as by SIGSTOP.
"""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_jax.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    Interrupted,
    LostError,
    NumericalError,
    UserError,
    exit_code_of,
)

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from contrastive_jax.workdir.lock import Holder

GO_ON, WRONG = Interrupted.exit_code, UserError.exit_code
TRAIN = 'python -m contrastive_jax.main'


@dataclasses.dataclass(frozen=True)
class Finding:
    """How a workdir is.

    Attributes:
      state: 'empty', 'not a workdir', 'running', 'finished', 'stopped', 'failed' or 'killed'.
      lines: what was found, for people.
      code: the exit code of the command, see above.
      next: what to do: a command, or words in parentheses.
    """

    state: str
    lines: Sequence[str]
    code: int
    next: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about a run.

    Attributes:
      folder: its workdir.
      config: its config.
      holder: who holds its lock.
      end: how its last start ended, `workdir.ended.read`.
      good: steps whose checkpoints can be used, the oldest first.
      bad: other steps -> why not.
      total: the length of the run in steps, 0 if it is not known.
      needed: bytes of a checkpoint; 0 without one.
      unreadable: lines about files that cannot be read.
      changed: fields in which a given config differs.
      length: the length in steps that a given config asks for, 0 without one or if it is not known.
      start: the command that trains with the given config, '' without one.
    """

    folder: Path
    config: 'ConfigDict'
    holder: 'Holder | None'
    end: Mapping[str, Any]
    good: Sequence[int]
    bad: Mapping[int, str]
    total: int
    needed: int
    unreadable: Sequence[str]
    changed: Sequence[str]
    length: int = 0
    start: str = ''

    @property
    def running(self) -> bool:
        return self.holder is not None and not self.holder.gone

    @property
    def finished(self) -> bool:
        if 'protocol' in self.config:
            from contrastive_jax.protocols.run import RESULTS_FOLDER

            return (self.folder / RESULTS_FOLDER / f'{self.config.protocol}.json').exists()
        return 0 < self.total <= max(self.good, default=0)

    @property
    def full(self) -> bool:
        from contrastive_jax.workdir import disk

        return disk.room(self.folder).bytes < self.needed + disk.METADATA

    @property
    def command(self) -> str:
        """The command that goes on, as it can be started here: that of the run, or that of another length."""
        if self.length not in (0, self.total):
            return self.start
        known = self.holder.content if self.holder else self.end
        if not known.get('command'):
            return f'{TRAIN} --config=CONFIG --workdir={shlex.quote(str(self.folder))}'
        folder = known.get('folder', '')
        return (f'cd {shlex.quote(folder)} && ' if folder != os.getcwd() else '') + str(known['command'])


def examine(workdir: str, given: str = '', overrides: Sequence[str] = ()) -> Finding:
    """Looks at a workdir; nothing is changed.

    Args:
      workdir: the folder.
      given: a config to compare with, as `--config` takes it; '': none.
      overrides: `--config.field=value` each.

    Raises:
      UserError: the config does not exist or is wrong.
    """
    from contrastive_jax.workdir import lock
    from contrastive_jax.workdir.folder import CONFIG_FILE, OF_A_RUN, read_config, resolve

    folder = resolve(workdir)
    restore = f'cp COPY/{CONFIG_FILE} {shlex.quote(str(folder))}'
    if folder.exists() and not folder.is_dir():
        return Finding('not a workdir', ['it is a file'], WRONG, '(give the folder of a run)')
    holder = lock.holder(folder)
    names = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
    if CONFIG_FILE in names:
        try:
            config = read_config(folder)
        except UserError as error:
            return Finding('not a workdir', [str(error)], WRONG, restore)
        return judge(facts(folder, config, holder, given, overrides))
    if left := [name for name in OF_A_RUN if name in names]:
        return Finding('not a workdir', [f'there is {left[0]} of a run, and {CONFIG_FILE} is gone'], WRONG, restore)
    if holder and not holder.gone:
        return Finding('running', [f'{holder.name} reads its data'], 0, '(wait)')
    if others := [name for name in names if name != lock.FILE]:
        line = f'there is no {CONFIG_FILE}, but {", ".join(others[:3])}'
        return Finding('not a workdir', [line], WRONG, '(give the folder of a run)')
    start = f'{TRAIN} --config=CONFIG --workdir={shlex.quote(str(folder))}'
    return Finding('empty', ['no run was started there'], 0, start)


def facts(
    folder: Path, config: 'ConfigDict', holder: 'Holder | None', given: str = '', overrides: Sequence[str] = ()
) -> Facts:
    """Reads what there is about a run."""
    import jax

    jax.config.update('jax_platforms', 'cpu')  # the run may hold the accelerator
    from contrastive_jax.config.length import total_steps
    from contrastive_jax.workdir import about, ended, inputs, kept, run_record
    from contrastive_jax.workdir.reading import size_of, verify

    unreadable, verified = list[str](), dict[int, str]()
    for read in (run_record.read, inputs.read, kept.read):
        try:
            read(folder)
        except UserError as error:
            unreadable.append(str(error))
    try:
        verified = verify(folder)
    except UserError as error:
        unreadable += [] if str(error) in unreadable else [str(error)]
    good = [step for step, why in verified.items() if not why]
    run = about.run(about.read(folder))
    changed, length, start = list[str](), 0, ''
    if given:
        asked = _config_of(given, overrides, config)
        changed = differences(folder, asked)
        if per_epoch := int(run.get('steps_per_epoch', 0)):
            length = total_steps(asked, per_epoch)
        start = shlex.join([*TRAIN.split(), f'--config={given}', f'--workdir={folder}', *overrides])
    return Facts(
        folder,
        config,
        holder,
        ended.read(folder),
        good,
        {step: why for step, why in verified.items() if why},
        int(run.get('total_steps', 0)),
        size_of(folder, good[-1]) if good else 0,
        unreadable,
        changed,
        length,
        start,
    )


def _config_of(given: str, overrides: Sequence[str], stored: 'ConfigDict') -> 'ConfigDict':
    """A config of the command line; fields that are free have the values that the run chose.

    Raises:
      UserError: the config does not exist or is wrong.
    """
    from contrastive_jax.config import fields
    from contrastive_jax.config.load import load
    from contrastive_jax.config.overrides import override
    from contrastive_jax.config.plan import keep
    from contrastive_jax.protocols import run as protocols

    config = load(given)
    of = protocols if 'protocol' in config else fields
    if problems := list(override(config, overrides, of.sections_of)):
        raise UserError.of(problems)
    if config.get('auto'):
        config = config.copy_and_resolve_references()
        keep(config, stored)
    return config


def differences(folder: Path, config: 'ConfigDict') -> list[str]:
    """The fields in which a config differs from that of a run, without those that may: 'name: old -> new' each."""
    from contrastive_jax.config import stored
    from contrastive_jax.protocols import run as protocols
    from contrastive_jax.workdir.folder import changed_fields

    return changed_fields(folder, config, (protocols if 'protocol' in config else stored).defaults_of(config))


def judge(found: Facts) -> Finding:
    """The state of a run, and what to do."""
    holder, end = found.holder, found.end
    code = int(end.get('code', 0))
    failed = code not in (0, GO_ON, 130, LostError.exit_code)
    state = 'finished' if found.finished else 'failed' if failed else 'stopped'
    if holder is not None:
        state = 'killed' if holder.gone else 'running'
    code, todo = _next(found, code if state == 'failed' else 0)
    return Finding(state, _lines(found), code, todo)


def _next(found: Facts, failed: int) -> tuple[int, str]:
    """The exit code, and what to do.

    Args:
      found: what is known.
      failed: the exit code of the last start, if the run has failed; else 0.
    """
    if found.running:
        assert found.holder is not None
        if found.holder.stopped:
            return LostError.exit_code, f'kill -CONT {found.holder.content["pid"]}'
        return 0, '(nothing: it trains)'
    if found.unreadable:
        return WRONG, '(see the lines above)'
    if found.bad and not found.good:
        return CheckpointError.exit_code, '(bring the checkpoints back from a copy, or choose another workdir)'
    if found.changed:
        return WRONG, '(choose another workdir, or give these fields their old values)'
    if 0 < found.length < max(found.good, default=0):
        return WRONG, '(choose another workdir, or give the length of before)'
    if found.finished and found.length > found.total:
        return GO_ON, found.command
    if found.finished:
        return 0, f'python -m contrastive_jax.report --workdir={shlex.quote(str(found.folder))}'
    if found.full:
        return DiskFullError.exit_code, f'df -h {shlex.quote(str(found.folder))}  (and make room)'
    newest = max(found.good, default=0)
    if failed == NumericalError.exit_code:
        return failed, f'{found.command} --rollback={newest} --config.optimizer.learning_rate=RATE  (a lower one)'
    if failed == DataError.exit_code:
        return failed, f'{found.command}  (when the data is repaired)'
    if failed in (1, WRONG):
        return failed, f'{found.command}  (when the cause is mended)'
    return GO_ON, found.command


def _lines(found: Facts) -> list[str]:
    """What is known about a run, for people."""
    from contrastive_jax.workdir import disk

    lines = [*found.unreadable]
    if holder := found.holder:
        how = f'gone: {holder.gone}' if holder.gone else 'stopped, as by SIGSTOP' if holder.stopped else 'alive'
        lines.append(f'lock: {holder.name}, seen {holder.age:.0f} s ago, {how}')
    steps = ', '.join(map(str, found.good)) or 'none'
    lines.append(f'checkpoints that can be used: {steps}' + (f' of {found.total} steps' if found.total else ''))
    lines += [f'checkpoint of step {step} cannot be used: {why}' for step, why in found.bad.items()]
    needs = f'a checkpoint needs {disk.in_bytes(found.needed)}, ' if found.needed else ''
    lines.append(f'space: {needs}free are {disk.free(found.folder)}')
    if found.end:
        line = found.end['line'] or 'finished'
        lines.append(f'last end: {found.end["at"]}, exit code {found.end["code"]}: {line}')
    lines += [f'other config: {line}' for line in found.changed]
    if found.length not in (0, found.total):
        lines.append(f'other length: {found.total} -> {found.length} steps')
    return lines


def options() -> argparse.ArgumentParser:
    """The arguments of the command, without the fields of the config."""
    parser = argparse.ArgumentParser('contrastive_jax.doctor', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--workdir', required=True, help='the workdir to look at')
    parser.add_argument('--config', default='', help='a config to compare with; --config.FIELD=VALUE changes a field')
    return parser


def run(argv: Sequence[str]) -> int:
    """Parses the arguments, prints what is found, and returns the exit code.

    Raises:
      UserError: an argument is wrong.
    """
    given, others = options().parse_known_args(argv)
    overrides = [arg for arg in others if arg.startswith('--config.')]
    if wrong := [arg for arg in others if arg not in overrides]:
        raise UserError(f'unexpected argument {wrong[0]!r}', remedy='--help lists the arguments')
    found = examine(given.workdir, given.config, overrides)
    print('\n'.join([f'{given.workdir}: {found.state}', *(f'  {line}' for line in found.lines), f'next: {found.next}']))
    return found.code


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    return exit_code_of(lambda: run(argv))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
