"""Trains what a config describes: checks it, opens the data and the workdir, and runs the loop."""

import jax
from ml_collections import ConfigDict

from contrastive_jax.config.check import check
from contrastive_jax.data import sources
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import MissingSplitError, UserError
from contrastive_jax.training import loop
from contrastive_jax.training.build import build_run
from contrastive_jax.training.interrupt import Interrupt
from contrastive_jax.workdir.folder import open_workdir


def fit(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains what the config describes; the same call again goes on where the last one stopped.

    Args:
      config: of the form of `config.base.base_config`.
      workdir: folder of the run: config, checkpoints, metrics, pictures.

    Returns:
      The last evaluation.

    Raises:
      UserError: something in config, data or workdir that the user can mend; nothing was compiled or lost.
      Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    devices = find_devices(config.get('parallel', 'jit'))
    if problems := check(config, devices.count, jax.process_count()):
        raise UserError('\n'.join(problems))
    with Interrupt() as interrupt:  # from here on: it is heeded before the first step, however long this takes
        source, held_out = load_data(config)
        run = build_run(config, len(source))
        path = open_workdir(workdir, config, write=jax.process_index() == 0)
        return loop.Trainer(config, path, devices, run, source, held_out).fit(interrupt)


def load_data(config: ConfigDict) -> tuple[sources.Source, sources.Source | None]:
    """The training split, and the held-out one if there is one."""
    d = config.data
    place = {'name': d.name, 'path': d.path, 'image_size': d.image_size}
    source = sources.load(d.source, split=d.split, **place)
    try:
        return source, sources.load(d.source, split=d.eval_split, **place)
    except MissingSplitError:  # pre-training needs no labels and no held-out images
        return source, None
