"""How long a config trains."""

import math

from ml_collections import ConfigDict


def total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
    """The steps of a training.

    Args:
      config: of a pretraining, which may give `steps` and whose last epoch may be a part of one, or of an evaluation
        that trains.
      steps_per_epoch: see `data.sampler.steps_per_epoch`.
    """
    whole = round if 'protocol' in config else math.ceil
    return config.get('steps', 0) or max(1, whole(config.epochs * steps_per_epoch))
