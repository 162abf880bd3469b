"""What a run consists of: the state that training changes, and everything that stays constant."""

import dataclasses
from typing import Any

import flax
import optax
from jax import Array

from contrastive_jax.augment.policy import Policy
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.methods import Method, MethodState
from contrastive_jax.optim import schedules


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
class Run:
    """What a config makes: everything that is constant during training.

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
