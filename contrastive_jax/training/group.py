"""Trains the runs of a group side by side in one process: they share the images and all compiled programs.

Each member has a workdir of its own in that of the group, with the config, the metrics and the checkpoints of a run
that was trained alone, so that everything which reads a run takes it, and the command for it alone goes on with it.

Members take their steps together (`training.group_feed`); everything else is done for one after the other. A member
whose checkpoint is behind those of the others, after a kill between two saves, first takes the steps that it lacks.
"""

import collections
import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from contrastive_jax.config.check import check
from contrastive_jax.config.group import Member, members_of
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed import watchdog
from contrastive_jax.errors import Interrupted, UserError, print_error
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.training import given
from contrastive_jax.training.fit import Parts, load_data, open_trainer
from contrastive_jax.training.group_feed import GroupFeeds, feed_of
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.loop import CALLS_AHEAD, Trainer
from contrastive_jax.training.session import Segment, Session
from contrastive_jax.training.step import train_step
from contrastive_jax.workdir.folder import resolve

Data = tuple[Source, Source | None]


def fit_group(
    config: ConfigDict,
    workdir: str,
    *,
    load: given.Load | None = None,
    vectorized: bool | None = None,
    verbose: bool = False,
) -> dict[str, dict[str, float]]:
    """Trains the runs that the lists of a config describe; the same call again continues all of them.

    A member that fails, for example since its learning rate is too high, does not stop the others.

    Args:
      config: a config with `seeds`, `learning_rates` or `temperatures`.
      workdir: the folder of the group; member NAME has the workdir NAME in it.
      load: reads the weights of `config.init`, as for `training.fit.fit`.
      vectorized: whether one call of the device takes the step of all members, under `jax.vmap`; None: not on a CPU.
      verbose: whether the first member prints the table of all parameters, which is that of all of them.

    Returns:
      Name of the member -> its last evaluation.

    Raises:
      UserError: config, data or a workdir are wrong; or members have failed, when all others are finished.
      Interrupted: a signal; all members are saved.
    """
    if problems := check(config, 1, jax.process_count()):  # a member is checked for its devices, with what is chosen
        raise UserError.of(problems)
    if jax.process_count() > 1:
        remedy = 'give each run a command of its own, with --config.seed=N'
        raise UserError(f'several runs share one process, and there are {jax.process_count()}', remedy=remedy)
    members = members_of(config)
    feeds = GroupFeeds(jax.default_backend() != 'cpu' if vectorized is None else vectorized)
    with Interrupt() as interrupt, contextlib.closing(feeds):
        return Group(members, feeds, interrupt, verbose).train(resolve(workdir), load)


class BetweenSteps(Interrupt):
    """What the members of a group see: `requested` changes between their steps, so that all stop at the same one.

    Args:
      of_process: tells whether the process was asked to stop; it ends an evaluation of a member at once.
    """

    def __init__(self, of_process: Interrupt) -> None:
        super().__init__()
        self._of_process = of_process

    @property
    def at_once(self) -> str | None:
        return self._of_process.requested

    def look(self) -> bool:
        """Lets the members see whether they were asked to stop."""
        self.requested = self._of_process.requested
        return self.requested is not None


class Group:
    """The members of a group while they train.

    Args:
      members: the runs.
      feeds: takes their steps.
      interrupt: tells whether they were asked to stop.
      verbose: whether the first member prints the table of all parameters.
    """

    def __init__(self, members: Sequence[Member], feeds: GroupFeeds, interrupt: Interrupt, verbose: bool = False):
        self._members, self._feeds, self._verbose = members, feeds, verbose
        self._asked = BetweenSteps(interrupt)
        self._held = [contextlib.ExitStack() for _ in members]
        self._sessions: list[Session] = []
        self._waiting: dict[int, Segment] = {}  # what the members ask for that train
        self._failed: dict[int, UserError | Interrupted] = {}
        self._last: dict[int, dict[str, float]] = {}  # evaluations of members that are finished

    def train(self, folder: Path, load: given.Load | None) -> dict[str, dict[str, float]]:
        """Trains all members; arguments, result and errors are those of `fit_group`."""
        with contextlib.ExitStack() as all_held:
            for held in self._held:
                all_held.push(held)
            self._sessions = [trainer.session(self._asked) for trainer in self._open(folder, load)]
            for session in self._sessions:
                all_held.callback(session.close)
            for i, session in enumerate(self._sessions):
                self._asked.look()
                self._go_on(i, partial(next, session))
            if self._asked.look():
                for i in list(self._waiting):  # nothing was trained
                    asked = Interrupted(f'{self._asked.requested} before a step; the same command goes on from there')
                    self._go_on(i, partial(self._sessions[i].throw, asked))
            ahead: collections.deque[Any] = collections.deque()
            while self._waiting:
                self._asked.look()
                now, stop = next_steps(self._waiting)
                watchdog.mark(f'training step {stop} of {len(now)} members')
                done = self._feeds.advance([self._waiting[i] for i in now], stop)
                ahead.append(done[-1][1])
                if len(ahead) > CALLS_AHEAD:
                    jax.block_until_ready(ahead.popleft())
                for i, reply in zip(now, done, strict=True):
                    self._go_on(i, partial(self._sessions[i].send, reply))
        self._summarize(folder)
        return {self._members[i].name: last for i, last in sorted(self._last.items())}

    def _open(self, folder: Path, load: given.Load | None) -> list[Trainer]:
        """The trainers of the members. All of them are checked before one begins."""
        loaded: dict[int, Data] = {}  # by the number of channels: a member that goes on has one, a new one derives it
        extractor = None

        def read(config: ConfigDict, *, derive_channels: bool = False) -> Data:
            wanted = 0 if derive_channels else config.data.get('channels', 3)
            if wanted not in loaded:
                found = load_data(config, derive_channels=derive_channels)
                loaded[wanted] = loaded[found[0].channels] = found
            return loaded[wanted]

        def make_extractor(*args: Any, **kwargs: Any) -> FeatureExtractor:
            nonlocal extractor
            extractor = extractor or FeatureExtractor(*args, **kwargs)
            return extractor

        trainers = []
        for i, (member, held) in enumerate(zip(self._members, self._held, strict=True)):
            feed = partial(self._feeds.open, values=member.values)
            parts = Parts(read, feed, make_extractor, label=member.name, quiet=i > 0)
            place, table = str(folder / member.name), self._verbose and i == 0
            trainers.append(open_trainer(member.config, place, held, parts, verbose=table, load=load))
        names = ', '.join(member.name for member in self._members)
        print(f'{len(trainers)} runs in one program, each with a workdir in {folder}: {names}', flush=True)
        return trainers

    def _go_on(self, i: int, resume: Callable[[], Segment]) -> None:
        """Resumes a member, to its next segment or to its end."""
        self._waiting.pop(i, None)
        try:
            self._waiting[i] = resume()
        except StopIteration as end:
            self._last[i] = end.value
            self._held[i].close()
        except (UserError, Interrupted) as error:
            if isinstance(error, UserError):
                print_error(f'{self._members[i].name}: {error}')
            self._failed[i] = error
            self._held[i].__exit__(type(error), error, error.__traceback__)

    def _summarize(self, folder: Path) -> None:
        """Prints mean and spread of the members that are finished.

        Raises:
          UserError, Interrupted: as `fit_group`.
        """
        stopped = [error for error in self._failed.values() if isinstance(error, Interrupted)]
        if stopped:
            raise Interrupted(f'{len(stopped)} of {len(self._members)} runs in {folder}: {stopped[0]}')
        by_setting: dict[str, list[dict[str, float]]] = {}
        for i, last in self._last.items():
            by_setting.setdefault(self._members[i].setting, []).append(last)
        for setting, found in by_setting.items():
            for line in spread(found):
                print(f'{setting}: {line}' if setting else line, flush=True)
        if self._failed:
            i, error = next(iter(self._failed.items()))
            of_all = UserError(
                f'{len(self._failed)} of {len(self._members)} runs failed, {self._members[i].name} first, see above',
                remedy='the same command goes on with those that can; the others need other fields',
            )
            of_all.exit_code = error.exit_code
            raise of_all


def next_steps(waiting: Mapping[int, Segment]) -> tuple[list[int], int]:
    """Which members take their next steps together, and up to which step.

    Those that are furthest behind go on, until they meet the next ones.

    Args:
      waiting: the segments of members that train, by their number.
    """
    # The pass that fills a memory comes before step 0.
    order = {i: (feed_of(segment).step is train_step, segment.step) for i, segment in waiting.items()}
    least = min(order.values())
    now = [i for i in sorted(order) if order[i] == least]
    stops = [waiting[i].stop for i in now] + [least[1] + waiting[now[0]].feed.stride]
    stops += [step for kind, step in order.values() if kind == least[0] and step > least[1]]
    return now, min(stops)


def spread(found: Sequence[Mapping[str, float]]) -> list[str]:
    """A line for each metric that all runs have measured: mean, sample standard deviation, and range.

    Args:
      found: the last evaluation of each run.
    """
    names = [name for name in found[0] if name.startswith('eval/') and all(name in last for last in found)]
    lines = []
    for name in names:
        values = [last[name] for last in found]
        line = f'{name.removeprefix("eval/")}: {statistics.fmean(values):.4g}'
        if len(values) > 1:
            deviation = statistics.stdev(values)
            line += f' +- {deviation:.2g} ({min(values):.4g} to {max(values):.4g}, n = {len(values)})'
        lines.append(line)
    return lines
