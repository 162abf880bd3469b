"""Builds a run from a config."""

import jax
from ml_collections import ConfigDict

from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.config.check import check_examples
from contrastive_jax.config.length import total_steps
from contrastive_jax.data.sampler import steps_per_epoch
from contrastive_jax.methods import find_method
from contrastive_jax.optim.build import build_optimizer, weight_decay_of
from contrastive_jax.training.run import Run


def build_run(config: ConfigDict, num_examples: int, platform: str = '') -> Run:
    """Builds the objects that a config describes.

    Args:
      config: a config that `config.check.check` and `config.check.check_examples` have found right.
      num_examples: the number of images in the training split.
      platform: where the run trains, as jax names it; '': on the devices of this process.
    """
    per_epoch = steps_per_epoch(num_examples, config.batch_size)
    assert not (problems := check_examples(config, num_examples)), problems
    steps = total_steps(config, per_epoch)

    fields = config.method.to_dict()
    method_class = find_method(fields.pop('name'))
    known = {'num_examples': num_examples, 'steps_per_epoch': per_epoch, 'total_steps': steps}
    fields |= {name: value for name, value in known.items() if fields.get(name) == 0}
    method = method_class(build_network(config, platform or jax.default_backend()), **fields)

    optimizer, learning_rate = build_optimizer(config, per_epoch, steps)
    return Run(
        method=method,
        policy=build_policy(config),
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay_of(config, steps),
        batch_size=config.batch_size,
        image_size=config.data.image_size,
        total_steps=steps,
        steps_per_epoch=per_epoch,
        seed=config.seed,
        max_dropped_in_row=config.max_dropped_in_row,
    )
