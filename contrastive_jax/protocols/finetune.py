"""Fine-tuning: trains the encoder of a run further with a classifier on top, on all labels or a part of each class."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.mixing import mix
from contrastive_jax.config.build import build_network
from contrastive_jax.config.length import total_steps
from contrastive_jax.data import sampler, sources
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import top_accuracies
from contrastive_jax.methods import base, networks
from contrastive_jax.models.network import Network
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.optim import optimizers, schedules
from contrastive_jax.optim.build import batch_factor
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.protocols import training
from contrastive_jax.protocols.base import Asked, Data, Protocol
from contrastive_jax.protocols.subset import stratified
from contrastive_jax.rules import Rules, field
from contrastive_jax.training.evaluators import Evaluator
from contrastive_jax.training.run import Run, TrainState


@dataclasses.dataclass(frozen=True)
class FineTune(base.Method):
    """Encoder, first layers of the projector and a classifier, trained together; batch norm is over the whole batch.

    Attributes:
      network: the network of the run. Its weights are zeros until the start function replaces them.
      num_classes: C, the number of classes.
      init_std: standard deviation of the classifier's initial weights; 0: zeros.
      projector_layers: number of first layers of the projector between encoder and classifier.
      label_smoothing: the part of a label that is spread evenly over all classes.
      mixup: parameter of mixup, see `augment.mixing.mix`; 0: none.
      cutmix: parameter of CutMix, see `augment.mixing.mix`; 0: none.
    """

    num_classes: int = 2
    init_std: float = 0.01
    projector_layers: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        zeros, dim = training.empty(self.network, batch['views'][0], self.projector_layers, method='projector_features')
        classifier = {
            'weight': self.init_std * jax.random.normal(rng, (dim, self.num_classes)),
            'bias': jnp.zeros(self.num_classes),
        }
        stats = {'online': zeros.get('batch_stats', {})}
        return {**zeros['params'], 'classifier': classifier}, base.MethodState(target={}, batch_stats=stats, memory={})

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
        del progress
        key_mix, key_path = jax.random.split(rng)
        wanted = optax.smooth_labels(jax.nn.one_hot(batch['label'], self.num_classes), self.label_smoothing)  # [b, C]
        x, wanted = mix(key_mix, batch['views'][0], wanted, mixup=self.mixup, cutmix=self.cutmix, axis_name=axis_name)
        logits, stats = self.forward(params, state.batch_stats['online'], x, axis_name, key_path)
        loss = optax.softmax_cross_entropy(logits, wanted).mean()
        top1 = jnp.mean(jnp.argmax(logits, axis=1) == jnp.argmax(wanted, axis=1))
        return loss, (state.replace(batch_stats={'online': stats}), {'train_top1': top1})

    def forward(
        self, params: PyTree, stats: PyTree, x: Array, axis_name: str | None, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        """In training mode: logits [b, C] of normalized images [b, H, W, channels], and the new BN statistics.

        Args:
          params: parameters of the form that `init` returns.
          stats: BN statistics.
          x: float[b, H, W, channels], the images.
          axis_name: the mapped device axis.
          key: random key for an encoder with stochastic depth; None: no branch is dropped.
        """
        rngs = None if key is None else {'drop_path': key}
        h_projected = lambda network, x, **how: network.projector_features(x, self.projector_layers, **how)  # noqa: E731
        h, stats = networks.apply(self.network, _below(params), stats, x, axis_name, h_projected, rngs)
        return classify(params['classifier'], h.astype(jnp.float32)), stats

    def logits(self, params: PyTree, stats: PyTree, x: Array) -> Array:
        """In evaluation mode: logits [b, C] of normalized images [b, H, W, channels]."""
        variables = {'params': _below(params), 'batch_stats': stats}
        h: Any = self.network.apply(variables, x, self.projector_layers, train=False, method='projector_features')
        return classify(params['classifier'], h.astype(jnp.float32))

    def logits_of_features(self, params: PyTree, stats: PyTree, h: Array) -> Array:
        """In evaluation mode: logits [b, C] of features [b, D] of the encoder."""
        variables = {'params': params.get('projector', {}), 'batch_stats': stats.get('projector', {})}
        h_projected: Any = h
        if self.projector_layers:
            h_projected = self.network.projector.apply(
                variables, h, self.projector_layers, train=False, method='projector_features'
            )
        return classify(params['classifier'], h_projected)


def _below(params: PyTree) -> PyTree:
    """All but the classifier."""
    return {name: part for name, part in params.items() if name != 'classifier'}


def classify(params: PyTree, h: Array) -> Array:
    """Logits [b, C] of features [b, D]."""
    return h @ params['weight'] + params['bias']


def build(config: ConfigDict, encoder: Encoder, num_examples: int, num_classes: int) -> Run:
    """Makes the run of a checked config.

    Args:
      config: a config with the fields of `protocol_config('finetune')`.
      encoder: the encoder that training starts from.
      num_examples: number of training images.
      num_classes: number of classes of the data.
    """
    per_epoch = sampler.steps_per_epoch(num_examples, config.batch_size)
    total = total_steps(config, per_epoch)
    f = config.finetune
    rate, optimizer = optimizer_of(config, per_epoch, total)
    return Run(
        method=FineTune(
            network_of(encoder, f.drop_path),
            num_classes,
            f.init_std,
            encoder.projector_layers,
            f.label_smoothing,
            f.mixup,
            f.cutmix,
        ),
        policy=training.policy(config, encoder.policy),
        optimizer=optimizer,
        learning_rate=rate,
        batch_size=config.batch_size,
        image_size=encoder.image_size,
        total_steps=total,
        steps_per_epoch=per_epoch,
        seed=config.seed,
    )


def optimizer_of(
    config: ConfigDict, per_epoch: int, total: int
) -> tuple[schedules.Schedule, optax.GradientTransformation]:
    """The learning rate of the encoder, for the log, and the optimizer."""
    o, s, factor = config.optimizer, config.schedule, batch_factor(config)

    def schedule(rate: float) -> schedules.Schedule:
        if s.name == 'cosine_per_step':
            warmup = round(s.warmup_epochs * per_epoch)
            return schedules.warmup_cosine(rate * factor, warmup, total, s.final, s.warmup_start)
        return schedules.scaled(training.schedule(config, per_epoch, total), rate * factor)

    def optimizer(rate: float, is_classifier: bool = False) -> optax.GradientTransformation:
        common = {'learning_rate': schedule(rate), 'weight_decay': o.weight_decay}
        match o.name:
            case 'sgd':
                return optimizers.sgd(**common, momentum=o.momentum, nesterov=o.nesterov)
            case 'lars_simclr':  # the official code neither adapts nor decays the classifier
                mask = optimizers.nothing if is_classifier else optimizers.matrices
                return optimizers.lars_simclr(**common, momentum=o.momentum, nesterov=o.nesterov, mask=mask)
            case _:
                return optimizers.adamw(**common, mask=optimizers.kernels)

    both = optimizers.by_path(
        optimizer(o.learning_rate),
        {'classifier': (('classifier',), optimizer(o.classifier_learning_rate, is_classifier=True))},
    )
    if o.clip_norm:
        both = optax.chain(optax.clip_by_global_norm(o.clip_norm), both)
    return schedule(o.learning_rate), both


def network_of(encoder: Encoder, drop_path: float = 0.0) -> Network:
    """The network of the run without settings of pretraining: BN groups, chunks, stochastic depth."""
    c = ConfigDict(encoder.config.to_dict())
    c.bn_group_size, c.chunks = 0, 1
    if drop_path or 'drop_path' in c.encoder:
        c.encoder.drop_path = drop_path
    return build_network(c)


def start_of(encoder: Encoder) -> tuple[PyTree, PyTree]:
    """Parameters of all but the classifier, and BN statistics, in the form of `FineTune.init`."""
    params = {'encoder': encoder.params, 'projector': encoder.projector_params}
    stats = {'encoder': encoder.stats, 'projector': encoder.projector_stats}
    given = [{name: part for name, part in tree.items() if part} for tree in (params, stats)]
    return given[0], given[1]


class FineTuneEvaluator(Evaluator):
    """The accuracy of encoder and classifier on held-out images.

    Args:
      config: the config of the evaluation.
      encoder: the encoder that training starts from; it gives image size and pixels.
      method: what is trained.
      devices: the devices that the run uses.
      test: labeled images.
      name: what the metrics are called: 'eval/NAME_top1'.
    """

    at_start = False

    def __init__(
        self,
        config: ConfigDict,
        encoder: Encoder,
        method: FineTune,
        devices: Devices,
        test: sources.Source,
        name: str = 'finetune',
    ):
        self.every_steps, self.name = config.eval_every_steps, name
        self._method, self._devices, self._test = method, devices, test
        self._extract = FeatureExtractor(
            method.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
        )

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        stats = state.method.batch_stats['online']
        images = np.arange(len(self._test))
        h, ids = self._extract(state.params['encoder'], stats.get('encoder', {}), self._test, images)
        assert self._test.labels is not None
        params, stats = self._devices.fetch((state.params, stats))
        logits = self._method.logits_of_features(params, stats, jnp.asarray(h))
        accuracy = top_accuracies(logits, self._test.labels[ids])
        return {f'eval/{self.name}_{metric}': value for metric, value in accuracy.items()}


def start(state: TrainState, step: int, *, encoder: Encoder, devices: Devices) -> TrainState:
    """Puts the weights of the encoder, and of the projector's first layers, into the state at step 0."""
    if step > 0:
        return state
    given, online = devices.place(start_of(encoder), REPLICATED)
    method = state.method.replace(batch_stats={**state.method.batch_stats, 'online': online})
    return dataclasses.replace(state, params={**state.params, **given}, method=method)


# ================================ the protocol ================================


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `finetune`."""

    init_std: float = field(0.01, "Standard deviation of the classifier's initial weights; 0: zeros.", least=0)
    labels: float = field(
        0.1, 'Part of each class that is used for training, at least one image of it.', above=0, most=1
    )
    projector_layers: int = field(
        0, 'First layers of the projector that are kept and trained, as in SimCLR v2.', least=0
    )
    label_smoothing: float = field(0.0, 'Part of a label that is spread evenly over all classes.', least=0, most=0.99)
    mixup: float = field(0.0, 'Images are mixed with a weight from Beta(mixup, mixup); 0: no mixup.', least=0)
    cutmix: float = field(0.0, 'The same for boxes of images; with both above 0, each in half of the batches.', least=0)
    drop_path: float = field(
        0.0,
        'Stochastic depth of a ViT: rate of its last block, smaller for earlier blocks.',
        least=0,
        most=0.99,
    )


@dataclasses.dataclass(frozen=True)
class Optimizer(training.Optimizer):
    """The section `optimizer`."""

    name: str = field(
        'sgd',
        "'sgd'; 'lars_simclr', of the encoder only; 'adamw', with weight decay of kernels only.",
        choices=('sgd', 'lars_simclr', 'adamw'),
    )
    learning_rate: float = field(0.01, 'Learning rate of encoder and projector.', above=0)
    classifier_learning_rate: float = field(0.2, 'Learning rate of the classifier.', above=0)
    learning_rate_scaling: str = field(
        'linear',
        "Learning rates are multiplied by: 'linear', batch_size / learning_rate_batch; 'sqrt', sqrt(batch_size).",
        choices=('linear', 'sqrt'),
    )
    weight_decay: float = field(0.0, 'Weight decay.', least=0)
    clip_norm: float = field(0.0, 'Norm that the whole gradient is clipped to; 0: it is not clipped.', least=0)


@dataclasses.dataclass(frozen=True)
class Schedule(training.Schedule):
    """The section `schedule`. The rates at the beginning and the end are not scaled with the batch size."""

    warmup_epochs: float = field(0.0, "Warm-up of 'cosine_per_step', in epochs.", least=0)
    warmup_start: float = field(0.0, 'Learning rate at the first step of a warm-up.', least=0)
    final: float = field(0.0, "Learning rate at the end of 'cosine_per_step'.", least=0)


def rules(c: ConfigDict, rules: Rules) -> None:
    training.rules(c, rules)
    s = c.schedule
    rules.rule(
        not s.warmup_epochs > c.epochs,
        f'schedule.warmup_epochs {s.warmup_epochs} is out of range',
        field='schedule.warmup_epochs',
        remedy=f'it must be at most {c.epochs:g}, the epochs of the training',
    )
    rules.rule(
        s.name == 'cosine_per_step' or not (s.warmup_epochs or s.warmup_start or s.final),
        f'schedule.name {s.name!r} has no warm-up and no final rate',
        field='schedule.name',
        remedy='set schedule.name to cosine_per_step',
        value='cosine_per_step',
    )


def check(config: ConfigDict, encoder: Encoder, data: Data) -> int:
    drop_path = config.finetune.drop_path
    if drop_path and not isinstance(encoder.module, VisionTransformer):
        raise UserError(
            f'finetune.drop_path {drop_path}: {encoder.config.encoder.name} is no ViT and has no stochastic depth '
            '-> set finetune.drop_path to 0.0'
        )
    return total_steps(config, sampler.steps_per_epoch(len(training_images(config, data)), config.batch_size))


def run(
    config: ConfigDict,
    encoder: Encoder,
    data: Data,
    devices: Devices,
    workdir: Path,
    interrupt: Asked,
) -> dict[str, float]:
    given = training_images(config, data)
    run = build(config, encoder, len(given), data.classes)
    assert isinstance(run.method, FineTune)
    evaluator = FineTuneEvaluator(config, encoder, run.method, devices, sources.Subset(data.test, data.test_ids))
    begin = partial(start, encoder=encoder, devices=devices)
    trainer = training.build_trainer(config, run, given, evaluator, begin, workdir, devices)
    with interrupt() as asked:
        return {**trainer.fit(asked), 'eval/finetune_images': len(given)}


def training_images(config: ConfigDict, data: Data) -> sources.Subset:
    assert data.train.labels is not None
    ids = data.train_ids
    return sources.Subset(data.train, ids[stratified(data.train.labels[ids], config.finetune.labels)])


# The defaults are SwAV's for 10 % of the labels.
FINETUNE = Protocol(
    {**training.SECTIONS, 'finetune': Settings, 'optimizer': Optimizer, 'schedule': Schedule},
    rules,
    check,
    run,
    values={'batch_size': 256, 'epochs': 20.0, 'schedule.milestones': (12, 16), 'schedule.factor': 0.2},
)
