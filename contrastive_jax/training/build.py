"""Makes a run from a config."""

import math

from ml_collections import ConfigDict

from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.data.sampler import steps_per_epoch
from contrastive_jax.errors import UserError
from contrastive_jax.methods import find_method
from contrastive_jax.optim.build import build_optimizer
from contrastive_jax.training.run import Run


def build_run(config: ConfigDict, num_examples: int) -> Run:
    """Makes the run of a checked config.

    Args:
      config: of the form of `config.base.base_config`.
      num_examples: number of images in the training split.

    Raises:
      UserError: fewer examples than a batch, a warm-up longer than the training, fewer rows in a bank than examples,
        more clusters than examples.
    """
    per_epoch = steps_per_epoch(num_examples, config.batch_size)
    total_steps = config.steps or max(1, math.ceil(config.epochs * per_epoch))

    fields = config.method.to_dict()
    method_class = find_method(fields.pop('name'))
    if 0 < fields.get('num_examples', num_examples) < num_examples:
        raise UserError(
            f'method.num_examples {fields["num_examples"]} is less than the {num_examples} images of the data -> '
            'set it to 0 to take the number of images'
        )
    most = max(fields.get('num_prototypes', ()), default=0) if method_class.initializes_memory else 0
    if most > per_epoch * config.batch_size:
        raise UserError(
            f'method.num_prototypes {most} is more than the {per_epoch * config.batch_size} images of an epoch, which '
            'cannot have so many clusters -> use fewer'
        )
    known = {'num_examples': num_examples, 'steps_per_epoch': per_epoch, 'total_steps': total_steps}
    fields |= {name: value for name, value in known.items() if fields.get(name) == 0}
    method = method_class(build_network(config), **fields)

    optimizer, learning_rate = build_optimizer(config, per_epoch, total_steps)
    return Run(
        method=method,
        policy=build_policy(config),
        optimizer=optimizer,
        learning_rate=learning_rate,
        batch_size=config.batch_size,
        image_size=config.data.image_size,
        total_steps=total_steps,
        steps_per_epoch=per_epoch,
        seed=config.seed,
    )
