"""How long a config trains."""

import math

from ml_collections import ConfigDict


def total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
    """The steps of a training.

    Args:
      config: the config of a pretraining, which may give `steps` and rounds a part of an epoch up to whole steps, or
        that of an evaluation that trains, which rounds to the nearest step.
      steps_per_epoch: see `data.sampler.steps_per_epoch`.
    """
    whole = round if 'protocol' in config else math.ceil
    return config.get('steps', 0) or max(1, whole(config.epochs * steps_per_epoch))
