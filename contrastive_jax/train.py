"""The pure train step: augment, differentiate, average over the devices, update."""

import dataclasses
import math
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.augment.views import resident_batch, streamed_batch
from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.data.sampler import steps_per_epoch
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.errors import UserError
from contrastive_jax.methods import METHODS, Method, MethodState
from contrastive_jax.optim import schedules
from contrastive_jax.optim.build import build_optimizer


@flax.struct.dataclass
class TrainState:
    """Everything that trains, and so everything a checkpoint holds; the data position is the step.

    Attributes:
      step: int32 scalar, steps done.
      params: trained parameters.
      opt_state: of the optimizer.
      method: target, BN statistics, memory.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    method: MethodState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A config made into objects: all that is constant in a run.

    Attributes:
      method: what is learned.
      policy: the augmentation.
      optimizer: of the trained parameters.
      learning_rate: the optimizer's, for the log.
      batch_size: global.
      image_size: of a global view.
      total_steps: length of the run.
      steps_per_epoch: whole batches in an epoch.
      seed: of everything random.
    """

    method: Method
    policy: Policy
    optimizer: optax.GradientTransformation
    learning_rate: schedules.Schedule
    batch_size: int
    image_size: int
    total_steps: int
    steps_per_epoch: int
    seed: int

    @property
    def dtype(self) -> Any:
        return self.method.network.encoder.dtype

    @property
    def state_specs(self) -> TrainState:
        """How the state lies on the devices: everything replicated but the memory."""
        r: Any = REPLICATED
        return TrainState(step=r, params=r, opt_state=r, method=MethodState(r, r, self.method.memory_spec))


def build(config: ConfigDict, num_examples: int) -> Recipe:
    """Makes the objects that a (checked) config describes.

    Args:
      config: of the form of `config.base.base_config`.
      num_examples: in the training split.

    Raises:
      UserError: fewer examples than a batch, a warm-up longer than the training, fewer rows in a bank than examples,
        more clusters than examples.
    """
    per_epoch = steps_per_epoch(num_examples, config.batch_size)
    total_steps = config.steps or max(1, math.ceil(config.epochs * per_epoch))

    fields = config.method.to_dict()
    method_class = METHODS[fields.pop('name')]
    if 0 < fields.get('num_examples', num_examples) < num_examples:
        raise UserError(
            f'method.num_examples {fields["num_examples"]} is less than the {num_examples} images of the data -> '
            '--config.method.num_examples=0 takes as many as there are'
        )
    most = max(fields.get('num_prototypes', ()), default=0) if method_class.initializes_memory else 0
    if most > per_epoch * config.batch_size:
        raise UserError(
            f'method.num_prototypes {most} is more than the {per_epoch * config.batch_size} images of an epoch, which '
            'cannot have so many clusters -> use fewer'
        )
    known = {'num_examples': num_examples, 'steps_per_epoch': per_epoch, 'total_steps': total_steps}
    fields |= {name: value for name, value in known.items() if fields.get(name) == 0}
    method = method_class(build_network(config), **fields)

    optimizer, learning_rate = build_optimizer(config, per_epoch, total_steps)
    return Recipe(
        method=method,
        policy=build_policy(config),
        optimizer=optimizer,
        learning_rate=learning_rate,
        batch_size=config.batch_size,
        image_size=config.data.image_size,
        total_steps=total_steps,
        steps_per_epoch=per_epoch,
        seed=config.seed,
    )


def init_state(run: Recipe) -> TrainState:
    """The state at step 0, in the global layout; jit it."""
    key = jax.random.fold_in(jax.random.key(run.seed), 0)
    sizes = run.policy.view_sizes(run.image_size)
    views = tuple(jnp.zeros((run.batch_size, s, s, 3), run.dtype) for s in sizes)
    params, method_state = run.method.init(key, {'views': views})
    return TrainState(jnp.zeros((), jnp.int32), params, run.optimizer.init(params), method_state)


def train_step(
    state: TrainState, batch: dict[str, Any], *, run: Recipe, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one device's part of a batch. Pure.

    Args:
      state: replicated, but for the memory, of which each device has its part.
      batch: either {'images': uint8[n, H, W, 3], 'labels': int32[n], 'order': int32[B]}, the data of a device that
        holds it all, or {'crops': (uint8[b, s, s, 3], ...), 'index': int32[b], 'label': int32[b]} from the host.
      run: the recipe.
      axis_name: the mapped device axis; None when the whole batch is here.

    Returns:
      The new state and metrics, scalars that are the same on all devices.
    """
    key_views, key_method = keys_of(run, state.step)
    batch = augment(key_views, batch, run, axis_name)
    method_state = state.method
    if run.method.initializes_memory:
        key_method, key_epoch = jax.random.split(key_method)
        prepare = partial(run.method.before_epoch, rng=key_epoch, axis_name=axis_name)
        method_state = lax.cond(state.step % run.steps_per_epoch == 0, prepare, lambda same: same, method_state)

    progress = state.step / run.total_steps
    loss_of = lambda params: run.method.loss(  # noqa: E731
        params, method_state, batch, rng=key_method, progress=progress, axis_name=axis_name
    )
    (loss, (method_state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    grads, metrics = collectives.pmean((grads, {'loss': loss, **metrics}), axis_name)

    updates, opt_state = run.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, method_state = run.method.after_update(params, method_state, progress=progress)
    metrics |= {'learning_rate': run.learning_rate(state.step), 'grad_norm': optax.tree.norm(grads)}
    metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)
    return TrainState(state.step + 1, params, opt_state, method_state), metrics


def init_memory_step(
    state: TrainState, batch: dict[str, Any], *, run: Recipe, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """In place of `train_step`, before training, for methods that `initializes_memory`: nothing learns.

    The images are those of the first epoch, in its order, otherwise distorted. `state.step` counts them, and is back at
    0 after the last.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.seed), 2), state.step)
    batch = augment(key, batch, run, axis_name)
    method_state = run.method.init_memory(state.params, state.method, batch, axis_name=axis_name)
    return dataclasses.replace(state, step=(state.step + 1) % run.steps_per_epoch, method=method_state), {}


def keys_of(run: Recipe, step: Array | int) -> Array:
    """The two keys of a step, that of its views and that of the method."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(run.seed), 1), step))


def augment(key: Array, batch: dict[str, Any], run: Recipe, axis_name: str | None) -> dict[str, Any]:
    """What a step is given as a batch that a method sees."""
    common = {'policy': run.policy, 'shuffles': run.method.shuffles, 'dtype': run.dtype, 'axis_name': axis_name}
    if 'order' in batch:
        return resident_batch(key, batch['images'], batch['labels'], batch['order'], size=run.image_size, **common)
    return streamed_batch(key, batch['crops'], batch['index'], batch['label'], **common)
