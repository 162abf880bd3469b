"""The linear probe as the papers train it: a classifier on a frozen encoder, by SGD on random crops, in the same loop.

Many learning rates and weight decays are trained at once: the classifiers of a sweep see the same features, which cost
nearly everything. The best is chosen on images held out of the training split, and then asked for the test images once.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from ml_collections import ConfigDict

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
from contrastive_jax.protocols.base import Data, Protocol
from contrastive_jax.rules import Rules
from contrastive_jax.training import loop
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.progress import Progress
from contrastive_jax.training.run import Run
from contrastive_jax.workdir.checkpoint import Restored
from contrastive_jax.workdir.metrics import MetricWriter


@dataclasses.dataclass(frozen=True)
class LinearProbe(base.Method):
    """One linear layer for each setting of a sweep, on the features of a frozen encoder in evaluation mode.

    Its state holds the encoder as 'target', zeros until the loop puts the weights in.

    Attributes:
      network: of the run; only its encoder is used.
      settings: R, classifiers that are trained side by side.
      num_classes: C.
      init_std: deviation of the first weights; 0: zeros.
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
    ) -> tuple[Array, tuple[base.MethodState, dict[str, Array]]]:
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


# ================================ the run ================================


def settings(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates (at this batch size) and weight decays, float32[R] each, of all pairs."""
    o = config.optimizer
    factor = config.batch_size / o.learning_rate_batch if o.learning_rate_batch else 1.0
    pairs = [(rate * factor, decay) for rate in o.learning_rates for decay in o.weight_decays]
    rates, decays = np.array(pairs, np.float32).T
    return rates, decays


def build(config: ConfigDict, encoder: Encoder, num_examples: int, num_classes: int) -> Run:
    """The recipe of a (checked) config.

    Args:
      config: of the form of `protocols.base('linear')`.
      encoder: that is judged.
      num_examples: the classifiers are trained on.
      num_classes: of the data.
    """
    per_epoch = sampler.steps_per_epoch(num_examples, config.batch_size)
    total = max(1, round(config.epochs * per_epoch))
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


def held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """bool[n]: that fraction of each class, spread evenly over its images. A class's only image is not among them."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(ids))), len(ids) - 1)
        chosen[ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]] = count > 0
    return chosen


class ProbeTrainer(loop.Trainer):
    """The loop, with another start, and accuracies in place of its evaluation of an encoder.

    Args:
      config, workdir, devices, run, source: as for the loop; `source` is what the classifiers are trained on.
      encoder: that is judged.
      selection: labelled images that choose among the classifiers; None where there is one.
      test: labelled images that the chosen one is asked for.
    """

    evaluated = 'eval/linear_top1'

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        devices: Devices,
        run: Run,
        source: sources.Source,
        encoder: Encoder,
        selection: sources.Source | None,
        test: sources.Source,
    ):
        super().__init__(config, workdir, devices, run, source, None)
        self.encoder, self.selection, self.test = encoder, selection, test
        self._extract = FeatureExtractor(
            encoder.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
        )
        self._features: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def open_evaluation(self) -> Any:
        """None of the loop's own."""
        return None

    def restore_or_init(self) -> Restored:
        """As the loop; at step 0 with the encoder's weights, which the checkpoint then holds, too."""
        start = super().restore_or_init()
        if start.step == 0:
            params, stats = self.devices.place((self.encoder.params, self.encoder.stats), REPLICATED)
            method = start.state.method.replace(target={'encoder': params}, batch_stats={'target': {'encoder': stats}})
            return start._replace(state=dataclasses.replace(start.state, method=method))
        if not self.is_frozen(start.state):
            raise UserError(
                f'the encoder in {self.config.init} is another than that of {self.workdir} -> choose another --workdir'
            )
        return start

    def is_frozen(self, state: PyTree) -> bool:
        """Whether the encoder is, to the last bit, the one that is judged."""
        target, stats = self.devices.fetch((state.method.target, state.method.batch_stats))
        held = target['encoder'], stats['target']['encoder']
        same = jax.tree.map(np.array_equal, held, (self.encoder.params, self.encoder.stats))
        return all(jax.tree.leaves(same))

    def lacks_evaluation(self, start: int) -> bool:
        return start > 0 and super().lacks_evaluation(start)

    def evaluate(self, step: int, state: PyTree, writer: MetricWriter, progress: Progress) -> None:
        """Chooses a classifier on the images of the selection, and asks it for the test images."""
        assert self.is_frozen(state), 'the frozen encoder has moved'
        params = self.devices.fetch(state.params)
        chosen = [self.accuracies(state, params, 'selection', self.selection)] if self.selection is not None else []
        best = int(np.argmax(np.nan_to_num([row['top1'] for row in chosen[0]], nan=-1.0))) if chosen else 0
        tested = self.accuracies(state, jax.tree.map(lambda x: x[best : best + 1], params), 'test', self.test)[0]
        rates, decays = settings(self.config)
        found = {
            'eval/linear_top1': tested['top1'],
            'eval/linear_top5': tested['top5'],
            'eval/linear_learning_rate': float(rates[best]),
            'eval/linear_weight_decay': float(decays[best]),
        }
        if chosen:
            for rate, decay, row in zip(rates, decays, chosen[0], strict=True):
                found[f'eval/selection/lr{rate:g}_wd{decay:g}'] = row['top1']
        writer.write(step, found)
        progress.say(
            f'step {step}: linear probe top1 {tested["top1"]:.4g}  top5 {tested["top5"]:.4g}  '
            f'(learning rate {rates[best]:g}, weight decay {decays[best]:g})'
        )

    def accuracies(self, state: PyTree, params: PyTree, name: str, source: sources.Source) -> list[dict[str, float]]:
        """Of each classifier on the images of a source, whose features are computed once."""
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


# ================================ the protocol ================================


def fields(c: ConfigDict) -> None:
    """MoCo's protocol."""
    c.linear = ConfigDict()
    c.linear.init_std = 0.01  # deviation of the classifier's first weights; 0: zeros
    c.linear.selection = 0.1  # part of each class that chooses among the settings, if there are several
    readout.fields(c)
    training.fields(c, epochs=100.0, milestones=(60, 80), factor=0.1)
    # A classifier is trained for every pair of the two, all at once; the best is chosen by `linear.selection`.
    c.optimizer.learning_rates = (30.0,)
    c.optimizer.weight_decays = (0.0,)
    c.optimizer.name = 'sgd'  # 'sgd', 'larc'


def rules(c: ConfigDict, devices: int, rules: Rules) -> None:
    training.rules(c, devices, rules)
    readout.rules(c, rules)
    rules.one_of('optimizer.name', ('sgd', 'larc'))
    rules.within('linear.init_std', 0)
    rules.within('linear.selection', 0, 0.5, open_low=True)
    rates, decays = c.optimizer.learning_rates, c.optimizer.weight_decays
    rules.rule(
        len(rates) > 0 and all(math.isfinite(rate) and rate > 0 for rate in rates),
        f'optimizer.learning_rates {rates!r} is out of range -> give numbers above 0: (1.0, 10.0)',
    )
    rules.rule(
        len(decays) > 0 and all(math.isfinite(decay) and decay >= 0 for decay in decays),
        f'optimizer.weight_decays {decays!r} is out of range -> give numbers of at least 0: (0.0, 1e-6)',
    )


def check(config: ConfigDict, encoder: Encoder, data: Data) -> None:
    del encoder
    parts(config, data)  # says if there are fewer images than a batch


def run(config: ConfigDict, encoder: Encoder, data: Data, devices: Devices, workdir: Path) -> dict[str, float]:
    given, selection = parts(config, data)
    recipe = build(config, encoder, len(given), data.classes)
    test = sources.Subset(data.test, data.test_ids)
    with Interrupt() as interrupt:
        trainer = ProbeTrainer(config, workdir, devices, recipe, given, encoder, selection, test)
        return trainer.fit(interrupt)


def parts(config: ConfigDict, data: Data) -> tuple[sources.Subset, sources.Subset | None]:
    """The images that classifiers are trained on, and those that choose among them, if there are several."""
    assert data.train.labels is not None
    ids, selection = data.train_ids, None
    if len(settings(config)[0]) > 1:
        chosen = held_out(data.train.labels[ids], config.linear.selection)
        if not chosen.any():
            raise UserError(
                f'no class of {data.train.name} has two training images, one of which could choose among '
                f'{len(settings(config)[0])} settings -> give one of optimizer.learning_rates and weight_decays'
            )
        ids, selection = ids[~chosen], sources.Subset(data.train, ids[chosen])
    sampler.steps_per_epoch(len(ids), config.batch_size)
    return sources.Subset(data.train, ids), selection


LINEAR = Protocol(fields, rules, check, run)
