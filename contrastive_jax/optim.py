"""Optimizers as the papers' own codes have them, made of optax's parts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from contrastive_jax.schedules import Schedule

Array = jax.Array
PyTree = Any


def sgd(
    learning_rate: Schedule, *, momentum: float, weight_decay: float, nesterov: bool = False
) -> optax.GradientTransformation:
    """torch.optim.SGD: weight decay on every parameter joins the gradient; the rate stays outside the buffer."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: Schedule, *, weight_decay: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """torch.optim.AdamW with weight decay on every parameter, biases and norms too (MoCo v3's ViTs)."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def lars(
    learning_rate: Schedule, *, momentum: float, weight_decay: float, trust_coefficient: float = 1e-3
) -> optax.GradientTransformation:
    """LARS of MoCo v3 (moco/optimizer.py) and DINO.

    Tensors of one dimension or none get neither weight decay nor adaptation. The learning rate stays outside the
    momentum buffer, where `optax.lars` (SimCLR's form) has it inside: the two differ while the learning rate changes.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_matrices),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), _matrices),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def larc(
    learning_rate: Schedule,
    *,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float = 1e-3,
    clip: bool = False,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """apex's LARC around SGD (SwAV, DeepCluster-v2, SimSiam's probe): every parameter is decayed and adapted.

    Args:
      learning_rate: of the step.
      momentum: of SGD.
      weight_decay: joins the gradient inside LARC; left out where |w| or |g| is 0.
      trust_coefficient: eta of the ratio eta |w| / (|g| + wd |w| + eps).
      clip: the ratio is at most the learning rate, min(ratio / lr, 1).
      eps: of the ratio.
    """
    return optax.chain(
        _scale_by_larc(learning_rate, weight_decay, trust_coefficient, clip, eps),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def freeze(optimizer: optax.GradientTransformation, paths: Sequence[str]) -> optax.GradientTransformation:
    """Leaves the parameters below `paths` as they are: no step, no momentum, no weight decay.

    Args:
      optimizer: for the other parameters.
      paths: prefixes such as 'encoder/patch_embed'.
    """
    if not paths:
        return optimizer

    def label(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: 'frozen' if is_below(parameter_path(path), paths) else 'trained', params
        )

    return optax.multi_transform({'trained': optimizer, 'frozen': optax.set_to_zero()}, label)


def parameter_path(path: tuple[Any, ...]) -> str:
    """The key path of a leaf as 'encoder/layer1_0/conv1/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def is_below(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a parameter path equals or lies below one of the prefixes."""
    return any(path == prefix or path.startswith(prefix + '/') for prefix in prefixes)


def _matrices(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: p.ndim > 1, params)


class _LarcState(NamedTuple):
    step: Array


def _scale_by_larc(
    learning_rate: Schedule, weight_decay: float, trust_coefficient: float, clip: bool, eps: float
) -> optax.GradientTransformation:
    def init(params: PyTree) -> _LarcState:
        del params
        return _LarcState(jnp.zeros((), jnp.int32))

    def update(grads: PyTree, state: _LarcState, params: PyTree | None = None) -> tuple[PyTree, _LarcState]:
        lr = learning_rate(state.step)

        def adapt(g: Array, w: Array) -> Array:
            w_norm, g_norm = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
            ratio = trust_coefficient * w_norm / (g_norm + weight_decay * w_norm + eps)
            if clip:
                ratio = jnp.minimum(ratio / lr, 1.0)
            return jnp.where((w_norm > 0) & (g_norm > 0), ratio * (g + weight_decay * w), g)

        return jax.tree.map(adapt, grads, params), _LarcState(state.step + 1)

    return optax.GradientTransformation(init, update)
