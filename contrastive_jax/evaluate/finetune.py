"""Fine-tuning: the encoder of a run is trained on with a classifier on top, on all labels or a few of each class."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from contrastive_jax import loop, optim, parallel, recipe, schedules, train
from contrastive_jax.checkpoint import Restored
from contrastive_jax.data import sampler, sources
from contrastive_jax.evaluate import training
from contrastive_jax.evaluate.encoder import Encoder
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import top_accuracies
from contrastive_jax.evaluate.protocol import Data, Protocol
from contrastive_jax.interrupt import Interrupt
from contrastive_jax.methods import base
from contrastive_jax.metrics import MetricWriter
from contrastive_jax.models.network import Network
from contrastive_jax.progress import Progress
from contrastive_jax.rules import Rules

Array = jax.Array
PyTree = Any


@dataclasses.dataclass(frozen=True)
class FineTune(base.Method):
    """Encoder and one linear layer, trained together, with batch norm over the whole batch.

    Attributes:
      network: of the run; only its encoder is used. Its weights are zeros until the loop puts the run's in.
      num_classes: C.
      init_std: deviation of the classifier's first weights; 0: zeros.
    """

    num_classes: int = 2
    init_std: float = 0.01

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        zeros, dim = training.empty(self.network.encoder, batch['views'][0])
        classifier = {
            'weight': self.init_std * jax.random.normal(rng, (dim, self.num_classes)),
            'bias': jnp.zeros(self.num_classes),
        }
        stats = {'encoder': zeros['batch_stats']} if 'batch_stats' in zeros else {}
        params = {'encoder': zeros['params'], 'classifier': classifier}
        return params, base.MethodState(target={}, batch_stats={'online': stats}, memory={})

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
        logits, stats = self.forward(params, state.batch_stats['online'], batch['views'][0], axis_name)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()
        top1 = jnp.mean(jnp.argmax(logits, axis=1) == batch['label'])
        return loss, (state.replace(batch_stats={'online': stats}), {'train_top1': top1})

    def forward(self, params: PyTree, stats: PyTree, x: Array, axis_name: str | None) -> tuple[Array, PyTree]:
        """In training mode: logits [b, C] of normalised images [b, H, W, 3], and the new BN statistics."""
        h, stats = base.apply(self.network, {'encoder': params['encoder']}, stats, x, axis_name, 'encode')
        return classify(params['classifier'], h.astype(jnp.float32)), stats

    def logits(self, params: PyTree, stats: PyTree, x: Array) -> Array:
        """In evaluation mode: logits [b, C] of normalised images [b, H, W, 3]."""
        variables = {'params': {'encoder': params['encoder']}, 'batch_stats': stats}
        h: Any = self.network.apply(variables, x, train=False, method='encode')
        return classify(params['classifier'], h.astype(jnp.float32))


def classify(params: PyTree, h: Array) -> Array:
    """Logits [b, C] of features [b, D]."""
    return h @ params['weight'] + params['bias']


def build(config: ConfigDict, encoder: Encoder, num_examples: int, num_classes: int) -> train.Recipe:
    """The recipe of a (checked) config.

    Args:
      config: of the form of `protocols.base('finetune')`.
      encoder: where training starts.
      num_examples: that it is trained on.
      num_classes: of the data.
    """
    per_epoch = sampler.steps_per_epoch(num_examples, config.batch_size)
    total = max(1, round(config.epochs * per_epoch))
    schedule, o = training.schedule(config, per_epoch, total), config.optimizer
    factor = config.batch_size / o.learning_rate_batch if o.learning_rate_batch else 1.0

    def sgd(rate: float) -> optax.GradientTransformation:
        scaled: schedules.Schedule = lambda step: rate * factor * schedule(step)  # noqa: E731
        return optim.sgd(scaled, momentum=o.momentum, weight_decay=o.weight_decay, nesterov=o.nesterov)

    return train.Recipe(
        method=FineTune(network_of(encoder), num_classes, config.finetune.init_std),
        policy=training.policy(config, encoder.policy),
        optimizer=optim.by_path(
            sgd(o.learning_rate), {'classifier': (('classifier',), sgd(o.classifier_learning_rate))}
        ),
        learning_rate=lambda step: o.learning_rate * factor * schedule(step),
        batch_size=config.batch_size,
        image_size=encoder.image_size,
        total_steps=total,
        steps_per_epoch=per_epoch,
        seed=config.seed,
    )


def network_of(encoder: Encoder) -> Network:
    """The network of the run, without what belongs to its pre-training: BN groups, chunks, dropped paths."""
    c = ConfigDict(encoder.config.to_dict())
    c.bn_group_size, c.chunks = 0, 1
    if 'drop_path' in c.encoder:
        c.encoder.drop_path = 0.0
    return recipe.build_network(c)


def labelled(labels: np.ndarray, fraction: float) -> np.ndarray:
    """bool[n]: that fraction of each class, at least one image, spread evenly over its images."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        count = max(1, round(fraction * len(ids)))
        chosen[ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]] = True
    return chosen


class FineTuneTrainer(loop.Trainer):
    """The loop, with the start of a run's encoder, and the accuracy in place of its evaluation.

    Args:
      config, workdir, devices, run, source: as for the loop.
      encoder: where training starts.
      test: labelled images.
    """

    evaluated = 'eval/finetune_top1'

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        devices: parallel.Devices,
        run: train.Recipe,
        source: sources.Source,
        encoder: Encoder,
        test: sources.Source,
    ):
        super().__init__(config, workdir, devices, run, source, None)
        self.encoder, self.test = encoder, test
        self._extract = FeatureExtractor(
            run.method.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
        )

    def open_evaluation(self) -> Any:
        """None of the loop's own."""
        return None

    def restore_or_init(self) -> Restored:
        """As the loop; at step 0 with the encoder's weights."""
        start = super().restore_or_init()
        if start.step > 0:
            return start
        params, stats = self.devices.place((self.encoder.params, self.encoder.stats), parallel.REPLICATED)
        online = {'encoder': stats} if stats else {}
        state = dataclasses.replace(
            start.state,
            params={**start.state.params, 'encoder': params},
            method=start.state.method.replace(batch_stats={'online': online}),
        )
        return start._replace(state=state)

    def lacks_evaluation(self, start: int) -> bool:
        return start > 0 and super().lacks_evaluation(start)

    def evaluate(self, step: int, state: PyTree, writer: MetricWriter, progress: Progress) -> None:
        """Accuracy on the test images."""
        stats = state.method.batch_stats['online'].get('encoder', {})
        h, ids = self._extract(state.params['encoder'], stats, self.test, np.arange(len(self.test)))
        assert self.test.labels is not None
        logits = classify(self.devices.fetch(state.params['classifier']), jnp.asarray(h))
        accuracy = top_accuracies(logits, self.test.labels[ids])
        writer.write(step, {f'eval/finetune_{name}': value for name, value in accuracy.items()})
        progress.say(f'step {step}: fine-tuned top1 {accuracy["top1"]:.4g}  top5 {accuracy["top5"]:.4g}')


# ================================ the protocol ================================


def fields(c: ConfigDict) -> None:
    """SwAV's protocol for 10 % of the labels."""
    c.finetune = ConfigDict()
    c.finetune.init_std = 0.01  # deviation of the classifier's first weights; 0: zeros
    c.finetune.labels = 0.1  # part of each class that it is trained on, at least one image
    training.fields(c, epochs=20.0, milestones=(12, 16), factor=0.2)
    c.optimizer.learning_rate = 0.01  # of the encoder
    c.optimizer.classifier_learning_rate = 0.2
    c.optimizer.weight_decay = 0.0


def rules(c: ConfigDict, devices: int, rules: Rules) -> None:
    training.rules(c, devices, rules)
    rules.within('finetune.init_std', 0)
    rules.within('finetune.labels', 0, 1, open_low=True)
    for field in ('learning_rate', 'classifier_learning_rate'):
        rules.within(f'optimizer.{field}', 0, open_low=True)
    rules.within('optimizer.weight_decay', 0)


def check(config: ConfigDict, data: Data) -> None:
    sampler.steps_per_epoch(len(training_images(config, data)), config.batch_size)


def run(config: ConfigDict, encoder: Encoder, data: Data, devices: parallel.Devices, workdir: Path) -> dict[str, float]:
    given = training_images(config, data)
    tuning = build(config, encoder, len(given), data.classes)
    test = sources.Rows(data.test, data.test_ids)
    with Interrupt() as interrupt:
        trainer = FineTuneTrainer(config, workdir, devices, tuning, given, encoder, test)
        return {**trainer.fit(interrupt), 'eval/finetune_images': len(given)}


def training_images(config: ConfigDict, data: Data) -> sources.Rows:
    assert data.train.labels is not None
    ids = data.train_ids
    return sources.Rows(data.train, ids[labelled(data.train.labels[ids], config.finetune.labels)])


FINETUNE = Protocol(fields, rules, check, run)
