"""The interface between a method and the training loop.

A method is a frozen dataclass that inherits from `Method`. Its fields are a network and hyperparameters, the same ones
as in the section `config.method`, so that a misspelled field raises an error and `repr(method)` shows all of them. It
holds no arrays. Everything that changes during training is passed in and returned: the trained parameters, and a
`MethodState` with everything else.

    params, state = method.init(rng, batch)                           once
    loss, (state, metrics) = method.loss(params, state, batch, ...)   every step; gradients with respect to params
    params, state = method.after_update(params, state, ...)           every step, after the optimizer

To write a method:

1. Declare the dataclass. `rules.field` declares the legal range of a field together with its default. Set the class
   constants of `Method` that differ from their defaults: from them the config check knows which networks and views the
   method can use.
2. `init` returns the parameters and the state at step 0. `networks.init_online` and `init_online_and_target` do this
   for most methods. Every method trains `params['encoder']`, with the BN statistics
   `state.batch_stats['online']['encoder']`: this is the encoder that is evaluated and exported.
3. `loss` applies the networks in training mode (`networks.project`, `project_each`, `predict_each`), computes a loss,
   and returns it with the new state and metrics. The new state has the structure, shapes and dtypes of the old one.
   Gradients must not flow through the state.
4. Override `after_update` if something changes after the optimizer's step, such as a target network, and `check` if a
   field is only legal together with other fields.
5. Write a config whose `method.name` is 'package.module:Class'. For a method of this package, add the class to
   `METHODS` in methods/__init__.py and the config to tests/train_steps.py; tests/methods/test_contract.py then checks
   it.

Many devices: `loss` runs on each device with the local examples, and the training loop averages losses, gradients and
metrics over the devices. The averages must be those of the whole batch on one device. For this, pass `axis_name` on to
networks and losses, and use `distributed.collectives` for everything else that depends on several examples. `rng` is
the same on all devices; `collectives.example_keys` derives a key for each example from it. On return the state is the
same on all devices, except the parts of the memory that `memory_spec` shards.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import flax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.models.network import Network
from contrastive_jax.rules import Rules

# One device's part of a batch, as a method gets it: b local examples of the B in the global batch.
#
#   views     tuple of augmented images [b, H, W, channels], or grids of patches [b, R, C, p, p, channels]; global first
#   index     int32[b], the index of each example in the data set
#   label     int32[b], the class of each example, -1 without labels
#
# and, if `Method.shuffles`:
#
#   shuffle   int32[B], a permutation of the global batch, the same on all devices
#   shuffled  the views in shuffled order: at the global position i those of example shuffle[i]
Batch = dict[str, Any]


class MethodState(flax.struct.PyTreeNode):
    """Everything that a method keeps between steps, except the trained parameters.

    Attributes:
      target: parameters that are not trained by gradients, such as those of a moving average; {} if there are none.
      batch_stats: BN statistics {'online': ..., 'target': ...}, separate for each network.
      memory: a dict of arrays such as a queue or a memory bank, with names that the method chooses; {} if there are
        none.
    """

    target: PyTree
    batch_stats: PyTree
    memory: PyTree


# What `Method.loss` returns: the loss, and as auxiliary output the new state and the metrics, which are scalars.
LossOutput = tuple[Array, tuple[MethodState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A method of self-supervised learning. Subclasses are frozen dataclasses, and are not subclassed further.

    The module docstring says how to write one. Three fields have a special meaning where a method declares them:
    `num_examples` (images in the training split), `steps_per_epoch` and `total_steps` are 0 in a config, and are set
    when data and length of the training are known.

    Attributes:
      network: encoder, projector and, if `has_predictor`, predictor.
      has_predictor: class constant; whether the network must have a predictor.
      global_views: class constant; the numbers of global views that a batch may have.
      multi_crop: class constant; whether a batch may have local views, which follow the global ones.
      patches: class constant; whether views may be grids of patches instead of images.
      concat_views: class constant; whether both views pass through the network in one batch, with common BN statistics.
      split_encoder: class constant; whether the encoder consists of two (models/split.py).
      supports_drop_path: class constant; whether the encoder may use stochastic depth.
      initializes_memory: class constant; whether training begins with a pass over the data that calls `init_memory`,
        and each epoch with a call of `before_epoch`.
      memory_spec: class constant; a pytree prefix of PartitionSpecs for `state.memory`. Sharded arrays are split over
        the devices; the default is that each device holds all of the memory.
    """

    network: Network

    has_predictor: ClassVar[bool] = False
    global_views: ClassVar[tuple[int, ...]] = (2,)
    multi_crop: ClassVar[bool] = False
    patches: ClassVar[bool] = False
    concat_views: ClassVar[bool] = False
    split_encoder: ClassVar[bool] = False
    supports_drop_path: ClassVar[bool] = False
    initializes_memory: ClassVar[bool] = False
    memory_spec: ClassVar[PyTree] = REPLICATED

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        """Checks rules that involve several fields of a config. By default there are none.

        It is called before anything is compiled. The types and ranges that the fields declare with `rules.field`, and
        the requirements of the class constants, are checked elsewhere.

        Args:
          c: the whole config; the method's fields are in `c.method`.
          rules: collects the problems. For example, MoCo's `rules.multiple('method.queue_size', B, ...)` adds a problem
            if the batch size B does not divide the queue; `rules.rule(condition, message, field=..., remedy=...)` adds
            one if the condition is False.
        """
        del c, rules

    @property
    def shuffles(self) -> bool:
        """Whether keys are encoded in shuffled order; then a batch has the entries 'shuffle' and 'shuffled'."""
        return False

    @abc.abstractmethod
    def init(self, rng: Array, batch: Batch) -> tuple[PyTree, MethodState]:
        """Returns the parameters and the state at step 0.

        Args:
          rng: a typed key.
          batch: 'views' of a global batch [B, H, W, C]; only the shapes matter.

        Returns:
          Trained parameters {'encoder': ..., ...}, and the state. They must not share buffers, because both are donated
          to the compiled step; see `networks.copy`.
        """

    @abc.abstractmethod
    def loss(
        self,
        params: PyTree,
        state: MethodState,
        batch: Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> LossOutput:
        """Computes the loss of the local examples.

        Args:
          params: trained parameters.
          state: the state after the previous step.
          batch: the local part of a batch; see `Batch`.
          rng: a typed key, the same on all devices, another one in each step.
          progress: step / total steps, in [0, 1).
          axis_name: the mapped device axis; None when the whole batch is on this device.

        Returns:
          loss, (state, metrics): the mean over the local examples, the new state, and scalars for the log, which the
          caller averages over the devices.
        """

    def after_update(
        self, params: PyTree, state: MethodState, *, progress: Array | float
    ) -> tuple[PyTree, MethodState]:
        """Changes the parameters or the state after the optimizer's step. By default it changes nothing.

        Args:
          params: trained parameters after the optimizer's step.
          state: the state that `loss` returned.
          progress: as for `loss`.

        Returns:
          The new parameters and the new state.
        """
        del progress
        return params, state

    def schedules(self, progress: float) -> dict[str, Array]:
        """What depends on the progress besides the learning rate, for messages: name -> value. By default nothing.

        Args:
          progress: step / total steps, in [0, 1].
        """
        del progress
        return {}

    def init_memory(
        self, params: PyTree, state: MethodState, batch: Batch, *, axis_name: str | None = None
    ) -> MethodState:
        """Fills the memory before step 0, if `initializes_memory`. It is called for each batch of one epoch.

        Args:
          params: untrained parameters.
          state: the state after the previous batch.
          batch: the local part of a batch.
          axis_name: as for `loss`.

        Returns:
          The new state.
        """
        raise NotImplementedError

    def before_epoch(self, state: MethodState, *, rng: Array, axis_name: str | None = None) -> MethodState:
        """Updates the state at the start of each epoch, if `initializes_memory`. It is a part of the first step.

        Args:
          state: the state after the previous step, or after `init_memory` in the first epoch.
          rng: a typed key, the same on all devices.
          axis_name: as for `loss`.

        Returns:
          The new state.
        """
        raise NotImplementedError


def step_from_progress(progress: Array | float, total_steps: int) -> Array:
    """The step, int32, from progress = step / total_steps. In float32 it is exact below four million steps."""
    return jnp.round(jnp.asarray(progress) * total_steps).astype(jnp.int32)
