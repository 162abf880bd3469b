"""DINO (arXiv 2104.14294): a student learns from small crops what its slowly moving teacher says of large ones.

There are no negatives. Centring keeps the teacher from always saying the same, sharpening from saying nothing. Official
source: facebookresearch/dino, main_dino.py. The rest of the recipe is the optimizer's affair: weight decay that rises,
gradients clipped tensor by tensor, and a last layer frozen in the first epoch (`config.optimizer.freeze_first`).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.losses.dino import dino, targets, update_center
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, ema
from contrastive_jax.models.heads import torch_uniform
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class DINO(base.Method):
    """Self-distillation with no labels.

    Both networks end in a linear layer of unit rows; it sees what the projector, the bottleneck, puts out as unit
    vectors. The teacher sees the global views alone, without drop path; its BN is in training mode and has its own
    statistics.

    Attributes:
      network: encoder and projector, no predictor.
      output_dim: O, outputs of the last layer.
      train_gain: the last layer's rows have a trained length, which starts at 1: better, and safe for ViT-S only.
      momentum: of the teacher at the start; it rises to 1 on a half cosine.
      student_temperature: T_s.
      teacher_temperature: T_t.
      warmup_teacher_temperature: T_t in the first epoch, from where it rises linearly, epoch by epoch.
      teacher_warmup_epochs: in so many epochs; 0: T_t is constant.
      center_momentum: of the centre, the running mean of the teacher's outputs.
      steps_per_epoch, total_steps: 0 in a config: filled in.
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
        params, stats = base.init_network(self.network, rng, batch)
        shape = (self.network.projector.output_dim, self.output_dim)
        params['last_layer'] = {'kernel': torch_uniform(jax.random.fold_in(rng, 1), shape, jnp.float32)}
        if self.train_gain:
            params['last_layer']['gain'] = jnp.ones((1, self.output_dim))  # a matrix: decayed, as in the official code
        state = base.MethodState(
            target=base.copy(params),
            batch_stats={'online': stats, 'target': base.copy(stats)},
            memory={'center': jnp.zeros(self.output_dim)},
        )
        return params, state

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
        views, center = batch['views'], state.memory['center']
        stats, stats_t = state.batch_stats['online'], state.batch_stats['target']
        z, stats = base.project_views(self.network, params, stats, views, axis_name, drop_path=rng)  # [V, b, D]
        z_t, stats_t = base.project_views(self.network, state.target, stats_t, views[:2], axis_name)  # [2, b, D]
        z, z_t = normalize(z), normalize(z_t)
        student = last_layer(params['last_layer'], z, self.network.projector.dtype)  # [V, b, O]
        teacher = lax.stop_gradient(last_layer(state.target['last_layer'], z_t, self.network.projector.dtype))

        epoch = base.step_of(progress, self.total_steps) // self.steps_per_epoch
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
            'feature_std': base.feature_std(z[0], axis_name),
            # 0: one output always wins; 1: all are equal. Both are the collapse that centre and temperature balance.
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

    def after_update(
        self, params: PyTree, state: base.MethodState, *, progress: Array | float
    ) -> tuple[PyTree, base.MethodState]:
        momentum = ema.cosine_momentum(progress, self.momentum)
        return params, dataclasses.replace(state, target=ema.update(state.target, params, momentum))


def last_layer(params: PyTree, z: Array, dtype: jnp.dtype = jnp.float32) -> Array:
    """The weight-normed linear layer without bias: products of unit rows, times their gain if they have one, with z.

    Args:
      params: {'kernel': [D, O], 'gain': [1, O] or left out}.
      z: [..., D] unit vectors.
      dtype: of the factors; the logits are float32 at least.
    """
    kernel = normalize(params['kernel'].T).T * params.get('gain', 1.0)  # [D, O]
    logits_dtype = jnp.promote_types(dtype, jnp.float32)
    return jnp.matmul(
        z.astype(dtype), kernel.astype(dtype), precision=lax.Precision.HIGHEST, preferred_element_type=logits_dtype
    )


def teacher_temperature(epoch: Array | int, *, start: float, final: float, warmup_epochs: int) -> Array:
    """From `start`, in epoch 0, to `final`, in epoch warmup_epochs - 1, linearly; then constant."""
    epoch = jnp.asarray(epoch)
    rising = start + (final - start) * epoch / max(warmup_epochs - 1, 1)
    return jnp.where(epoch < warmup_epochs, rising, final)
