"""Evaluators: what is measured and drawn while a run trains.

The loop knows an evaluator by this contract alone: when it is due, what it measures, what it draws. The config names
the evaluators of a run (`config.eval.evaluators`), and `training.fit.fit` takes more of them from Python.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ml_collections import ConfigDict

from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate import online, signals
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.evaluate.linear import linear_probe
from contrastive_jax.evaluate.pixels import pixel_accuracy
from contrastive_jax.evaluate.verdict import few, first_weights, verdict
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.plots import figures
from contrastive_jax.plots.pictures import contact_sheet, neighbors
from contrastive_jax.rules import did_you_mean, import_named
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.workdir.metrics import read

# Pairs for the uniformity, and rows for the singular values of the rank: enough to estimate both well, and cheap.
SIGNAL_EXAMPLES = 2048


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator can be built from.

    Attributes:
      config: the config of the run.
      run: what is constant in the run; `run.method.network` is the network.
      devices: the devices that the run uses.
      source: training images.
      held_out: held-out images; None where the data has none.
      features: features of both splits at a step, shared by all evaluators.
    """

    config: ConfigDict
    run: Run
    devices: Devices
    source: Source
    held_out: Source | None
    features: online.OnlineFeatures


class Evaluator(abc.ABC):
    """Measures a run at some of its steps. Subclass it, and give the class or its name to a run.

    A class that a config names is built as `MyEvaluator(context)`. `__call__` runs on every process of a run and may
    use all devices; `draw` runs on the first process alone.

    Attributes:
      name: what messages call it.
      every_steps: it is due at the multiples of this number of steps, and always at the end; 0: only at the end.
      at_start: whether it is also due before the first step, on the untrained network.
      measures: whether `__call__` returns metrics; False for an evaluator that only draws.
      shown: metrics that are printed in the line of an evaluation; None: all of them.
    """

    name: str
    every_steps: int = 0
    at_start: bool = True
    measures: ClassVar[bool] = True
    shown: ClassVar[tuple[str, ...] | None] = None

    def due(self, step: int, total_steps: int) -> bool:
        """Whether it evaluates at `step`."""
        if step == 0:
            return self.at_start
        return step == total_steps or (self.every_steps > 0 and step % self.every_steps == 0)

    @abc.abstractmethod
    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Measures.

        Args:
          step: steps done.
          state: the state at that step, in the devices' layout; it must not be changed or donated.

        Returns:
          Metric name -> value. Names begin with 'eval/'. They go to metrics.jsonl and to TensorBoard.

        Raises:
          Interrupted: the run was asked to stop. An evaluator that takes long calls `distributed.stopping.check`
            between its batches, as the extraction of features does.
        """

    def draw(self, step: int, workdir: Path) -> dict[str, Path]:
        """Draws pictures, after the metrics of this step were written.

        Args:
          step: steps done.
          workdir: the folder of the run, where the pictures go.

        Returns:
          Name -> .png file, for TensorBoard.
        """
        del step, workdir
        return {}

    def remarks(self) -> Iterable[str]:
        """Lines before the first step, such as why something is not measured."""
        return ()

    def conclusions(self, last: Mapping[str, float]) -> Iterable[str]:
        """The last lines of a run about what this evaluator measured.

        Args:
          last: the last value of each metric; 'baseline/X' is 'eval/X' of the untrained network.
        """
        del last
        return ()


# ================================ evaluators that a config can name ================================


class KNN(Evaluator):
    """Weighted kNN accuracy on held-out images (InstDis, arXiv 1805.01978, section 3.4). It needs labels."""

    name = 'knn'

    def __init__(self, context: Context):
        e = context.config.eval
        self.every_steps = context.config.eval_every_steps
        self._features, self._data = context.features, context.source.name
        self._first = first_weights(context.config.get('init', ''))
        self._run = context.run
        self._k, self._temperature = e.knn_k, e.knn_temperature

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        if self._features.unmeasured:
            return {}
        found = features_at(self._features, step, state)
        metrics = {'eval/knn_top1': self._accuracy(found)}
        if step == 0:
            metrics['baseline/pixels_knn_top1'] = self._of_pixels()
        elif self._features.is_limited:
            metrics[few('eval/knn_top1')] = self._accuracy(self._features.of_few(found))
        return metrics

    def _of_pixels(self) -> float:
        features, run = self._features, self._run
        return pixel_accuracy(
            features.train,
            features.few[0],
            features.test,
            features.few[1],
            policy=run.policy,
            image_size=run.image_size,
            k=self._k,
            temperature=self._temperature,
        )

    def _accuracy(self, found: online.Features) -> float:
        given = self._features.labeled(found)
        return knn_accuracy(*given, k=min(self._k, len(given[0])), temperature=self._temperature)['top1']

    def remarks(self) -> Iterable[str]:
        if self._features.is_limited:
            train, test = (len(ids) for ids in self._features.few)
            yield f'{self._first} and raw pixels are measured on {train:,} training and {test:,} held-out images'
        yield from not_measured('kNN', self._features)

    def conclusions(self, last: Mapping[str, float]) -> Iterable[str]:
        return compared('kNN', 'knn_top1', self._data, last, self._first)


class Probe(Evaluator):
    """Accuracy on held-out images of a linear classifier, trained to convergence on frozen features; needs labels."""

    name = 'probe'

    def __init__(self, context: Context):
        self.every_steps = context.config.eval_every_steps
        self._features, self._data = context.features, context.source.name
        self._first = first_weights(context.config.get('init', ''))

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        if self._features.unmeasured:
            return {}
        found = features_at(self._features, step, state)
        metrics = {'eval/probe_top1': self._accuracy(found)}
        if step > 0 and self._features.is_limited:
            metrics[few('eval/probe_top1')] = self._accuracy(self._features.of_few(found))
        return metrics

    def _accuracy(self, found: online.Features) -> float:
        return linear_probe(*self._features.labeled(found))['top1']

    def remarks(self) -> Iterable[str]:
        return not_measured('linear probe', self._features)

    def conclusions(self, last: Mapping[str, float]) -> Iterable[str]:
        return compared('linear probe', 'probe_top1', self._data, last, self._first)


class Signals(Evaluator):
    """Signals of collapse, which need no labels: spread, effective rank and uniformity of the features."""

    name = 'signals'
    shown = ('eval/effective_rank',)

    def __init__(self, context: Context):
        self.every_steps = context.config.eval_every_steps
        self._features, self._first = context.features, first_weights(context.config.get('init', ''))

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        test = features_at(self._features, step, state).test
        few = test[online.evenly_spaced(len(test), SIGNAL_EXAMPLES)]
        return {
            'eval/feature_std': float(feature_std(few)),
            'eval/effective_rank': float(signals.effective_rank(few)),
            'eval/uniformity': float(signals.uniformity(few)) if len(few) > 1 else 0.0,
        }

    def conclusions(self, last: Mapping[str, float]) -> Iterable[str]:
        return verdict(last, self._first)


class Pictures(Evaluator):
    """Draws the augmented views at the start, the curves at later evaluations, and the nearest neighbors at each."""

    name = 'pictures'
    measures = False

    def __init__(self, context: Context):
        self.every_steps = context.config.eval_every_steps
        self._context = context
        self._found: online.Neighbors | None = None

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        found = features_at(self._context.features, step, state)
        self._found = online.nearest(found.train, found.train_ids, found.test, found.test_ids)
        return {}

    def draw(self, step: int, workdir: Path) -> dict[str, Path]:
        context, drawn = self._context, {}
        if step == 0:
            run = context.run
            drawn['augmentation'] = workdir / 'augmentation.png'
            contact_sheet(context.source, run.policy, run.image_size, run.seed, drawn['augmentation'])
        else:  # at the start each curve would be a single point
            figures.curves(read(workdir), workdir / 'curves.png', first_weights(context.config.get('init', '')))
        assert self._found is not None
        drawn['neighbours'] = workdir / 'neighbours.png'
        features, run = context.features, context.run
        neighbors(features.train, features.test, self._found, run.policy, run.image_size, drawn['neighbours'])
        return drawn


EVALUATORS: dict[str, type[Any]] = {kind.name: kind for kind in (KNN, Probe, Signals, Pictures)}


def build_evaluators(context: Context) -> list[Evaluator]:
    """The evaluators that `config.eval.evaluators` names: keys of EVALUATORS, or 'my_package.module:MyEvaluator'.

    Raises:
      UserError: a name that is no evaluator.
    """
    return [evaluator_class(name)(context) for name in context.config.eval.evaluators]


def evaluator_class(name: str) -> type[Any]:
    """The class of an evaluator by its name.

    Raises:
      UserError: it does not exist, or is no Evaluator.
    """
    if name in EVALUATORS:
        return EVALUATORS[name]
    if ':' not in name:
        raise UserError(
            f'eval.evaluators {name!r} is unknown{did_you_mean(name, EVALUATORS)} -> choose from '
            f"{', '.join(EVALUATORS)}, or give a class of your own as 'package.module:Class'"
        )
    found = import_named('eval.evaluators', name)
    if not (isinstance(found, type) and issubclass(found, Evaluator)):
        raise UserError(
            f'eval.evaluators {name!r} is no Evaluator -> subclass contrastive_jax.training.evaluators.Evaluator'
        )
    return found


# ================================ what they share ================================


def features_at(features: online.OnlineFeatures, step: int, state: TrainState) -> online.Features:
    """Features of the online encoder of a state."""
    return features.at(step, state.params['encoder'], state.method.batch_stats['online'].get('encoder', {}))


def not_measured(title: str, features: online.OnlineFeatures) -> Sequence[str]:
    """The line that says why an accuracy is left out, if it is."""
    return (f'{title} accuracy is not measured: {features.unmeasured}',) if features.unmeasured else ()


def compared(title: str, metric: str, data: str, last: Mapping[str, float], first: str) -> Sequence[str]:
    """The line that compares a metric with that of the encoder at step 0, called `first`, if both were measured."""
    ours, before = last.get(f'eval/{metric}'), last.get(f'baseline/{metric}')
    if ours is None or before is None:
        return ()
    same = last.get(few(f'eval/{metric}'))
    on = '' if same is None else f'{same:.1%} on the images of the next value; '
    return (f'{title} accuracy on held-out {data}: {ours:.1%} ({on}{first}: {before:.1%})',)
