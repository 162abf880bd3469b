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
    """Everything that training changes, and so everything that a checkpoint holds. The step gives the data position.

    Attributes:
      step: int32 scalar, number of steps done.
      params: trained parameters.
      opt_state: state of the optimizer.
      method: target, BN statistics and memory of the method.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    method: MethodState


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
        """The sharding of the state: everything is replicated except the memory."""
        r: Any = REPLICATED
        return TrainState(step=r, params=r, opt_state=r, method=MethodState(r, r, self.method.memory_spec))
