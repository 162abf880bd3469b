"""What the folder of a run says about it, and which evaluations judged its encoder. Everything is only read."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.stored import complete
from contrastive_jax.errors import UserError
from contrastive_jax.methods import METHODS
from contrastive_jax.protocols.run import RESULTS_FOLDER
from contrastive_jax.workdir import about, metrics
from contrastive_jax.workdir.folder import CONFIG_FILE, read_config


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
      folder: name of its workdir.
      protocol, weights, data: what was done, with which weights, on which data.
      step: of the checkpoint that was judged.
      numbers: by their names without 'eval/'.
    """

    folder: str
    protocol: str
    weights: str
    data: str
    step: int
    numbers: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its workdir shows it.

    Attributes:
      workdir: absolute.
      config: of the run.
      history: the lines of metrics.jsonl.
      known: what the run noted about itself in about.json; {} of runs that are older than it.
      sessions: the times that it was started, as noted there.
      evaluations: of its encoder.
    """

    workdir: Path
    config: ConfigDict
    history: Sequence[dict[str, float]]
    known: dict[str, Any]
    sessions: Sequence[dict[str, Any]]
    evaluations: Sequence[Evaluation]

    @property
    def method(self) -> str:
        """The name of its class, as the papers write it."""
        return METHODS[self.config.method.name].__name__

    @property
    def step(self) -> int:
        """The last that was measured."""
        return int(max((line['step'] for line in self.history if 'loss' in line), default=0))

    def last(self, name: str) -> float | None:
        """The newest value of a metric, if there is one that is a number."""
        values = (line[name] for line in reversed(self.history) if name in line)
        return next((x for x in values if math.isfinite(x)), None)

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric."""
        lines = [line for line in self.history if name in line]
        return [line['step'] for line in lines], [line[name] for line in lines]


def read(path: str, elsewhere: Sequence[str] = ()) -> Run:
    """Reads the workdir of a run, and the evaluations beside it.

    Args:
      path: of the workdir.
      elsewhere: more folders with evaluations, or workdirs of such.

    Raises:
      UserError: there is no run, or it is an evaluation; a folder of `elsewhere` does not exist.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        what = 'is a file' if folder.is_file() else 'does not exist'
        raise UserError(f'--workdir {folder} {what} -> give the folder of a run')
    config = read_config(folder)
    if 'protocol' in config:
        raise UserError(
            f'--workdir {folder} is that of an evaluation -> give the run that it judges: '
            f'--workdir={config.get("init", "")}'
        )
    lacking = [name for name in ('data', 'encoder', 'projector', 'method') if name not in config]
    if lacking or config.method.get('name') not in METHODS:
        what = f'lacks {", ".join(lacking[:3])}' if lacking else f'has the method {config.method.get("name")!r}'
        raise UserError(f'{folder / CONFIG_FILE} is no config of a run: it {what} -> give the workdir of one')
    config = complete(config)
    for other in elsewhere:
        if not Path(other).expanduser().is_dir():
            raise UserError(f'--evaluations {other} is no folder -> give the folder that holds their workdirs')
    noted = about.read(folder)
    found = list(_evaluations(folder, [folder.parent, *(Path(other).expanduser() for other in elsewhere)]))
    return Run(folder, config, metrics.read(folder), about.run(noted), about.sessions(noted), found)


def _evaluations(run: Path, folders: Sequence[Path]) -> Iterator[Evaluation]:
    """Those that judge the run, among the workdirs in these folders or the folders themselves; each once."""
    files = {
        file.resolve(): None
        for folder in folders
        for form in ('', '*/')
        for file in folder.glob(f'{form}{RESULTS_FOLDER}/*.json')
    }
    for file in sorted(files):
        try:
            held = json.loads(file.read_text(encoding='utf-8'))
            if not held['init'] or Path(held['init']).expanduser().resolve() != run.resolve():
                continue
            numbers = {
                name.removeprefix('eval/'): float(value)
                for name, value in held.items()
                if name.startswith('eval/') and isinstance(value, int | float)
            }
            yield Evaluation(
                folder=file.parents[1].name,
                protocol=str(held.get('protocol', file.stem)),
                weights=str(held.get('weights', 'online')),
                data=str(held.get('data', '')),
                step=int(held.get('step', 0)),
                numbers=numbers,
            )
        except (OSError, ValueError, TypeError, KeyError):  # somebody else's JSON
            continue
