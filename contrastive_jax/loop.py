"""The loop: opens a run, or goes on with it, and trains, evaluates, logs and saves until its end."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from contrastive_jax import feed, figures, train, validate
from contrastive_jax.about import About
from contrastive_jax.checkpoint import FOLDER, Checkpoints, Restored
from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import Devices, find_devices
from contrastive_jax.errors import Interrupted, MissingSplitError, NumericalError, UserError
from contrastive_jax.evaluate.online import Neighbours, OnlineEvaluation
from contrastive_jax.interrupt import Interrupt
from contrastive_jax.metrics import FILE, MetricWriter, read
from contrastive_jax.pictures import contact_sheet, neighbours
from contrastive_jax.progress import Progress
from contrastive_jax.workdir import open_workdir

# Calls that the host may be ahead of the device: enough to keep it busy while the host logs. Each holds a batch of
# crops in the device's memory, and all of them have to end before a run that is asked to stop can save.
CALLS_AHEAD = 3

PROFILE_AFTER = 100  # steps: compilation and the first, slower ones are not what a profile is for


def fit(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains what the config describes; the same call again goes on where the last one stopped.

    Args:
      config: of the form of `recipe.base`.
      workdir: folder of the run: config, checkpoints, metrics, pictures.

    Returns:
      The last evaluation.

    Raises:
      UserError: something in config, data or workdir that the user can mend; nothing was compiled or lost.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    devices = find_devices(config.get('parallel', 'jit'))
    if problems := validate.check(config, devices.count, jax.process_count()):
        raise UserError('\n'.join(problems))
    with Interrupt() as interrupt:  # from here on: it is heeded before the first step, however long this takes
        source, held_out = load_data(config)
        run = train.build(config, len(source))
        path = open_workdir(workdir, config, write=jax.process_index() == 0)
        return Trainer(config, path, devices, run, source, held_out).fit(interrupt)


def load_data(config: ConfigDict) -> tuple[sources.Source, sources.Source | None]:
    """The training split, and the held-out one if there is one."""
    d = config.data
    place = {'name': d.name, 'path': d.path, 'image_size': d.image_size}
    source = open_source(d.source, split=d.split, **place)
    try:
        return source, open_source(d.source, split=d.eval_split, **place)
    except MissingSplitError:  # pre-training needs no labels and no held-out images
        return source, None


class Trainer:
    """One run. `fit` is its life; the other methods are the parts of it.

    Attributes:
      evaluated: a metric that every evaluation writes.

    Args:
      config: checked.
      workdir: exists.
      devices: of the run.
      run: the recipe.
      source: training images.
      held_out: images for evaluation, or None.
    """

    evaluated = 'eval/feature_std'

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        devices: Devices,
        run: train.Recipe,
        source: sources.Source,
        held_out: sources.Source | None,
    ):
        self.config, self.workdir, self.devices, self.run = config, workdir, devices, run
        self.source, self.held_out = source, held_out
        self.first_process = jax.process_index() == 0
        self.evaluation = self.open_evaluation()
        self.checkpoints = Checkpoints(workdir, devices, run.state_specs)

    def open_evaluation(self) -> OnlineEvaluation:
        network, policy = self.run.method.network, self.run.policy
        return OnlineEvaluation(self.config, network, policy, self.devices, self.source, self.held_out)

    def fit(self, interrupt: Interrupt) -> dict[str, float]:
        """Trains to the end, or to a signal."""
        total = self.run.total_steps
        start, state, unlogged = self.restore_or_init()
        progress = Progress(total, start, batch_size=self.run.batch_size, enabled=self.first_process)
        writer = MetricWriter(self.workdir, start, enabled=self.first_process)
        goes_on = self.first_process and start < total
        about = About(self.workdir, start, self.described(), self.devices.mode, enabled=goes_on)
        data = self.open_feed()
        try:
            with progress:
                if start >= total:
                    progress.say(f'already complete at step {start} of {total}')
                else:
                    self.introduce(state, start, progress)
                self.leave_early(start, interrupt)
                with progress.paused():
                    if start == 0 and self.first_process:
                        self.draw_views(writer)
                    if self.lacks_evaluation(start):
                        self.evaluate(start, state, writer, progress)
                if start == 0 and self.run.method.initializes_memory:
                    state = self.init_memory(state, progress, interrupt)
                self.leave_early(start, interrupt)
                self.train(start, state, unlogged, data, progress, writer, about, interrupt)
                return self.summarize(max(start, total), progress)
        finally:
            data.close()
            writer.close()
            self.checkpoints.close()

    def train(
        self,
        step: int,
        state: PyTree,
        unlogged: dict[str, float],
        data: feed.Feed,
        progress: Progress,
        writer: MetricWriter,
        about: About,
        interrupt: Interrupt,
    ) -> None:
        """From `step` to the end. The device always has the next steps queued while the host logs the last ones.

        Which lines the log has, and what they are means over, follows from the steps alone, not from interruptions:
        sums over steps that were not yet logged (`unlogged`) are kept with the checkpoint.
        """
        c, total, start = self.config, self.run.total_steps, step
        profile_from = start + min(PROFILE_AFTER, (total - start) // 2)
        profile_to = min(profile_from + c.profile_steps, total) if c.profile_steps else profile_from
        running: feed.Metrics = []  # of steps not yet logged, up to `step`, since `unlogged`
        while step < total:
            stops = [(step // c.log_every_steps + 1) * c.log_every_steps, total]
            stops += [(step // n + 1) * n for n in (c.eval_every_steps, c.checkpoint_every_steps) if n]
            stops += [x for x in (start + 1, profile_from, profile_to) if x > step]  # compile in a call of its own
            if running and step % c.log_every_steps == 0:  # just enough to keep the device busy while the host logs
                stops.append(step + CALLS_AHEAD * data.stride)
            before, stop = step, min(stops)
            if c.profile_steps and step == profile_from:
                jax.profiler.start_trace(str(self.workdir / 'profile'))
            state, metrics, step = self.advance(state, step, stop, data, interrupt)
            if before == start:
                jax.block_until_ready(metrics)
                progress.untimed(step)
            if running and before % c.log_every_steps == 0:
                self.log(before, self.sums(before, unlogged, running), progress, writer)
                unlogged, running = {}, []
            running += metrics
            if c.profile_steps and step == profile_to:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()

            asked = self.agree(interrupt)
            at_eval = bool(c.eval_every_steps) and step % c.eval_every_steps == 0
            due = step == total or at_eval or step % c.checkpoint_every_steps == 0
            if asked or due:
                unlogged, running = self.sums(step, unlogged, running), []
                if due or step % c.log_every_steps == 0:
                    self.log(step, unlogged, progress, writer)
                    unlogged = {}
                with progress.paused():
                    self.checkpoints.save(step, state, unlogged)
                    if step == total or (at_eval and not asked):
                        self.evaluate(step, state, writer, progress)
                about.update(step)
            if asked and step < total:
                self.checkpoints.wait()
                raise Interrupted(f'{asked} at step {step} of {total}, saved; the same command goes on from there')

    def advance(
        self, state: PyTree, step: int, stop: int, data: feed.Feed, interrupt: Interrupt
    ) -> tuple[PyTree, feed.Metrics, int]:
        """Goes on to step `stop`, or less far if a signal comes: state, metrics, and the step that was reached."""
        metrics: feed.Metrics = []
        for first in range(step, stop, data.stride):
            step = min(first + data.stride, stop)
            state, new = data.advance(state, first, step)
            metrics += new
            if len(metrics) > CALLS_AHEAD:
                jax.block_until_ready(metrics[-1 - CALLS_AHEAD])
            if interrupt.requested and jax.process_count() == 1:  # several have to agree on a step: at `stop`
                break
        return state, metrics, step

    def leave_early(self, start: int, interrupt: Interrupt) -> None:
        """Heeds a signal that came before the first step, when there is nothing new to save."""
        if start < self.run.total_steps and (asked := self.agree(interrupt)):
            where = f'at step {start} of {self.run.total_steps}, already saved' if start else 'before the first step'
            raise Interrupted(f'{asked} {where}; the same command goes on from there')

    def restore_or_init(self) -> Restored:
        """The state to start from."""
        init, specs = lambda: train.init_state(self.run), self.run.state_specs
        shapes = jax.eval_shape(init)
        if restored := self.checkpoints.restore(shapes):
            return restored
        # Runs once: on CPU fast code for it takes longer to compile than it saves.
        options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
        state = jax.jit(init, out_shardings=self.devices.shardings(shapes, specs), compiler_options=options)()
        return Restored(0, self.devices.place(state, specs), {})

    def open_feed(self, init_memory: bool = False) -> feed.Feed:
        """Data on the device where it is in memory, otherwise off the host; of one epoch, for `init_memory`."""
        c, run, step = self.config, self.run, train.train_step
        if init_memory:
            run, step = dataclasses.replace(run, total_steps=run.steps_per_epoch), train.init_memory_step
        if self.source.array is not None and c.data.on_device:
            return feed.ResidentFeed(run, self.devices, self.source, c.log_every_steps, step)
        return feed.StreamFeed(run, self.devices, self.source, c.data.workers, step)

    def init_memory(self, state: PyTree, progress: Progress, interrupt: Interrupt) -> PyTree:
        """Shows the untrained network one epoch. Nothing of it is saved: a run that is stopped here begins anew."""
        steps = self.run.steps_per_epoch
        progress.say(f'{type(self.run.method).__name__} initializes_memory the data in {steps} steps before the first')
        data = self.open_feed(init_memory=True)
        try:
            return self.advance(state, 0, steps, data, interrupt)[0]
        finally:
            data.close()

    def introduce(self, state: PyTree, start: int, progress: Progress) -> None:
        """Says what is about to run."""
        run, d = self.run, self.devices
        shapes = jax.eval_shape(lambda s: d.collect(s, run.state_specs), state)
        progress.say(parameter_overview.get_parameter_overview(shapes.params, include_stats=False))
        kind = jax.devices()[0].device_kind
        progress.say(
            f'{type(run.method).__name__} on {len(self.source)} images of {self.source.name}, '
            f'batch {run.batch_size}, {run.total_steps} steps ({run.total_steps / run.steps_per_epoch:.1f} epochs) '
            f'on {d.count} x {kind} ({d.mode})' + (f', going on at step {start}' if start else '')
        )

    def described(self) -> dict[str, Any]:
        """What the config does not say about a run, for `about.json`."""
        known = {
            'data': self.source.name,
            'train_images': len(self.source),
            'total_steps': self.run.total_steps,
            'steps_per_epoch': self.run.steps_per_epoch,
        }
        return known if self.held_out is None else {**known, 'held_out_images': len(self.held_out)}

    def sums(self, step: int, unlogged: dict[str, float], running: feed.Metrics) -> dict[str, float]:
        """Sums of the metrics of the steps not yet logged, up to `step`; makes sure that the loss is finite.

        Waits for them, while the device has later ones to do. In float64, the order of adding hardly matters.
        """
        host = [unlogged] if unlogged else []
        host += [self.devices.fetch(metrics) for metrics in running]
        sums = {name: float(np.sum([metrics[name] for metrics in host], dtype=np.float64)) for name in host[0]}
        if not math.isfinite(sums['loss']):
            raise NumericalError(
                f'the loss is {sums["loss"] / sums["steps"]} before step {step} -> lower optimizer.learning_rate or '
                f'lengthen the warm-up; the checkpoints in {self.workdir / FOLDER} are from before'
            )
        return sums

    def log(self, step: int, sums: dict[str, float], progress: Progress, writer: MetricWriter) -> None:
        """Writes the means over the steps since the last log."""
        means = {name: x / sums['steps'] for name, x in sums.items() if name != 'steps'}
        rate = progress.update(step, means['loss'])
        writer.write(step, {**means, 'images_per_second': rate})

    def lacks_evaluation(self, start: int) -> bool:
        """Whether step `start` is due and was not evaluated: a run may end between a checkpoint and its evaluation."""
        cadence = self.config.eval_every_steps
        due = start in (0, self.run.total_steps) or (cadence > 0 and start % cadence == 0)
        done = any(line['step'] == start and self.evaluated in line for line in read(self.workdir))
        return due and self.same_everywhere(not done)

    def evaluate(self, step: int, state: PyTree, writer: MetricWriter, progress: Progress) -> None:
        """Evaluates the encoder, and draws what there is to see."""
        stats = state.method.batch_stats['online'].get('encoder', {})
        metrics, found = self.evaluation(state.params['encoder'], stats)
        if step == 0:
            metrics |= {name.replace('eval/', 'baseline/'): x for name, x in metrics.items()}
        writer.write(step, metrics)
        shown = ('eval/knn_top1', 'eval/probe_top1', 'eval/effective_rank')
        values = '  '.join(f'{name.removeprefix("eval/")} {metrics[name]:.4g}' for name in shown if name in metrics)
        progress.say(f'step {step}: {values}' + ('  (untrained encoder)' if step == 0 else ''))
        if self.first_process:
            self.draw(step, found, writer)

    def draw_views(self, writer: MetricWriter) -> None:
        """What the augmentation makes of images."""
        png = self.workdir / 'augmentation.png'
        contact_sheet(self.source, self.run, png)
        writer.write_image(0, 'augmentation', png)

    def draw(self, step: int, found: Neighbours, writer: MetricWriter) -> None:
        """Curves so far, and the nearest neighbours of held-out images."""
        figures.curves(read(self.workdir), self.workdir / 'curves.png')
        evaluation, png = self.evaluation, self.workdir / 'neighbours.png'
        neighbours(evaluation.train, evaluation.test, found, self.config, png)
        writer.write_image(step, 'neighbours', png)

    def summarize(self, step: int, progress: Progress) -> dict[str, float]:
        """The last lines of a run that is at `step`: where things are, and whether the features got better."""
        self.checkpoints.wait()
        history = read(self.workdir) if self.first_process else []
        last: dict[str, float] = {}
        for line in history:
            last |= {name: x for name, x in line.items() if name.startswith(('eval/', 'baseline/'))}
        for name, title in (('knn_top1', 'kNN'), ('probe_top1', 'linear probe')):
            if last.get(f'eval/{name}') is not None and last.get(f'baseline/{name}') is not None:
                progress.say(
                    f'{title} accuracy on held-out {self.source.name}: {last[f"eval/{name}"]:.1%} '
                    f'(untrained encoder: {last[f"baseline/{name}"]:.1%})'
                )
        pictures = f'  pictures: {self.workdir}/*.png' if self.evaluation is not None else ''
        progress.say(f'checkpoint: {self.workdir / FOLDER}/{step}  metrics: {self.workdir / FILE}{pictures}')
        return last

    def agree(self, interrupt: Interrupt) -> str | None:
        """Whether any process was asked to stop; all of them must save the same step."""
        if jax.process_count() == 1:
            return interrupt.requested
        flags = multihost_utils.process_allgather(np.array(interrupt.requested is not None))
        return (interrupt.requested or 'a signal to another host') if flags.any() else None

    def same_everywhere(self, flag: bool) -> bool:
        """The first process's answer: it alone writes to the workdir, which others may not even see."""
        return flag if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.array(flag)))
