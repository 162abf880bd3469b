"""Distillation: a student is trained to match a fine-tuned teacher on images without labels (SimCLR v2, 2006.10029).

The student has the architecture of the teacher (self-distillation on unlabeled images) or a smaller one.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.check import check_optimizer, check_paths
from contrastive_jax.config.fields import Optimizer, Schedule
from contrastive_jax.config.length import total_steps
from contrastive_jax.config.stored import with_defaults
from contrastive_jax.data import sampler, sources
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.errors import CheckpointError, UserError
from contrastive_jax.losses import distillation
from contrastive_jax.methods import base
from contrastive_jax.optim.build import build_optimizer
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.load import load as load_encoder
from contrastive_jax.protocols import finetune, training
from contrastive_jax.protocols.base import Asked, Data, Protocol
from contrastive_jax.protocols.finetune import FineTune
from contrastive_jax.rules import Rules, field
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.workdir.folder import read_config
from contrastive_jax.workdir.reading import read_part

TUNED = Path('eval/finetune.json')  # a fine-tuning writes it at its end


@dataclasses.dataclass(frozen=True)
class Distill(base.Method):
    """A student with a classifier, trained to match the teacher's class probabilities for the same view.

    Its state holds the teacher as 'target': zeros until the start function replaces them with the weights.

    Attributes:
      network: the network of the student.
      student: the student's network with its classifier.
      teacher: the teacher's network with its classifier, for the same number of classes.
      policy: normalizes the student's views.
      teacher_policy: normalizes the teacher's images.
      temperature: T, which divides the logits of both.
    """

    student: FineTune
    teacher: FineTune
    policy: Policy
    teacher_policy: Policy
    temperature: float = 1.0

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = self.student.init(rng, batch)
        target, held = jax.tree.map(jnp.zeros_like, self.teacher.init(rng, batch))
        stats = {'online': state.batch_stats['online'], 'target': held.batch_stats['online']}
        return params, base.MethodState(target=target, batch_stats=stats, memory={})

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
        (x,) = batch['views']
        said = self.teacher.logits(state.target, state.batch_stats['target'], self.for_teacher(x))  # [b, C]
        logits, stats = self.student.forward(params, state.batch_stats['online'], x, axis_name)
        loss = distillation(logits, said, temperature=self.temperature)
        agreement = jnp.mean(jnp.argmax(logits, axis=1) == jnp.argmax(said, axis=1))
        state = state.replace(batch_stats={**state.batch_stats, 'online': stats})
        return loss, (state, {'teacher_agreement': agreement})

    def for_teacher(self, x: Array) -> Array:
        """The student's views [b, H, W, C] with the normalization of the teacher."""
        if pixels(self.policy) == pixels(self.teacher_policy):
            return x
        return self.teacher_policy.normalize(255 * self.policy.denormalize(x), self.teacher.network.encoder.dtype)


def pixels(policy: Policy) -> tuple[Any, ...]:
    """The fields that the normalization depends on."""
    return policy.color_space, policy.mean, policy.std


# ================================ the teacher ================================


class Teacher(NamedTuple):
    """A fine-tuned network.

    Attributes:
      method: applies the network.
      policy: normalizes its images.
      params: parameters of encoder, projector and classifier, numpy.
      stats: BN statistics, numpy; {} without BN.
    """

    method: FineTune
    policy: Policy
    params: PyTree
    stats: PyTree


def load_teacher(folder: str, image_size: int = 0) -> Teacher:
    """The network of a finished fine-tuning, from its workdir and the config of the run that it started from.

    Args:
      folder: the workdir of the fine-tuning.
      image_size: height and width of the images that it will get; 0: those of the fine-tuning.

    Raises:
      UserError: there is no fine-tuning, it is not finished, it does not take images of this size, or the run that it
        started from is missing.
      CheckpointError: there is no checkpoint, or one of another architecture.
    """
    path, about = Path(folder).expanduser().absolute(), describe(folder)
    config = with_defaults(read_config(path), finetune.FINETUNE.sections)
    weights = None if config.weights == 'online' else config.weights  # as `run_protocol` chose
    encoder = load_encoder(about['init'], weights, config.finetune.projector_layers)
    encoder = encoder.at_size(config.data.image_size or encoder.image_size)
    method: Any = finetune.build(config, encoder, about['eval/finetune_images'], about['classes']).method
    images = jnp.zeros((2, encoder.image_size, encoder.image_size, encoder.channels))
    params, state = jax.eval_shape(method.init, jax.random.key(0), {'views': (images,)})
    wanted = {'params': params, 'method': {'batch_stats': {'online': state.batch_stats['online']}}}
    _, part = read_part(path, wanted, ('params', 'method/batch_stats/online'))
    params, stats = part['params'], part['method']['batch_stats']['online']
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
        raise CheckpointError(f'the teacher in {folder} is not finite -> give another')
    tuned = dataclasses.replace(encoder, params=params['encoder']).at_size(image_size or encoder.image_size)
    return Teacher(method, encoder.policy, {**params, 'encoder': tuned.params}, stats)


def describe(folder: str) -> dict[str, Any]:
    """The facts that a fine-tuning writes at its end: 'init', 'classes', 'eval/finetune_images'.

    Raises:
      UserError: there is no fine-tuning, or it has not ended.
    """
    path = Path(folder).expanduser().absolute()
    if (protocol := read_config(path).get('protocol')) != 'finetune':
        kind = f'an evaluation by {protocol}' if protocol else 'a pretraining run, which has no classifier'
        raise UserError(f'teacher {folder} is {kind} -> give the workdir of a fine-tuning (configs/eval/finetune.py)')
    try:
        about = json.loads((path / TUNED).read_text(encoding='utf-8'))
        return {name: about[name] for name in ('init', 'classes', 'eval/finetune_images')}
    except FileNotFoundError as error:
        raise UserError(f'the fine-tuning in teacher {folder} has not ended -> start its command again') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path / TUNED} cannot be read ({error}) -> start the fine-tuning again') from error


# ================================ the training ================================


def build(config: ConfigDict, encoder: Encoder, teacher: Teacher, num_examples: int) -> Run:
    """Makes the run of a checked config.

    Args:
      config: a config with the fields of `protocol_config('distill')`.
      encoder: the encoder of the student.
      teacher: the teacher, for images of the student's size.
      num_examples: number of training images.

    Raises:
      UserError: a path in the section `optimizer` matches no parameter.
    """
    per_epoch = sampler.steps_per_epoch(num_examples, config.batch_size)
    total = total_steps(config, per_epoch)
    policy, network = training.policy(config, encoder.policy), finetune.network_of(encoder)
    classes, layers = teacher.method.num_classes, encoder.projector_layers
    student = FineTune(network, classes, config.distill.init_std, layers)
    method = Distill(network, student, teacher.method, policy, teacher.policy, config.distill.temperature)

    images = jnp.zeros((2, encoder.image_size, encoder.image_size, encoder.channels))
    rules = Rules(config)
    params, _ = jax.eval_shape(method.init, jax.random.key(0), {'views': (images,)})
    check_paths(params, config, rules)
    if rules.found:
        raise UserError('\n'.join(rules.found))
    optimizer, learning_rate = build_optimizer(config, per_epoch, total)
    return Run(
        method=method,
        policy=policy,
        optimizer=optimizer,
        learning_rate=learning_rate,
        batch_size=config.batch_size,
        image_size=encoder.image_size,
        total_steps=total,
        steps_per_epoch=per_epoch,
        seed=config.seed,
    )


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """The same network and projector layers with new initial weights."""
    images = jnp.zeros((2, encoder.image_size, encoder.image_size, encoder.channels))
    layers = encoder.projector_layers
    init = lambda: encoder.network.init(jax.random.key(seed), images, layers, train=False, method='projector_features')  # noqa: E731
    made = jax.device_get(jax.jit(init)())
    params, stats = made['params'], made.get('batch_stats', {})
    return dataclasses.replace(
        encoder,
        params=params['encoder'],
        stats=stats.get('encoder', {}),
        projector_params=params.get('projector', {}),
        projector_stats=stats.get('projector', {}),
    )


class DistillEvaluator(finetune.FineTuneEvaluator):
    """The student's accuracy on held-out images; makes sure that the teacher has not changed.

    Args:
      config: the config of the evaluation.
      student: the encoder that the student starts from.
      teacher: the teacher.
      method: what is trained.
      devices: the devices that the run uses.
      test: labeled images.
    """

    def __init__(
        self,
        config: ConfigDict,
        student: Encoder,
        teacher: Teacher,
        method: Distill,
        devices: Devices,
        test: sources.Source,
    ):
        super().__init__(config, student, method.student, devices, test, name='distill')
        self._teacher = teacher

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        assert is_frozen(state, self._teacher, self._devices), 'the teacher has moved'
        return super().__call__(step, state)


def is_frozen(state: TrainState, teacher: Teacher, devices: Devices) -> bool:
    """Whether the teacher of a state is, to the last bit, the one that was given."""
    held = devices.fetch((state.method.target, state.method.batch_stats['target']))
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, held, (teacher.params, teacher.stats))))


def start(
    state: TrainState,
    step: int,
    *,
    config: ConfigDict,
    encoder: Encoder,
    teacher: Teacher,
    devices: Devices,
    workdir: Path,
) -> TrainState:
    """Puts the weights of student and teacher into the state at step 0. A checkpoint holds both.

    Raises:
      UserError: the checkpoint is about another teacher.
    """
    if step > 0:
        if not is_frozen(state, teacher, devices):
            raise UserError(
                f'the teacher {config.teacher} is not the one that {workdir} began with -> choose another folder'
            )
        return state
    state = finetune.start(state, step, encoder=encoder, devices=devices)
    target, held = devices.place((teacher.params, teacher.stats), REPLICATED)
    batch_stats = {**state.method.batch_stats, 'target': held}
    return dataclasses.replace(state, method=state.method.replace(target=target, batch_stats=batch_stats))


# ================================ the protocol ================================


@dataclasses.dataclass(frozen=True)
class Training(training.Training):
    """The top level of the config."""

    teacher: str = field('', 'The workdir of a finished fine-tuning.')


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `distill`."""

    temperature: float = field(1.0, 'T, which divides the logits of teacher and student.', above=0)
    scratch: bool = field(False, 'The student has the architecture of `init`, with new initial weights.')
    projector_layers: int = field(0, "First layers of the student's projector that are kept and trained.", least=0)
    init_std: float = field(0.0, "Standard deviation of the classifier's initial weights; 0: zeros.", least=0)


def rules(c: ConfigDict, rules: Rules) -> None:
    rules.rule(
        bool(c.teacher),
        'teacher is empty',
        field='teacher',
        remedy='set it to the workdir of a fine-tuning, such as runs/tuned',
    )
    training.rules(c, rules)
    check_optimizer(c, rules)


def check(config: ConfigDict, encoder: Encoder, data: Data) -> int:
    del encoder
    per_epoch = sampler.steps_per_epoch(len(data.train_ids), config.batch_size)
    if (classes := describe(config.teacher)['classes']) < data.classes:
        raise UserError(
            f'{data.test.name} has {data.classes} classes, and the teacher {config.teacher} has {classes} -> use the '
            'data that it was fine-tuned on, or more of it'
        )
    return total_steps(config, per_epoch)


def run(
    config: ConfigDict,
    encoder: Encoder,
    data: Data,
    devices: Devices,
    workdir: Path,
    interrupt: Asked,
) -> dict[str, float]:
    teacher = load_teacher(config.teacher, encoder.image_size)
    if teacher.policy.channels != encoder.channels:
        raise UserError(
            f'the teacher takes {teacher.policy.channels} channels and the student {encoder.channels} -> give a '
            'teacher and a student for the same images'
        )
    given, test = sources.Subset(data.train, data.train_ids), sources.Subset(data.test, data.test_ids)
    student = untrained(encoder, config.seed) if config.distill.scratch else encoder
    run = build(config, student, teacher, len(given))
    assert isinstance(run.method, Distill)
    evaluator = DistillEvaluator(config, student, teacher, run.method, devices, test)
    begin = partial(start, config=config, encoder=student, teacher=teacher, devices=devices, workdir=workdir)
    trainer = training.build_trainer(config, run, given, evaluator, begin, workdir, devices)
    with interrupt() as asked:
        return trainer.fit(asked)


# Optimizer and schedule are those of pretraining.
DISTILL = Protocol(
    {**training.SECTIONS, '': Training, 'distill': Settings, 'optimizer': Optimizer, 'schedule': Schedule},
    rules,
    check,
    run,
    values={'batch_size': 256, 'epochs': 400.0},
    labeled=False,
)
