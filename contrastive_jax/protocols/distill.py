"""Distillation: a student learns what a fine-tuned teacher says of images, without labels (SimCLR v2, 2006.10029).

The student may be as large as its teacher, which then learns from unlabelled images too, or smaller.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.base import base_config
from contrastive_jax.config.check import check_optimizer, check_paths
from contrastive_jax.data import sampler, sources
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.errors import CheckpointError, UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import top_accuracies
from contrastive_jax.losses import distillation
from contrastive_jax.methods import base
from contrastive_jax.optim.build import build_optimizer
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.load import load as load_encoder
from contrastive_jax.protocols import finetune, training
from contrastive_jax.protocols.base import Data, Protocol
from contrastive_jax.protocols.finetune import FineTune
from contrastive_jax.rules import Rules
from contrastive_jax.training import loop
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.training.progress import Progress
from contrastive_jax.training.run import Run
from contrastive_jax.workdir.checkpoint import Restored, read_part
from contrastive_jax.workdir.folder import read_config
from contrastive_jax.workdir.metrics import MetricWriter

TUNED = Path('eval/finetune.json')  # what a fine-tuning leaves in its workdir at its end


@dataclasses.dataclass(frozen=True)
class Distill(base.Method):
    """A student with a classifier, trained to say of a view what the teacher says of the same view.

    Its state holds the teacher as 'target', in evaluation mode; zeros until the loop puts the weights in.

    Attributes:
      network: of the student.
      student: the network with its classifier.
      teacher: likewise, of as many classes.
      policy: by which a view was normalised, for the student.
      teacher_policy: how the teacher's images are normalised.
      temperature: T.
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
    ) -> tuple[Array, tuple[base.MethodState, dict[str, Array]]]:
        del rng, progress
        (x,) = batch['views']
        said = self.teacher.logits(state.target, state.batch_stats['target'], self.for_teacher(x))  # [b, C]
        logits, stats = self.student.forward(params, state.batch_stats['online'], x, axis_name)
        loss = distillation(logits, said, temperature=self.temperature)
        agreement = jnp.mean(jnp.argmax(logits, axis=1) == jnp.argmax(said, axis=1))
        state = state.replace(batch_stats={**state.batch_stats, 'online': stats})
        return loss, (state, {'teacher_agreement': agreement})

    def for_teacher(self, x: Array) -> Array:
        """Images [b, H, W, 3] as the teacher was trained to see them."""
        if pixels(self.policy) == pixels(self.teacher_policy):
            return x
        return self.teacher_policy.normalize(255 * self.policy.to_rgb(x), self.teacher.network.encoder.dtype)


def pixels(policy: Policy) -> tuple[Any, ...]:
    """What the normalisation depends on."""
    return policy.color_space, policy.mean, policy.std


# ================================ the teacher ================================


class Teacher(NamedTuple):
    """A fine-tuned network.

    Attributes:
      method: knows how to apply it.
      policy: for the normalisation of its images.
      params: of all of it, numpy.
      stats: its BN statistics, numpy; {} without BN.
    """

    method: FineTune
    policy: Policy
    params: PyTree
    stats: PyTree


def load_teacher(folder: str, image_size: int = 0) -> Teacher:
    """The network of a finished fine-tuning, from its workdir and from the config of the run that it began with.

    Args:
      folder: the workdir.
      image_size: of the images that it will see; 0: that of its own.

    Raises:
      UserError: no fine-tuning there, one that is not finished, one that takes no images of this size, or the run
        that it began with is gone.
      CheckpointError: no checkpoint, or one of another architecture.
    """
    path, about = Path(folder).expanduser().absolute(), describe(folder)
    config = read_config(path)
    weights = None if config.weights == 'online' else config.weights  # as `run_protocol` chose
    encoder = load_encoder(about['init'], weights, config.finetune.projector_layers)
    encoder = encoder.at_size(config.data.image_size or encoder.image_size)
    method: Any = finetune.build(config, encoder, about['eval/finetune_images'], about['classes']).method
    images = jnp.zeros((2, encoder.image_size, encoder.image_size, 3))
    params, state = jax.eval_shape(method.init, jax.random.key(0), {'views': (images,)})
    wanted = {'params': params, 'method': {'batch_stats': {'online': state.batch_stats['online']}}}
    _, part = read_part(path, wanted, ('params', 'method/batch_stats/online'))
    params, stats = part['params'], part['method']['batch_stats']['online']
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
        raise CheckpointError(f'the teacher in {folder} is not finite -> give another')
    tuned = dataclasses.replace(encoder, params=params['encoder']).at_size(image_size or encoder.image_size)
    return Teacher(method, encoder.policy, {**params, 'encoder': tuned.params}, stats)


def describe(folder: str) -> dict[str, Any]:
    """What a fine-tuning has said of itself at its end.

    Raises:
      UserError: there was none, or it has not ended.
    """
    path = Path(folder).expanduser().absolute()
    if (protocol := read_config(path).get('protocol')) != 'finetune':
        kind = f'an evaluation by {protocol}' if protocol else 'a pre-training, which has no classifier'
        raise UserError(f'teacher {folder} is {kind} -> give the workdir of a fine-tuning (configs/eval/finetune.py)')
    try:
        about = json.loads((path / TUNED).read_text(encoding='utf-8'))
        return {name: about[name] for name in ('init', 'classes', 'eval/finetune_images')}
    except FileNotFoundError as error:
        raise UserError(f'the fine-tuning in teacher {folder} has not ended -> start its command again') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path / TUNED} cannot be read ({error}) -> start the fine-tuning again') from error


# ================================ the run ================================


def build(config: ConfigDict, encoder: Encoder, teacher: Teacher, num_examples: int) -> Run:
    """The recipe of a (checked) config.

    Args:
      config: of the form of `protocols.base('distill')`.
      encoder: of the student.
      teacher: for images of the student's size.
      num_examples: that are shown to them.

    Raises:
      UserError: a path of the optimizer is no parameter's.
    """
    per_epoch = sampler.steps_per_epoch(num_examples, config.batch_size)
    total = max(1, round(config.epochs * per_epoch))
    policy, network = training.policy(config, encoder.policy), finetune.network_of(encoder)
    classes, layers = teacher.method.num_classes, encoder.projector_layers
    student = FineTune(network, classes, config.distill.init_std, layers)
    method = Distill(network, student, teacher.method, policy, teacher.policy, config.distill.temperature)

    images, rules = jnp.zeros((2, encoder.image_size, encoder.image_size, 3)), Rules(config)
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
    """The same network, and as much of its projector, with weights of its own."""
    images, layers = jnp.zeros((2, encoder.image_size, encoder.image_size, 3)), encoder.projector_layers
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


class DistillTrainer(loop.Trainer):
    """The loop, with the start of a student and of a teacher, and the student's accuracy as evaluation.

    Args:
      config, workdir, devices, run, source: as for the loop.
      encoder: where the student starts.
      teacher: whose weights stay.
      test: labelled images.
    """

    evaluated = 'eval/distill_top1'

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        devices: Devices,
        run: Run,
        source: sources.Source,
        encoder: Encoder,
        teacher: Teacher,
        test: sources.Source,
    ):
        super().__init__(config, workdir, devices, run, source, None)
        self.encoder, self.teacher, self.test = encoder, teacher, test
        self._extract = FeatureExtractor(
            run.method.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
        )

    def open_evaluation(self) -> Any:
        """None of the loop's own."""
        return None

    def restore_or_init(self) -> Restored:
        """As the loop; at step 0 with the weights of student and teacher."""
        start = super().restore_or_init()
        if start.step > 0:
            if not self.is_frozen(start.state):
                raise UserError(
                    f'the teacher {self.config.teacher} is another than that of {self.workdir} -> choose another '
                    '--workdir'
                )
            return start
        weights = *finetune.start_of(self.encoder), self.teacher.params, self.teacher.stats
        given, online, target, held = self.devices.place(weights, REPLICATED)
        batch_stats = {'online': online, 'target': held}
        state = dataclasses.replace(
            start.state,
            params={**start.state.params, **given},
            method=start.state.method.replace(target=target, batch_stats=batch_stats),
        )
        return start._replace(state=state)

    def is_frozen(self, state: PyTree) -> bool:
        """Whether the teacher is, to the last bit, the one that was given."""
        held = self.devices.fetch((state.method.target, state.method.batch_stats['target']))
        return all(jax.tree.leaves(jax.tree.map(np.array_equal, held, (self.teacher.params, self.teacher.stats))))

    def lacks_evaluation(self, start: int) -> bool:
        return start > 0 and super().lacks_evaluation(start)

    def evaluate(self, step: int, state: PyTree, writer: MetricWriter, progress: Progress) -> None:
        """The student's accuracy on the test images."""
        assert self.is_frozen(state), 'the teacher has moved'
        stats = state.method.batch_stats['online']
        h, ids = self._extract(state.params['encoder'], stats.get('encoder', {}), self.test, np.arange(len(self.test)))
        assert self.test.labels is not None
        params, stats = self.devices.fetch((state.params, stats))
        assert isinstance(self.run.method, Distill)
        logits = self.run.method.student.logits_of_features(params, stats, jnp.asarray(h))
        accuracy = top_accuracies(logits, self.test.labels[ids])
        writer.write(step, {f'eval/distill_{name}': value for name, value in accuracy.items()})
        progress.say(f'step {step}: student top1 {accuracy["top1"]:.4g}  top5 {accuracy["top5"]:.4g}')


# ================================ the protocol ================================


def fields(c: ConfigDict) -> None:
    """The paper's protocol: the schedule and optimizer of pre-training, crops and flips."""
    c.teacher = ''  # workdir of a finished fine-tuning
    c.distill = ConfigDict()
    c.distill.temperature = 1.0  # T, which divides the logits of both
    c.distill.scratch = False  # the student has the architecture of `init` and starts from new weights
    c.distill.projector_layers = 0  # first layers of the student's projector that are kept, and trained
    c.distill.init_std = 0.0  # deviation of the classifier's first weights; 0: zeros
    training.run_fields(c, epochs=400.0)
    like = base_config('simclr')  # see there for what they mean
    c.optimizer, c.schedule = like.optimizer, like.schedule


def rules(c: ConfigDict, devices: int, rules: Rules) -> None:
    rules.rule(bool(c.teacher), 'teacher is empty -> name the workdir of a fine-tuning: --config.teacher=runs/tuned')
    rules.within('distill.temperature', 0, open_low=True)
    for field in ('projector_layers', 'init_std'):
        rules.within(f'distill.{field}', 0)
    training.run_rules(c, devices, rules)
    check_optimizer(c, rules)


def check(config: ConfigDict, encoder: Encoder, data: Data) -> None:
    del encoder
    sampler.steps_per_epoch(len(data.train_ids), config.batch_size)
    if (classes := describe(config.teacher)['classes']) < data.classes:
        raise UserError(
            f'{data.test.name} has {data.classes} classes, and the teacher {config.teacher} knows {classes} -> give '
            'the data that it was tuned on, or more of it'
        )


def run(config: ConfigDict, encoder: Encoder, data: Data, devices: Devices, workdir: Path) -> dict[str, float]:
    teacher = load_teacher(config.teacher, encoder.image_size)
    given, test = sources.Subset(data.train, data.train_ids), sources.Subset(data.test, data.test_ids)
    student = untrained(encoder, config.seed) if config.distill.scratch else encoder
    distilling = build(config, student, teacher, len(given))
    with Interrupt() as interrupt:
        trainer = DistillTrainer(config, workdir, devices, distilling, given, student, teacher, test)
        return trainer.fit(interrupt)


DISTILL = Protocol(fields, rules, check, run, labelled=False)
