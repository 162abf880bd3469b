"""Takes a run back to one of its checkpoints and goes on from there, perhaps with other fields: after a divergence."""

import datetime
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from contrastive_jax.training.loop import Trainer
from contrastive_jax.workdir import run_record
from contrastive_jax.workdir.folder import changed_fields, write_config


def roll_back(trainer: Trainer, step: int, config: ConfigDict, defaults: Mapping[str, Any]) -> None:
    """Makes a checkpoint the newest one, and the config that of the workdir; `run.json` records the change.

    Later checkpoints are renamed to `<step>.undone`. The same call again changes nothing, so that a loop which repeats
    the command goes on.

    Args:
      trainer: the trainer of the run, with the new config.
      step: a step that has a checkpoint, or 0 to start anew.
      config: the new config; any field may differ, as long as the checkpoint fits.
      defaults: values of missing fields, as `workdir.folder.open_workdir` takes them.

    Raises:
      UserError: there is no checkpoint of this step.
      CheckpointError: it cannot be used, for example since it holds another model; nothing is changed.
    """
    workdir, first = trainer.workdir, jax.process_index() == 0
    changes = changed_fields(workdir, config, defaults)
    record = run_record.read(workdir)
    done = list(record.get('rollbacks', []))
    if done and done[-1].get('to_step') == step and not changes:
        if first:
            print(f'the run was rolled back to step {step} before, and goes on', flush=True)
        return
    undone = [x for x in trainer.checkpoints.steps if x > step]
    trainer.checkpoints.roll_back(step, trainer.shapes)
    if not first:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    run_record.write(workdir, {**record, 'rollbacks': [*done, {'to_step': step, 'at': now, 'changes': changes}]})
    write_config(workdir, config)
    print(
        f'rolled back to step {step}'
        + (f'; renamed to <step>.undone: {", ".join(map(str, undone))}' if undone else '')
        + (f'; changed from here on: {"; ".join(changes)}' if changes else ''),
        flush=True,
    )
