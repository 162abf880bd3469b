"""The linear probe as the papers train it: SGD on random crops. (evaluate/linear.py fits L-BFGS on fixed features.)

The classifier is on top of a frozen encoder, and the loop of pretraining trains it. Many learning rates and weight
decays are trained at once: all classifiers of a sweep use the same features, which cost nearly all the time. The best
one is chosen on images held out of the training split, and is then measured on the test images once.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.config.length import total_steps
from contrastive_jax.data import sampler, sources
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import top_accuracies
from contrastive_jax.methods import base
from contrastive_jax.optim import optimizers
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.protocols import readout, training
from contrastive_jax.protocols.base import Asked, Data, Protocol
from contrastive_jax.protocols.subset import stratified
from contrastive_jax.rules import Rules, field
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.run import Run, TrainState


@dataclasses.dataclass(frozen=True)
class LinearProbe(base.Method):
    """One linear layer for each setting of a sweep, on the features of a frozen encoder in evaluation mode.

    Its state holds the encoder as 'target': zeros until the start function replaces them with the weights.

    Attributes:
      network: the network of the run; only its encoder is used.
      settings: R, the number of classifiers that are trained side by side.
      num_classes: C, the number of classes.
      init_std: standard deviation of the initial weights; 0: zeros.
    """

    settings: int = 1
    num_classes: int = 2
    init_std: float = 0.01

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        zeros, dim = training.empty(self.network.encoder, batch['views'][0])
        # All classifiers start from the same weights, so that they differ by their settings alone.
        weight = self.init_std * jax.random.normal(rng, (dim, self.num_classes))
        params = {
            'weight': jnp.tile(weight, (self.settings, 1, 1)),
            'bias': jnp.zeros((self.settings, self.num_classes)),
        }
        stats = {'target': {'encoder': zeros.get('batch_stats', {})}}
        return params, base.MethodState(target={'encoder': zeros['params']}, batch_stats=stats, memory={})

    def loss(
        self,
        params: PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> base.LossOutput:
        del rng, progress
        variables = {'params': state.target['encoder'], 'batch_stats': state.batch_stats['target']['encoder']}
        h: Any = self.network.encoder.apply(variables, batch['views'][0], train=False)
        logits = classify(params, lax.stop_gradient(h.astype(jnp.float32)))  # [R, b, C]
        labels = batch['label'][None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(axis=1)  # [R]
        top1 = jnp.mean(jnp.argmax(logits, axis=2) == labels, axis=1)
        everywhere, top1 = collectives.pmean((lax.stop_gradient(losses), top1), axis_name)
        # The sum, so that each classifier gets its own gradient; the log shows the best.
        return losses.sum(), (state, {'loss': everywhere.min(), 'train_top1': top1.max()})


def classify(params: PyTree, h: Array) -> Array:
    """Logits [R, b, C] of features [b, D]."""
    return jnp.einsum('bd,rdc->rbc', h, params['weight']) + params['bias'][:, None]


# ================================ the training ================================


def settings(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates (scaled to the batch size) and weight decays of all pairs, float32[R] each."""
    o = config.optimizer
    factor = config.batch_size / o.learning_rate_batch if o.learning_rate_batch else 1.0
    pairs = [(rate * factor, decay) for rate in o.learning_rates for decay in o.weight_decays]
    rates, decays = np.array(pairs, np.float32).T
    return rates, decays


def build(config: ConfigDict, encoder: Encoder, num_examples: int, num_classes: int) -> Run:
    """Makes the run of a checked config.

    Args:
      config: a config with the fields of `protocol_config('linear')`.
      encoder: the encoder that is evaluated.
      num_examples: number of images that the classifiers are trained on.
      num_classes: number of classes of the data.
    """
    per_epoch = sampler.steps_per_epoch(num_examples, config.batch_size)
    total = total_steps(config, per_epoch)
    schedule, o = training.schedule(config, per_epoch, total), config.optimizer
    rates, decays = settings(config)

    def make(rate: Array, decay: Any) -> optax.GradientTransformation:
        scaled = lambda step: rate * schedule(step)  # noqa: E731
        if o.name == 'larc':
            return optimizers.larc(scaled, momentum=o.momentum, weight_decay=decay)
        return optimizers.sgd(scaled, momentum=o.momentum, weight_decay=decay, nesterov=o.nesterov)

    return Run(
        method=LinearProbe(encoder.network, len(rates), num_classes, config.linear.init_std),
        policy=training.policy(config, encoder.policy),
        optimizer=optimizers.sweep(make, rates, decays),
        learning_rate=lambda step: rates.max() * schedule(step),
        batch_size=config.batch_size,
        image_size=encoder.image_size,
        total_steps=total,
        steps_per_epoch=per_epoch,
        seed=config.seed,
    )


class ProbeEvaluator(Evaluator):
    """Chooses a classifier by its accuracy on the selection images, and measures the chosen one on the test images.

    Args:
      config: the config of the evaluation.
      encoder: the encoder that is evaluated.
      devices: the devices that the run uses.
      selection: labeled images that choose among the classifiers; None where there is one classifier.
      test: labeled images that the chosen classifier is measured on.
    """

    name = 'linear'
    at_start = False
    shown = ('eval/linear_top1', 'eval/linear_top5', 'eval/linear_learning_rate', 'eval/linear_weight_decay')

    def __init__(
        self,
        config: ConfigDict,
        encoder: Encoder,
        devices: Devices,
        selection: sources.Source | None,
        test: sources.Source,
    ):
        self.every_steps = config.eval_every_steps
        self._config, self._encoder, self._devices = config, encoder, devices
        self._selection, self._test = selection, test
        self._extract = FeatureExtractor(
            encoder.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
        )
        self._features: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        assert is_frozen(state, self._encoder, self._devices), 'the frozen encoder has moved'
        params = self._devices.fetch(state.params)
        chosen = [self.accuracies(state, params, 'selection', self._selection)] if self._selection is not None else []
        best = int(np.argmax(np.nan_to_num([row['top1'] for row in chosen[0]], nan=-1.0))) if chosen else 0
        tested = self.accuracies(state, jax.tree.map(lambda x: x[best : best + 1], params), 'test', self._test)[0]
        rates, decays = settings(self._config)
        found = {
            'eval/linear_top1': tested['top1'],
            'eval/linear_top5': tested['top5'],
            'eval/linear_learning_rate': float(rates[best]),
            'eval/linear_weight_decay': float(decays[best]),
        }
        if chosen:
            for rate, decay, row in zip(rates, decays, chosen[0], strict=True):
                found[f'eval/selection/lr{rate:g}_wd{decay:g}'] = row['top1']
        return found

    def accuracies(
        self, state: TrainState, params: PyTree, name: str, source: sources.Source
    ) -> list[dict[str, float]]:
        """The accuracies of each classifier on a source. Its features are computed once."""
        if name not in self._features:
            method = state.method
            given = method.target['encoder'], method.batch_stats['target']['encoder']
            self._features[name] = self._extract(*given, source, np.arange(len(source)))
        h, ids = self._features[name]
        x = jnp.asarray(h)
        assert source.labels is not None
        labels = source.labels[ids]
        one = lambda p: classify(jax.tree.map(lambda w: w[None], p), x)[0]  # noqa: E731
        rows = [jax.tree.map(lambda w: w[r], params) for r in range(len(params['bias']))]  # noqa: B023
        return [top_accuracies(one(row), labels) for row in rows]


def is_frozen(state: TrainState, encoder: Encoder, devices: Devices) -> bool:
    """Whether the encoder of a state is, to the last bit, the one that is evaluated."""
    target, stats = devices.fetch((state.method.target, state.method.batch_stats))
    held = target['encoder'], stats['target']['encoder']
    same = jax.tree.map(np.array_equal, held, (encoder.params, encoder.stats))
    return all(jax.tree.leaves(same))


def start(
    state: TrainState, step: int, *, config: ConfigDict, encoder: Encoder, devices: Devices, workdir: Path
) -> TrainState:
    """Puts the weights of the encoder into the state at step 0. A checkpoint holds them, too.

    Raises:
      UserError: the checkpoint is about another encoder.
    """
    if step > 0:
        if not is_frozen(state, encoder, devices):
            raise UserError(
                f'the encoder in {config.init} is not the one that {workdir} began with -> choose another folder'
            )
        return state
    params, stats = devices.place((encoder.params, encoder.stats), REPLICATED)
    method = state.method.replace(target={'encoder': params}, batch_stats={'target': {'encoder': stats}})
    return dataclasses.replace(state, method=method)


# ================================ the protocol ================================


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `linear`."""

    init_std: float = field(0.01, "Standard deviation of the classifier's initial weights; 0: zeros.", least=0)
    selection: float = field(
        0.1, 'Part of each class that is held out to choose among several classifiers.', above=0, most=0.5
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(training.Optimizer):
    """The section `optimizer`. A classifier is trained for every pair of learning rate and weight decay."""

    name: str = field('sgd', 'The optimizer.', choices=('sgd', 'larc'))
    learning_rates: tuple[float, ...] = field(
        (30.0,), 'Learning rates; `linear.selection` chooses the best classifier.', above=0, min_items=1
    )
    weight_decays: tuple[float, ...] = field((0.0,), 'Weight decays; likewise.', least=0, min_items=1)


def rules(c: ConfigDict, rules: Rules) -> None:
    training.rules(c, rules)
    readout.rules(c, rules)


def check(config: ConfigDict, encoder: Encoder, data: Data) -> int:
    del encoder
    given, _ = parts(config, data)
    return total_steps(config, sampler.steps_per_epoch(len(given), config.batch_size))


def run(
    config: ConfigDict,
    encoder: Encoder,
    data: Data,
    devices: Devices,
    workdir: Path,
    interrupt: Asked,
) -> dict[str, float]:
    given, selection = parts(config, data)
    run = build(config, encoder, len(given), data.classes)
    evaluator = ProbeEvaluator(config, encoder, devices, selection, sources.Subset(data.test, data.test_ids))
    begin = partial(start, config=config, encoder=encoder, devices=devices, workdir=workdir)
    trainer = training.build_trainer(config, run, given, evaluator, begin, workdir, devices)
    with interrupt() as asked:
        return trainer.fit(asked)


def parts(config: ConfigDict, data: Data) -> tuple[sources.Subset, sources.Subset | None]:
    """The images that classifiers are trained on, and those that choose among several classifiers, or None."""
    assert data.train.labels is not None
    ids, selection = data.train_ids, None
    if len(settings(config)[0]) > 1:
        chosen = stratified(data.train.labels[ids], config.linear.selection, leave=1)
        if not chosen.any():
            raise UserError(
                f'no class of {data.train.name} has two training images, which a choice among several needs: there are '
                f'{len(settings(config)[0])} settings -> give one of optimizer.learning_rates and weight_decays'
            )
        ids, selection = ids[~chosen], sources.Subset(data.train, ids[chosen])
    return sources.Subset(data.train, ids), selection


# The defaults are MoCo's.
LINEAR = Protocol(
    {
        **training.SECTIONS,
        'linear': Settings,
        'features': readout.Features,
        'optimizer': Optimizer,
        'schedule': training.Schedule,
    },
    rules,
    check,
    run,
    values={'batch_size': 256},
)
