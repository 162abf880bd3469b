"""DINO (arXiv 2104.14294): from all crops a student predicts the probabilities of a momentum teacher for large crops.

There are no negatives. Centering prevents collapse to one output; a low teacher temperature prevents collapse to the
uniform output. Official source: facebookresearch/dino, main_dino.py. The rest of the recipe is configured in
`config.optimizer`: the increasing weight decay, gradient clipping for each tensor, and freezing the last layer in the
first epoch (`freeze_first`).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.dino import dino, targets, update_center
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, ema, networks
from contrastive_jax.models.heads import torch_uniform
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class DINO(base.Method):
    """Self-distillation with no labels.

    Both networks end in a linear layer with unit rows. Its inputs are the L2-normalized outputs of the projector (the
    bottleneck). The teacher encodes the global views only, without drop path; its BN is in training mode, with its own
    statistics.

    Attributes:
      network: encoder and projector, no predictor.
      output_dim: O, the number of outputs of the last layer.
      train_gain: whether the norms of the last layer's rows are trained, from 1 on. This is better, but stable for
        ViT-S only.
      momentum: m of the teacher at the start; it increases to 1 along half a cosine.
      student_temperature: T_s.
      teacher_temperature: T_t after the warm-up.
      warmup_teacher_temperature: T_t in the first epoch, from which it changes linearly from epoch to epoch.
      teacher_warmup_epochs: number of epochs of this warm-up; 0: T_t is constant.
      center_momentum: m of the center, the running mean of the teacher's outputs.
      steps_per_epoch: steps in an epoch; 0 in a config: set when the data is known.
      total_steps: steps of the training; 0 in a config: set when the data is known.
    """

    output_dim: int = field(65536, least=2)
    train_gain: bool = False
    momentum: float = field(0.996, least=0, most=1)
    student_temperature: float = field(0.1, above=0)
    teacher_temperature: float = field(0.04, above=0)
    warmup_teacher_temperature: float = field(0.04, above=0)
    teacher_warmup_epochs: int = field(0, least=0)
    center_momentum: float = field(0.9, least=0, most=1)
    steps_per_epoch: int = field(0, least=0)
    total_steps: int = field(0, least=0)

    multi_crop: ClassVar[bool] = True
    supports_drop_path: ClassVar[bool] = True

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online_and_target(self.network, rng, batch)
        shape = (self.network.projector.output_dim, self.output_dim)
        last = {'kernel': torch_uniform(jax.random.fold_in(rng, 1), shape, jnp.float32)}
        if self.train_gain:
            last['gain'] = jnp.ones((1, self.output_dim))  # two dimensions: decayed, as in the official code
        target = state.target | {'last_layer': networks.copy(last)}
        memory = {'center': jnp.zeros(self.output_dim)}
        return params | {'last_layer': last}, dataclasses.replace(state, target=target, memory=memory)

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
        views, center = batch['views'], state.memory['center']
        stats, stats_t = state.batch_stats['online'], state.batch_stats['target']
        z, stats = networks.project_views(self.network, params, stats, views, axis_name, drop_path=rng)  # [V, b, D]
        z_t, stats_t = networks.project_views(self.network, state.target, stats_t, views[:2], axis_name)  # [2, b, D]
        z, z_t = normalize(z), normalize(z_t)
        student = last_layer(params['last_layer'], z, self.network.projector.dtype)  # [V, b, O]
        teacher = lax.stop_gradient(last_layer(state.target['last_layer'], z_t, self.network.projector.dtype))

        epoch = base.step_from_progress(progress, self.total_steps) // self.steps_per_epoch
        T_t = teacher_temperature(
            epoch,
            start=self.warmup_teacher_temperature,
            final=self.teacher_temperature,
            warmup_epochs=self.teacher_warmup_epochs,
        )
        T_s = self.student_temperature
        loss = dino(student, teacher, center, teacher_temperature=T_t, student_temperature=T_s)

        z, p = lax.stop_gradient((z, targets(teacher, center, T_t)))
        positive = jnp.mean(jnp.sum(z[0] * lax.stop_gradient(z_t[1]), axis=-1))
        metrics = {
            'positive_similarity': positive,
            'alignment': 2.0 - 2.0 * positive,
            'feature_std': feature_std(z[0], axis_name),
            # 0: all probability on one output; 1: uniform. Both are collapse, which center and temperature prevent.
            'teacher_entropy': -jnp.mean(jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1))
            / math.log(self.output_dim),
            'teacher_temperature': T_t,
            'momentum': ema.cosine_momentum(progress, self.momentum),
        }
        state = base.MethodState(
            target=state.target,
            batch_stats={'online': stats, 'target': stats_t},
            memory={'center': update_center(center, teacher, self.center_momentum, axis_name)},
        )
        return loss, (state, metrics)

    def schedules(self, progress: float) -> dict[str, Array]:
        return {'momentum of the target': ema.cosine_momentum(progress, self.momentum)}

    def after_update(
        self, params: PyTree, state: base.MethodState, *, progress: Array | float
    ) -> tuple[PyTree, base.MethodState]:
        momentum = ema.cosine_momentum(progress, self.momentum)
        return params, dataclasses.replace(state, target=ema.update(state.target, params, momentum))


def last_layer(params: PyTree, z: Array, dtype: jnp.dtype = jnp.float32) -> Array:
    """A linear layer with weight normalization and without bias.

    Args:
      params: {'kernel': [D, O], 'gain': [1, O]}; without 'gain' the rows of the layer are unit vectors.
      z: [..., D] unit vectors.
      dtype: dtype of the factors of the matrix product.

    Returns:
      [..., O] logits, at least float32.
    """
    kernel = normalize(params['kernel'].T).T * params.get('gain', 1.0)  # [D, O]
    logits_dtype = jnp.promote_types(dtype, jnp.float32)
    return jnp.matmul(
        z.astype(dtype), kernel.astype(dtype), precision=lax.Precision.HIGHEST, preferred_element_type=logits_dtype
    )


def teacher_temperature(epoch: Array | int, *, start: float, final: float, warmup_epochs: int) -> Array:
    """T_t: linear from `start` in epoch 0 to `final` in epoch warmup_epochs - 1, then constant."""
    epoch = jnp.asarray(epoch)
    warmup = start + (final - start) * epoch / max(warmup_epochs - 1, 1)
    return jnp.where(epoch < warmup_epochs, warmup, final)
