"""The timed programs: the train step, the step without one of its parts, single parts, and a supervised step.

The package has no flags for this. A step without augmentation is the step of a run with another augmentation policy. A
step without its queue, its moving average or its metrics is the same code, traced while the functions of that part are
replaced.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from contrastive_jax.augment.views import resident_batch, streamed_batch
from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.info_nce import ContrastiveOutput, info_nce_in_batch_terms, info_nce_terms
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import (
    BYOL,
    MethodState,
    MoCo,
    MoCoV3,
    SimCLR,
    SimSiam,
    base,
    ema,
    memory,
    moco,
    mocov3,
    networks,
    signals,
)
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import train_step

RESIDENT_IMAGES = 4096

# Encoder passes in a step: (forward and backward, forward only), the latter for the keys.
PASSES: dict[type[base.Method], tuple[int, int]] = {
    MoCo: (1, 1), MoCoV3: (2, 2), SimCLR: (2, 0), BYOL: (2, 2), SimSiam: (2, 0),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
    """A step that is called repeatedly on its own result.

    Attributes:
      step: (state, batch) -> (state, scalars), with the keyword argument axis_name.
      state: the state before the first call. It is donated, so each program has its own.
      batch: the batch of every call, already on the device.
      replaced: functions to replace while the step is traced: (module, name, replacement).
    """

    step: Callable[..., tuple[PyTree, dict[str, Array]]]
    state: PyTree
    batch: PyTree
    replaced: tuple[tuple[Any, str, Callable[..., Any]], ...] = ()

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """The context in which the step is traced, with the functions of `replaced` replaced."""
        with contextlib.ExitStack() as stack:
            for module, name, replacement in self.replaced:
                stack.enter_context(mock.patch.object(module, name, replacement))
            yield


# ================================ data ================================


def crops(run: Run, classes: int, rng: np.random.Generator) -> dict[str, Any]:
    """A batch as the loader on the host makes it: {'crops': (uint8[B, s, s, 3], ...), 'index', 'label'}."""
    B = run.batch_size
    return {
        'crops': tuple(rng.integers(0, 256, (B, s, s, 3), np.uint8) for s in run.policy.view_sizes(run.image_size)),
        'index': np.arange(B, dtype=np.int32),
        'label': rng.integers(0, classes, B, np.int32),
    }


def resident(run: Run, classes: int, rng: np.random.Generator) -> dict[str, Any]:
    """A batch of images that stay on the device: {'images': uint8[n, s, s, 3], 'labels', 'order': int32[B]}."""
    n, s = max(RESIDENT_IMAGES, run.batch_size), run.image_size
    return {
        'images': rng.integers(0, 256, (n, s, s, 3), np.uint8),
        'labels': rng.integers(0, classes, n, np.int32),
        'order': rng.permutation(n)[: run.batch_size].astype(np.int32),
    }


# ================================ steps ================================


def without_augmentation(run: Run) -> Run:
    """The run with crops that are only normalized: operations with probability 0 are not computed."""
    none = (0.0,) * len(run.policy.blur)
    policy = dataclasses.replace(
        run.policy, flip=0.0, jitter_probability=0.0, grayscale=0.0, blur=none, solarize=none, local_blur=0.0
    )
    return dataclasses.replace(run, policy=policy)


def step(run: Run) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """The train step of the package."""
    return partial(train_step, run=run)


def supervised(run: Run, classes: int, state: TrainState) -> tuple[Callable[..., Any], TrainState]:
    """A supervised step with the encoder and optimizer of the method: one view, a linear layer, cross-entropy.

    Args:
      run: the run of the method.
      classes: the number of outputs of the linear layer.
      state: the state of the method, whose encoder is copied.

    Returns:
      The step, (state, {'crops', 'label'}) -> (state, {'loss'}), and its first state.
    """
    encoder = run.method.network.encoder

    def start(params: PyTree, stats: PyTree) -> TrainState:
        x = jax.ShapeDtypeStruct((2, run.image_size, run.image_size, 3), run.dtype)
        variables = {'params': params, 'batch_stats': stats}
        features = jax.eval_shape(partial(encoder.apply, train=False), variables, x).shape[-1]
        kernel = 0.01 * jax.random.normal(jax.random.key(0), (features, classes))
        params = {'encoder': networks.copy(params), 'linear': {'kernel': kernel, 'bias': jnp.zeros(classes)}}
        method = MethodState(target={}, batch_stats=networks.copy(stats), memory={})
        return TrainState(jnp.zeros((), jnp.int32), params, run.optimizer.init(params), method)

    def supervised_step(
        state: TrainState, batch: dict[str, Any], *, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        x = run.policy.normalize(batch['crops'][0], run.dtype)

        def loss_of(params: PyTree) -> tuple[Array, PyTree]:
            variables = {'params': params['encoder'], 'batch_stats': state.method.batch_stats}
            h, new = encoder.apply(variables, x, train=True, axis_name=axis_name, mutable=['batch_stats'])
            logits = h @ params['linear']['kernel'] + params['linear']['bias']  # [b, classes]
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
            return jnp.mean(loss), new.get('batch_stats', {})

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        loss, grads = collectives.pmean((loss, grads), axis_name)
        updates, opt_state = run.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        method = dataclasses.replace(state.method, batch_stats=stats)
        return TrainState(state.step + 1, params, opt_state, method), {'loss': loss}

    stats = state.method.batch_stats['online'].get('encoder', {})
    return supervised_step, jax.jit(start)(state.params['encoder'], stats)


def forward(run: Run, state: TrainState, batch: dict[str, Any]) -> Program:
    """A forward pass of the encoder on one view in training mode, without gradient, as for the keys."""

    def forward_step(stats: PyTree, batch: PyTree, *, axis_name: str | None) -> tuple[PyTree, dict[str, Array]]:
        params, crop = batch
        x, variables = run.policy.normalize(crop, run.dtype), {'params': params, 'batch_stats': stats}
        h, new = run.method.network.encoder.apply(
            variables, x, train=True, axis_name=axis_name, mutable=['batch_stats']
        )
        return new.get('batch_stats', {}), {'h': jnp.mean(h)}

    stats = state.method.batch_stats['online'].get('encoder', {})
    return Program(forward_step, stats, (state.params['encoder'], batch['crops'][0]))


# ================================ parts of a step ================================

Replaced = tuple[tuple[Any, str, Callable[..., Any]], ...]


def left_out(method: base.Method) -> dict[str, Replaced]:
    """For each part, the replacements that leave it out of the step.

    The logits of the negatives are left out with the queue: the loss is then that of the positives alone, and the
    gradient still reaches the encoder.
    """

    def positives(q: Array, k: Array, *rest: Any, temperature: float, **others: Any) -> ContrastiveOutput:
        del rest, others
        positive = jnp.sum(normalize(q) * normalize(k), axis=-1) / temperature
        return ContrastiveOutput(positive, jnp.zeros_like(positive), jnp.zeros_like(positive))

    dictionary: Replaced
    if isinstance(method, MoCo):
        dictionary = (moco, 'info_nce_terms', positives), (memory, 'enqueue', lambda queue, keys: queue)
    else:
        dictionary = ((mocov3, 'info_nce_in_batch_terms', positives),)
    return {
        name_of_dictionary(method): dictionary,
        'EMA': ((ema, 'update', lambda target, online, momentum: jax.lax.stop_gradient(target)),),
        'metrics': (
            (signals, 'contrast_metrics', lambda *_: {}),
            (moco if isinstance(method, MoCo) else mocov3, 'feature_std', lambda *_: jnp.zeros(())),
            (optax.tree, 'norm', lambda _: jnp.zeros(())),
        ),
    }


def alone(run: Run, state: TrainState, batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Program]:
    """The augmentation and the other parts as separate programs, on arrays with the shapes of the step.

    Args:
      run: the run of the method.
      state: the state of the method, whose arrays are copied.
      batch: the batch of the step with augmentation.
      rng: draws the queries and keys.
    """
    method = run.method
    assert isinstance(method, MoCo | MoCoV3)
    T, zero = method.temperature, jnp.zeros((), jnp.int32)
    dim = method.network.projector.output_dim
    q1, q2, k1, k2 = (rng.standard_normal((run.batch_size, dim), np.float32) for _ in range(4))
    queue, online = state.method.memory.get('queue', {}), networks.without_predictor(state.params)

    def augmentation(count: Array, batch: PyTree, *, axis_name: str | None) -> tuple[Array, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(run.seed), count)
        common = {'policy': run.policy, 'shuffles': method.shuffles, 'dtype': run.dtype, 'axis_name': axis_name}
        if 'order' in batch:
            made = resident_batch(key, batch['images'], batch['labels'], batch['order'], size=run.image_size, **common)
        else:
            made = streamed_batch(key, batch['crops'], batch['index'], batch['label'], **common)
        used = (made['views'][0], made['shuffled' if method.shuffles else 'views'][1])
        return count + 1, {'views': jnp.mean(used[0]) + jnp.mean(used[1])}

    def dictionary(queue: PyTree, batch: PyTree, *, axis_name: str | None) -> tuple[PyTree, dict[str, Array]]:
        q1, q2, k1, k2 = batch

        def loss_of(q: tuple[Array, Array]) -> Array:
            if queue:
                return jnp.mean(info_nce_terms(q[0], k1, queue['keys'], temperature=T, axis_name=axis_name).loss)
            in_batch = partial(info_nce_in_batch_terms, temperature=T, axis_name=axis_name)
            return jnp.mean(in_batch(q[0], k2).loss) + jnp.mean(in_batch(q[1], k1).loss)

        loss, dq = jax.value_and_grad(loss_of)((q1, q2))
        return memory.enqueue(queue, k1) if queue else queue, {'loss': loss, 'dq': optax.tree.norm(dq)}

    def average(target: PyTree, online: PyTree, *, axis_name: str | None) -> tuple[PyTree, dict[str, Array]]:
        del axis_name
        return ema.update(target, online, method.momentum), {}

    def metrics(count: Array, batch: PyTree, *, axis_name: str | None) -> tuple[Array, dict[str, Array]]:
        (q, _, _, k), queue, grads = batch
        terms = ContrastiveOutput(*(q[:, i] for i in range(3)))
        if queue:
            negative = jnp.mean(q @ collectives.pmean(jnp.mean(queue['keys'], axis=(0, 1)), axis_name))
        else:
            negative = signals.mean_negative_similarity(q, k, axis_name)
        others = {'feature_std': feature_std(q, axis_name), 'grad_norm': optax.tree.norm(grads)}
        return count + 1, {**signals.contrast_metrics(terms, T, negative), **others}

    return {
        'augmentation alone': Program(augmentation, zero, batch),
        name_of_dictionary(method): Program(dictionary, queue, (q1, q2, k1, k2)),
        'EMA': Program(average, state.method.target, online),
        'metrics': Program(metrics, zero, ((q1, q2, k1, k2), queue, state.params)),
    }


def name_of_dictionary(method: base.Method) -> str:
    """The name of the part that compares queries with keys; MoCo v3 has no queue."""
    return 'queue' if isinstance(method, MoCo) else 'look-up'
