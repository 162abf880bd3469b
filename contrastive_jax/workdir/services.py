"""The trackers that are services of others: W&B, MLflow and trackio. Each imports its package when it is opened."""

import contextlib
import io
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image

from contrastive_jax.workdir.trackers import Opening, Service


class WandB:
    """A run of Weights & Biases: https://docs.wandb.ai. WANDB_MODE=offline keeps it in the workdir."""

    def __init__(self, given: Opening):
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=given.project,
            name=given.name,
            id=given.goes_on or given.id,
            resume='allow',
            dir=str(given.workdir),
            config=dict(given.config),
            allow_val_change=True,  # such as a larger number of epochs
            settings=wandb.Settings(console='off', silent=True),  # the terminal is ours
        )
        self.id = str(self._run.id)
        offline = f'offline, in {given.workdir}/wandb; `wandb sync` sends it'
        self.where = offline if self._run.offline else str(self._run.url)

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        self._run.log(dict(metrics), step=step)

    def picture(self, step: int, name: str, png: bytes) -> None:
        self._run.log({name: self._image(_opened(png))}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow: https://mlflow.org/docs/latest. MLFLOW_TRACKING_URI says where; else MLflow's own default."""

    def __init__(self, given: Opening):
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        if given.goes_on:
            self._client.update_run(given.goes_on, status='RUNNING')
            self.id = given.goes_on
        else:
            found = self._client.get_experiment_by_name(given.project)
            experiment = found.experiment_id if found else self._client.create_experiment(given.project)
            self.id = self._client.create_run(experiment, run_name=given.name).info.run_id
            fields = [Param(_legal(name), str(value)[:500]) for name, value in _flat(given.config).items()]
            for first in range(0, len(fields), 100):  # the most that one request takes
                self._client.log_batch(self.id, params=fields[first : first + 100])
        self.where = f'run {self.id} at {self._client.tracking_uri}'

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, [self._metric(_legal(n), float(x), now, step) for n, x in metrics.items()])

    def picture(self, step: int, name: str, png: bytes) -> None:
        self._client.log_image(self.id, _opened(png), key=_legal(name), step=step)

    def close(self) -> None:
        self._client.set_terminated(self.id)


class Trackio:
    """A run of trackio: https://huggingface.co/docs/trackio. It is on this machine unless TRACKIO_SPACE_ID is set."""

    def __init__(self, given: Opening):
        import trackio

        self._image = trackio.Image
        self.id = given.goes_on or f'{given.name}-{given.id[:6]}'  # trackio continues a run by its name
        with contextlib.redirect_stdout(io.StringIO()):  # several lines, which `where` says in one
            self._run = trackio.init(
                project=given.project,
                name=self.id,
                resume='allow',
                config=dict(given.config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.where = f'run {self.id}; `trackio show --project "{given.project}"` shows it'

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        self._run.log({name: x if math.isfinite(x) else None for name, x in metrics.items()}, step=step)

    def picture(self, step: int, name: str, png: bytes) -> None:
        self._run.log({name: self._image(_opened(png))}, step=step)

    def close(self) -> None:
        self._run.finish()


SERVICES: dict[str, type[Service]] = {'wandb': WandB, 'mlflow': MLflow, 'trackio': Trackio}


def _opened(png: bytes) -> Image.Image:
    """The picture without transparency, which not every service shows."""
    with Image.open(io.BytesIO(png)) as image:
        return image.convert('RGB')


def _legal(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r'[^\w\-. /]', '_', name)


def _flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f'{prefix}{name}.') if isinstance(value, Mapping) else {prefix + name: value}
    return flat
