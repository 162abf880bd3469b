"""Optimizers as in the official code of the papers, composed of optax transformations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.optim.schedules import Schedule

Decay = float | Schedule
Mask = Callable[[PyTree], PyTree]  # parameters -> booleans: True where weight decay (and LARS adaptation) apply


def sgd(
    learning_rate: Schedule, *, momentum: float, weight_decay: Decay, nesterov: bool = False, mask: Mask | None = None
) -> optax.GradientTransformation:
    """torch.optim.SGD: weight decay is added to the gradient; the learning rate is outside the momentum buffer."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: Schedule, *, weight_decay: Decay, b1: float = 0.9, b2: float = 0.999, mask: Mask | None = None
) -> optax.GradientTransformation:
    """torch.optim.Adam: weight decay is added to the gradient, before the moments."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_adam(b1=b1, b2=b2),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: Schedule, *, weight_decay: Decay, b1: float = 0.9, b2: float = 0.999, mask: Mask | None = None
) -> optax.GradientTransformation:
    """torch.optim.AdamW. Without a mask, biases and norm parameters are decayed too (MoCo v3's ViTs)."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)


def matrices(params: PyTree) -> PyTree:
    """A mask that selects tensors with two or more dimensions: all but biases, and scales and offsets of norms."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def kernels(params: PyTree) -> PyTree:
    """The mask of DeiT and timm: `matrices` without the class token and the position embedding of a ViT."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and parameter_path(path[-1:]) not in ('cls_token', 'pos_embed'), params
    )


def nothing(params: PyTree) -> PyTree:
    """A mask that selects no parameter."""
    return jax.tree.map(lambda _: False, params)


def lars(
    learning_rate: Schedule,
    *,
    momentum: float,
    weight_decay: Decay,
    trust_coefficient: float = 1e-3,
    mask: Mask = matrices,
) -> optax.GradientTransformation:
    """LARS of MoCo v3 (moco/optimizer.py), DINO and BYOL (utils/optimizers.py).

    Parameters that the mask does not select get neither weight decay nor adaptation. MoCo v3 and DINO select them by
    the number of dimensions, BYOL by name ('b', and modules with 'norm'); the result is the same. The learning rate is
    outside the momentum buffer, unlike in `lars_simclr`.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=mask),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), mask),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def lars_simclr(
    learning_rate: Schedule,
    *,
    momentum: float,
    weight_decay: Decay,
    trust_coefficient: float = 1e-3,
    nesterov: bool = False,
    mask: Mask = matrices,
) -> optax.GradientTransformation:
    """LARS of SimCLR (tf2/lars_optimizer.py, classic momentum): the learning rate is inside the momentum buffer.

    It differs from `lars` while the learning rate changes. The official mask excludes by name: batch_normalization,
    bias, and head_supervised, the kernel of the online classifier.
    """
    return optax.lars(
        learning_rate,
        weight_decay,
        mask,
        trust_coefficient,
        trust_ratio_mask=mask,
        momentum=momentum,
        nesterov=nesterov,
    )


def larc(
    learning_rate: Schedule,
    *,
    momentum: float,
    weight_decay: Decay,
    trust_coefficient: float = 1e-3,
    clip: bool = False,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """SGD with apex's LARC (SwAV, DeepCluster-v2, SimSiam's probe): all parameters are decayed and adapted.

    Args:
      learning_rate: schedule of the learning rate.
      momentum: momentum of SGD.
      weight_decay: it is added to the gradient inside LARC, except where |w| or |g| is 0.
      trust_coefficient: eta in the ratio eta |w| / (|g| + wd |w| + eps).
      clip: whether the ratio is limited to min(ratio / learning rate, 1).
      eps: eps in the ratio.
    """
    return optax.chain(
        _scale_by_larc(learning_rate, weight_decay, trust_coefficient, clip, eps),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_per_tensor(max_norm: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """DINO's clip_gradients: clips each gradient tensor by its own norm, g * min(1, max_norm / (|g| + eps))."""

    def clip(g: Array) -> Array:
        return g * jnp.minimum(1.0, max_norm / (jnp.linalg.norm(g.ravel()) + eps))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def scale_biases(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of all parameters that `matrices` does not select: another learning rate for them.

    Barlow Twins (main.py) has one for weights and one for biases and norms. It comes after an optimizer whose updates
    are proportional to its learning rate, as those of all optimizers here are.
    """
    return optax.masked(optax.scale(factor), lambda params: jax.tree.map(lambda p: p.ndim <= 1, params))


def freeze_for(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Freezes the parameters for the first `steps` steps.

    They are not updated, and momentum, weight decay and Adam's step count do not advance. SwAV and DINO do so by
    setting gradients to None, because torch's optimizers skip parameters without a gradient.
    """
    return optax.conditionally_mask(optimizer, lambda step: step >= steps)


def sweep(make: Callable[..., optax.GradientTransformation], *settings: Any) -> optax.GradientTransformation:
    """Trains R models at once, each with its own settings: `make(*(x[r] for x in settings))` updates row r.

    Args:
      make: a function from one (possibly traced) value of each setting to an optimizer.
      settings: arrays [R], one for each argument of `make`.

    Returns:
      An optimizer of parameters with a leading axis of size R.
    """

    def init(params: PyTree) -> PyTree:
        return jax.vmap(lambda p, *values: make(*values).init(p))(params, *settings)

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        return jax.vmap(lambda g, s, p, *values: make(*values).update(g, s, p))(grads, state, params, *settings)

    return optax.GradientTransformation(init, update)


def by_path(
    optimizer: optax.GradientTransformation,
    parts: Mapping[str, tuple[Sequence[str], optax.GradientTransformation]],
) -> optax.GradientTransformation:
    """Uses other optimizers for the parameters below some paths.

    Args:
      optimizer: the optimizer of all other parameters.
      parts: name -> (path prefixes such as 'encoder/patch_embed', the optimizer of the parameters below them). A
        parameter belongs to the first part that matches it.
    """
    if not parts:
        return optimizer

    def name_of(path: tuple[Any, ...], _: Any) -> str:
        leaf = parameter_path(path)
        return next((name for name, (prefixes, _) in parts.items() if is_below(leaf, prefixes)), 'trained')

    optimizers = {name: part for name, (_, part) in parts.items()}
    return optax.multi_transform(
        {'trained': optimizer, **optimizers}, lambda params: jax.tree_util.tree_map_with_path(name_of, params)
    )


def parameter_path(path: tuple[Any, ...]) -> str:
    """The key path of a leaf as a string, such as 'encoder/layer1_0/conv1/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def is_below(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a parameter path equals one of the prefixes or is below one."""
    return any(path == prefix or path.startswith(prefix + '/') for prefix in prefixes)


class _LarcState(NamedTuple):
    step: Array


def _scale_by_larc(
    learning_rate: Schedule, weight_decay: Decay, trust_coefficient: float, clip: bool, eps: float
) -> optax.GradientTransformation:
    def init(params: PyTree) -> _LarcState:
        del params
        return _LarcState(jnp.zeros((), jnp.int32))

    def update(grads: PyTree, state: _LarcState, params: PyTree | None = None) -> tuple[PyTree, _LarcState]:
        lr = learning_rate(state.step)
        wd = weight_decay(state.step) if callable(weight_decay) else weight_decay

        def adapt(g: Array, w: Array) -> Array:
            w_norm, g_norm = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
            ratio = trust_coefficient * w_norm / (g_norm + wd * w_norm + eps)
            if clip:
                ratio = jnp.minimum(ratio / lr, 1.0)
            return jnp.where((w_norm > 0) & (g_norm > 0), ratio * (g + wd * w), g)

        return jax.tree.map(adapt, grads, params), _LarcState(state.step + 1)

    return optax.GradientTransformation(init, update)
