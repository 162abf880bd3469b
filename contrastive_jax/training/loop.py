"""The loop: trains, evaluates, logs and saves until the end of a run, also of one that was stopped before."""

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.agree import together
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.distributed.stopping import agreed, check, heeding
from contrastive_jax.errors import Interrupted, NumericalError
from contrastive_jax.training.best import BestBy, kept_lines
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.feed import Feed, Metrics, values_of, with_seed
from contrastive_jax.training.finite import PLACES, Dropped
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.progress import Progress
from contrastive_jax.training.room import check_room, disk_line
from contrastive_jax.training.run import Run, TrainState, differing_plan
from contrastive_jax.training.session import Done, Segment, Session
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir import about as about_file
from contrastive_jax.workdir import lock
from contrastive_jax.workdir.about import About
from contrastive_jax.workdir.checkpoint import Checkpoints, Restored
from contrastive_jax.workdir.described import FOLDER
from contrastive_jax.workdir.metrics import FILE, MetricWriter, read
from contrastive_jax.workdir.trackers import Tracker

# Calls that the host may be ahead of the device: enough to keep it busy while the host logs. Each holds a batch of
# crops in the device's memory, and all of them have to end before a run that is asked to stop can save.
CALLS_AHEAD = 3

FORECAST_AFTER = 5  # timed steps after which the end of the run is estimated

PROFILE_AFTER = 100  # steps: the profile leaves out compilation and the first, slower steps

# Given the initial or restored state (in the devices' layout) and its step, returns the state that training starts
# from: at step 0 perhaps with given weights put in. Raises UserError where a restored state belongs to other weights.
Start = Callable[[TrainState, int], TrainState]


# Opens the trackers of a run, on the first process; prints lines by the given function.
Track = Callable[[Callable[[str], None]], Sequence[Tracker]]


def from_scratch(state: TrainState, step: int) -> TrainState:
    """The start of a run that begins with its own initial weights."""
    del step
    return state


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often the loop does what it does besides training, in steps.

    Attributes:
      log: steps between two lines of metrics.
      checkpoint: steps between two checkpoints.
      profile: number of steps to profile; 0: none.
      checkpoint_minutes: a checkpoint is also due at the first log line after so many minutes without one; 0: never.
      keep_epochs: the checkpoint at the end of every so many epochs is saved and never deleted; 0: none. (In epochs.)
    """

    log: int
    checkpoint: int
    profile: int = 0
    checkpoint_minutes: float = 0
    keep_epochs: int = 0

    @classmethod
    def of(cls, config: ConfigDict) -> 'Cadence':
        return cls(
            config.log_every_steps,
            config.checkpoint_every_steps,
            config.profile_steps,
            config.get('checkpoint_every_minutes', 0),
            config.get('keep_every_epochs', 0),
        )


class Trainer:
    """Trains one run. `fit` runs it from its start to its end; the other methods are the parts of `fit`.

    Args:
      run: what is constant in the run.
      feed: brings data to the train step.
      evaluators: what is measured and drawn on the way.
      start: the state that training starts from, given the initial or the restored one.
      workdir: the folder of the run; it exists.
      devices: the devices that the run uses.
      cadence: how often the loop logs, saves and profiles.
      data: facts about the data, for `about.json` and the first line: 'data' (its name), 'train_images' and perhaps
        'held_out_images'.
      open_first_pass: opens the feed of one epoch for methods that fill their memory before step 0; else None.
      best: how the best checkpoint is chosen, which is kept; None: it is not.
      track: opens the trackers of the run, given a function that prints; None: there are none.
      verbose: whether the table of all parameters is printed.
      label: stands before every line that is printed, where several runs train.
    """

    def __init__(
        self,
        run: Run,
        feed: Feed,
        evaluators: Sequence[Evaluator],
        start: Start,
        workdir: Path,
        *,
        devices: Devices,
        cadence: Cadence,
        data: Mapping[str, Any],
        open_first_pass: Callable[[], Feed] | None = None,
        best: BestBy | None = None,
        track: Track | None = None,
        verbose: bool = False,
        label: str = '',
    ):
        self.label = label
        self.run, self.feed, self.evaluators, self.start = run, feed, tuple(evaluators), start
        self.workdir, self.devices, self.cadence, self.data = workdir, devices, cadence, data
        self.first_weights = 'untrained encoder' if start is from_scratch else 'given weights'  # at step 0
        self.open_first_pass, self.best, self.track, self.verbose = open_first_pass, best, track, verbose
        self.first_process = jax.process_index() == 0
        self.keep_every = cadence.keep_epochs * run.steps_per_epoch
        self.checkpoints = Checkpoints(workdir, devices, run.state_specs, keep_every=self.keep_every)
        self.shapes = jax.eval_shape(lambda: init_state(run))  # in the global layout

    def fit(self, interrupt: Interrupt) -> dict[str, float]:
        """Trains to the end, or to a signal; arguments, result and errors are those of `session`."""
        session = self.session(interrupt)
        try:
            segment = next(session)
            while True:
                segment = session.send(self.advance(segment, interrupt))
        except StopIteration as end:
            last: dict[str, float] = end.value
            return last
        finally:
            session.close()

    def session(self, interrupt: Interrupt) -> Session:
        """The run to its end, or to a signal, all but the steps: it asks for them, so that several runs can share them.

        Args:
          interrupt: tells whether the run was asked to stop.

        Returns:
          The last value of every 'eval/' and 'baseline/' metric.

        Raises:
          Interrupted: the run was asked to stop; the state is saved.
          NumericalError: too many steps in a row were dropped, since a value was not finite.
        """
        total = self.run.total_steps
        if max(self.checkpoints.steps, default=0) < total:
            together(lambda: check_room(self.shapes, self.workdir) if self.first_process else None)
        start, state, unlogged, plan = self.restore_or_init()
        progress = Progress(total, start, batch_size=self.run.batch_size, enabled=self.first_process, label=self.label)
        goes_on = self.first_process and start < total
        lacks_evaluation = self.lacks_evaluation(start)
        shown = self.first_process and (start < total or lacks_evaluation)
        trackers = together(lambda: self.track(progress.say) if self.track and shown else ())
        writer = MetricWriter(self.workdir, start, enabled=self.first_process, trackers=trackers)
        about = About(self.workdir, start, self.described(), self.devices.mode, enabled=goes_on)
        if self.best:
            self.best.begin(self.checkpoints, read(self.workdir) if self.first_process else ())
        try:
            with progress:
                if start >= total:
                    progress.say(f'already complete at step {start} of {total}')
                else:
                    self.introduce(state, start, progress)
                    if start and (change := differing_plan(start, plan, self.run.plan(start))):
                        progress.say(change)
                    for evaluator in self.evaluators:
                        for remark in evaluator.remarks():
                            progress.say(remark)
                self.leave_early(start, interrupt)
                if lacks_evaluation:
                    what = f'the {self.first_weights}' if start == 0 else f'step {start}'
                    with progress.stage(f'evaluating {what}'):
                        self.evaluate(start, state, writer, progress, interrupt)
                if start == 0 and self.open_first_pass is not None:
                    state = yield from self.init_memory(self.open_first_pass(), state, progress, interrupt)
                self.leave_early(start, interrupt)
                with watchdog.stage('training', 'step'):
                    yield from self.train(start, state, unlogged, progress, writer, about, interrupt)
                return self.summarize(max(start, total), progress)
        finally:
            self.feed.close()
            writer.close()
            self.checkpoints.close()

    def train(
        self,
        step: int,
        state: PyTree,
        unlogged: dict[str, float],
        progress: Progress,
        writer: MetricWriter,
        about: About,
        interrupt: Interrupt,
    ) -> Generator[Segment, Done, None]:
        """From `step` to the end. The device always has the next steps queued while the host logs the last ones.

        Which lines the log has, and over which steps each is a mean, follows from the steps alone, not from
        interruptions: sums over steps that were not yet logged (`unlogged`) are kept with the checkpoint.
        """
        cadence, total, start = self.cadence, self.run.total_steps, step
        evaluations = {e.every_steps for e in self.evaluators if e.every_steps}
        profile_from = start + min(PROFILE_AFTER, (total - start) // 2)
        profile_to = min(profile_from + cadence.profile, total) if cadence.profile else profile_from
        running: Metrics = []  # of steps not yet logged, up to `step`, since `unlogged`
        saved_s, forecast = time.monotonic(), start + 1 + FORECAST_AFTER
        while step < total:
            every = [cadence.log, cadence.checkpoint, *evaluations] + ([self.keep_every] if self.keep_every else [])
            stops = [(step // n + 1) * n for n in every] + [total]
            # The first step compiles in a call of its own.
            stops += [x for x in (start + 1, forecast, profile_from, profile_to) if x > step]
            if running and step % cadence.log == 0:  # just enough to keep the device busy while the host logs
                stops.append(step + CALLS_AHEAD * self.feed.stride)
            before, stop = step, min(stops)
            if cadence.profile and step == profile_from:
                jax.profiler.start_trace(str(self.workdir / 'profile'))
            if before == start:
                with progress.stage('compiling the training step and taking the first one'):
                    state, metrics, step = yield Segment(self.feed, state, step, stop)
                    jax.block_until_ready(metrics)
                progress.untimed(step)
            else:
                state, metrics, step = yield Segment(self.feed, state, step, stop)
            if running and before % cadence.log == 0:
                sums = self.sums(unlogged, running)
                self.streak(sums, state, progress)
                self.log(before, sums, progress, writer)
                unlogged, running = {}, []
            running += metrics
            if cadence.profile and step == profile_to:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()

            if step == forecast < total:
                sums = self.sums(unlogged, running)
                progress.forecast(step, sums['loss'] / sums['steps'] if sums['steps'] else math.nan)

            asked = agreed(interrupt.requested)
            at_eval = bool(self.due(step))
            kept = self.keep_every > 0 and step % self.keep_every == 0
            due = step == total or at_eval or kept or step % cadence.checkpoint == 0
            late = time.monotonic() - saved_s > 60 * cadence.checkpoint_minutes > 0
            late = cadence.checkpoint_minutes > 0 and self.same_everywhere(late)
            if asked or due or late:
                unlogged, running = self.sums(unlogged, running), []
                streak = self.streak(unlogged, state, progress)
                if due or step % cadence.log == 0:
                    self.log(step, unlogged, progress, writer)
                    unlogged = {}
                with progress.paused(), watchdog.stage(f'saving or evaluating step {step}'):
                    if (
                        not streak or asked or kept or step == total
                    ):  # a streak may end the run: keep what is from before
                        self.checkpoints.save(step, state, unlogged, self.run.plan(step), self.shapes)
                    if step == total or (at_eval and not asked):
                        self.evaluate(step, state, writer, progress, interrupt)
                about.update(step)
                saved_s = time.monotonic()
            if asked and step < total:
                with watchdog.stage(f'saving step {step}'):
                    self.checkpoints.wait()
                raise Interrupted(f'{asked} at step {step} of {total}, saved; the same command goes on from there')

    def advance(self, segment: Segment, interrupt: Interrupt) -> Done:
        """Takes the steps of a segment, or less if a signal comes."""
        feed, state, step, stop = segment
        metrics: Metrics = []
        for first in range(step, stop, feed.stride):
            step = min(first + feed.stride, stop)
            watchdog.mark(f'training step {step}')
            state, new = feed.advance(state, first, step)
            metrics += new
            if len(metrics) > CALLS_AHEAD:
                jax.block_until_ready(metrics[-1 - CALLS_AHEAD])
            if interrupt.requested and jax.process_count() == 1:  # several have to agree on a step: at `stop`
                break
        return state, metrics, step

    def leave_early(self, start: int, interrupt: Interrupt) -> None:
        """Stops before the first step if a signal came: there is nothing new to save."""
        if start < self.run.total_steps and (asked := agreed(interrupt.requested)):
            where = f'at step {start} of {self.run.total_steps}, already saved' if start else 'before the first step'
            raise Interrupted(f'{asked} {where}; the same command goes on from there')

    def restore_or_init(self) -> Restored:
        """The newest checkpoint, or the state at step 0."""
        specs = self.run.state_specs
        found = self.checkpoints.restore(self.shapes)
        if found is None:
            # Runs once: on CPU fast code for it takes longer to compile than it saves.
            options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
            run, shardings = self.run, self.devices.shardings(self.shapes, specs)
            init = lambda values: self.devices.padded(init_state(with_seed(run, values)), specs)  # noqa: E731
            state = jax.jit(init, out_shardings=shardings, compiler_options=options)(values_of(run))
            found = Restored(0, self.devices.place(state, specs), {}, {})
        elif not found.plan and 'total_steps' in (known := about_file.run(about_file.read(self.workdir))):
            found = found._replace(plan={'steps': known['total_steps']})  # written by an older version
        return found._replace(state=self.start(found.state, found.step))

    def init_memory(
        self, feed: Feed, state: PyTree, progress: Progress, interrupt: Interrupt
    ) -> Generator[Segment, Done, PyTree]:
        """Shows the untrained network one epoch, which fills the memory of a method. A run stopped here starts anew."""
        step, steps = 0, self.run.steps_per_epoch
        try:
            with progress.stage(
                f'{type(self.run.method).__name__} fills its memory in {steps} steps before the first one'
            ):
                while step < steps and not agreed(interrupt.requested):
                    state, _, step = yield Segment(feed, state, step, steps)
                return state
        finally:
            feed.close()

    def introduce(self, state: PyTree, start: int, progress: Progress) -> None:
        """Says what is about to run."""
        run, d = self.run, self.devices
        params = self.shapes.params
        if self.verbose:
            progress.say(parameter_overview.get_parameter_overview(params, include_stats=False))
        # A part may be one array, such as SwAV's prototypes.
        counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
        parts = ', '.join(f'{name} {count:,}' for name, count in counts.items())
        progress.say(f'parameters: {sum(counts.values()):,} ({parts})')
        existing = len(self.checkpoints.steps)
        if line := disk_line(self.shapes, start, existing, run, self.keep_every, self.best, self.workdir):
            progress.say(line)
        kind = jax.devices()[0].device_kind
        progress.say(
            f'{type(run.method).__name__} on {self.data["train_images"]} images of {self.data["data"]}, '
            f'batch {run.batch_size}, {run.total_steps} steps ({run.total_steps / run.steps_per_epoch:.1f} epochs) '
            f'on {d.count} x {kind} ({d.mode})' + (f', going on at step {start}' if start else '')
        )

    def described(self) -> dict[str, Any]:
        """What the config does not say about a run, for `about.json`."""
        lengths = {'total_steps': self.run.total_steps, 'steps_per_epoch': self.run.steps_per_epoch}
        return {**self.data, **lengths}

    def sums(self, unlogged: dict[str, float], running: Metrics) -> dict[str, float]:
        """Sums of the metrics of the steps not yet logged, up to `step`.

        Waits for them, while the device has later ones to do. In float64, the order of adding hardly matters.
        """
        host = [unlogged] if unlogged else []
        host += [self.devices.fetch(metrics) for metrics in running]
        return {name: float(np.sum([x.get(name, 0.0) for x in host], dtype=np.float64)) for name in host[-1]}

    def streak(self, sums: Mapping[str, float], state: TrainState, progress: Progress) -> int:
        """The number of dropped steps in a row at the end of what was done, and a line about dropped steps.

        Args:
          sums: sums of the metrics since the last log; they tell whether any step was dropped.
          state: the newest state. It is only fetched if there is such a step.
          progress: prints the line.

        Raises:
          NumericalError: too many steps in a row were dropped.
        """
        if not sums.get('dropped'):
            return 0
        dropped: Dropped = self.devices.fetch(state.dropped)
        step, place = int(dropped.step), PLACES[int(dropped.place)]
        if dropped.in_row < self.run.max_dropped_in_row:
            progress.say(
                f'step {step + 1}: {place} was not finite, so this step changed nothing '
                f'(dropped steps in the whole run: {int(dropped.total)})'
            )
            return int(dropped.in_row)
        self.checkpoints.wait()
        raise NumericalError(
            f'{int(dropped.in_row)} steps in a row were dropped; in the last of them, step {step + 1}, {place} was not '
            f'finite, at learning rate {float(self.run.learning_rate(step)):.4g}',
            field='optimizer.learning_rate',
            remedy='lower optimizer.learning_rate or lengthen the warm-up; if that does not help, change the weight '
            'decay, raise the temperature, or look at the data. A pretraining with changed fields goes on in this '
            f'workdir with --rollback=STEP; {self.workdir / FOLDER} has the steps '
            f'{", ".join(map(str, (0, *self.checkpoints.steps)))}',
        )

    def log(self, step: int, sums: dict[str, float], progress: Progress, writer: MetricWriter) -> None:
        """Writes the means over the steps since the last log, without dropped ones, and the number of these."""
        means = {
            name: x / sums['steps'] for name, x in sums.items() if name not in ('steps', 'dropped') and sums['steps']
        }
        rate = progress.update(step, means.get('loss', math.nan))
        dropped = {'dropped': sums['dropped']} if sums.get('dropped') else {}
        writer.write(step, {**means, **dropped, 'images_per_second': rate})

    def due(self, step: int) -> list[Evaluator]:
        """The evaluators that are due at a step."""
        return [evaluator for evaluator in self.evaluators if evaluator.due(step, self.run.total_steps)]

    def lacks_evaluation(self, start: int) -> bool:
        """Whether step `start` is due and was not evaluated: a run may end between a checkpoint and its evaluation."""
        due = any(evaluator.measures for evaluator in self.due(start))
        done = any(
            line['step'] == start and any(name.startswith('eval/') for name in line) for line in read(self.workdir)
        )
        return due and self.same_everywhere(not done)

    def evaluate(
        self, step: int, state: PyTree, writer: MetricWriter, progress: Progress, interrupt: Interrupt
    ) -> None:
        """Runs the evaluators that are due: measures first, then draws.

        Raises:
          Interrupted: a signal came while they measured. The next start measures again.
        """
        due, shown = self.due(step), list[str]()
        metrics: dict[str, float] = {}
        try:
            with heeding(lambda: interrupt.at_once):
                for evaluator in due:
                    check()
                    found = evaluator(step, state)
                    metrics |= found
                    shown += [name for name in (found if evaluator.shown is None else evaluator.shown) if name in found]
        except Interrupted as stop:
            where = f'at step {step} of {self.run.total_steps}, saved' if step else 'before the first step'
            raise Interrupted(
                f'{interrupt.at_once or "a signal to another host"} during the evaluation {where}; the same command '
                'goes on from there'
            ) from stop
        if metrics:
            baseline = {name.replace('eval/', 'baseline/'): x for name, x in metrics.items()} if step == 0 else {}
            writer.write(step, {**metrics, **baseline})
            values = '  '.join(f'{name.removeprefix("eval/")} {metrics[name]:.4g}' for name in shown)
            progress.say(f'step {step}: {values}' + (f'  ({self.first_weights})' if step == 0 else ''))
        if self.best:
            lacking = self.best.lacking(step, metrics, all(evaluator.at_start for evaluator in self.evaluators))
            said = self.best.update(self.checkpoints, step, metrics)
            for line in filter(None, (said, lacking if step == self.run.total_steps else '')):
                progress.say(line)
        if self.first_process:
            for evaluator in due:
                lock.check(self.workdir)
                for name, png in evaluator.draw(step, self.workdir).items():
                    writer.write_image(step, name, png)

    def summarize(self, step: int, progress: Progress) -> dict[str, float]:
        """The last lines of a run that is at `step`: where things are, and what the evaluators conclude."""
        self.checkpoints.wait()
        last: dict[str, float] = {}
        for line in read(self.workdir) if self.first_process else []:
            last |= {name: x for name, x in line.items() if name.startswith(('eval/', 'baseline/'))}
        for evaluator in self.evaluators:
            for conclusion in evaluator.conclusions(last):
                progress.say(conclusion)
        pictures = f'  pictures: {self.workdir}/*.png' if any(self.workdir.glob('*.png')) else ''
        progress.say(f'checkpoint: {self.workdir / FOLDER}/{step}  metrics: {self.workdir / FILE}{pictures}')
        for about_kept in kept_lines(self.checkpoints):
            progress.say(about_kept)
        return last

    def same_everywhere(self, flag: bool) -> bool:
        """The first process's answer: it alone writes to the workdir, which others may not even see."""
        return flag if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(flag)))
