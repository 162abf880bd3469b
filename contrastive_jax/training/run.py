"""What a run consists of: the state that training changes, and everything that stays constant."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax
import optax
from jax import Array

from contrastive_jax.augment.policy import Policy
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.methods import Method, MethodState
from contrastive_jax.optim import schedules
from contrastive_jax.training.finite import Dropped


@flax.struct.dataclass
class TrainState:
    """Everything that training changes, and so everything that a checkpoint holds. The step gives the data position.

    Attributes:
      step: int32 scalar, number of steps done.
      params: trained parameters.
      opt_state: state of the optimizer.
      method: target, BN statistics and memory of the method.
      dropped: counts of the steps whose update was dropped; None where nothing is trained.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    method: MethodState
    dropped: Dropped | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config makes: everything that is constant during training.

    Attributes:
      method: the method that is trained.
      policy: the augmentation.
      optimizer: the optimizer of the trained parameters.
      learning_rate: the learning-rate schedule of the optimizer, for the log.
      batch_size: global batch size.
      image_size: height and width of a global view, in pixels.
      total_steps: length of the run.
      steps_per_epoch: number of complete batches in an epoch.
      seed: seed of everything random.
      max_dropped_in_row: the run stops after so many steps in a row whose update was dropped, see `training.finite`.
      weight_decay: the schedule of the weight decay, as for DINO; None if it is constant.
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
    max_dropped_in_row: int = 5
    weight_decay: schedules.Schedule | None = None

    def plan(self, step: int) -> dict[str, float]:
        """The length of the run, and what its schedules give at `step`; a checkpoint holds it, see `differing_plan`."""
        values = {'learning rate': self.learning_rate(step), **self.method.schedules(min(step / self.total_steps, 1.0))}
        if self.weight_decay is not None:
            values['weight decay'] = self.weight_decay(step)
        return {'steps': float(self.total_steps), **{name: float(x) for name, x in values.items()}}

    @property
    def dtype(self) -> Any:
        return self.method.network.encoder.dtype

    @property
    def state_specs(self) -> TrainState:
        """The sharding of the state: everything is replicated except the memory."""
        r: Any = REPLICATED
        return TrainState(r, r, r, method=MethodState(r, r, self.method.memory_spec), dropped=r)


def differing_plan(step: int, before: Mapping[str, float], now: Mapping[str, float]) -> str:
    """The line that says what another length does to the schedules of a resumed run; '' if the length is the same.

    Args:
      step: the step that the run goes on from.
      before: `Run.plan` at this step with the length that the run had; of older checkpoints, at most 'steps'.
      now: `Run.plan` at this step.
    """
    if before.get('steps', now['steps']) == now['steps']:
        return ''
    jumps = [
        f'{name} {before[name]:.4g} -> {now[name]:.4g}'
        for name in now
        if name != 'steps' and name in before and not math.isclose(before[name], now[name], rel_tol=1e-6, abs_tol=1e-12)
    ]
    return (
        f'the length changes from {before["steps"]:.0f} to {now["steps"]:.0f} steps, and the schedules with it: from '
        f'step {step} on they are those of a run of {now["steps"]:.0f} steps'
        + (f' ({", ".join(jumps)})' if jumps else '')
    )
