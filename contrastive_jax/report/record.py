"""Reads what a run recorded in its workdir, and the results of evaluations of its encoder. No file is changed."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.stored import complete
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.verdict import first_weights
from contrastive_jax.methods import find_method, method_or_none
from contrastive_jax.plots.panels import last_finite, series
from contrastive_jax.protocols.run import RESULTS_FOLDER
from contrastive_jax.workdir import about, inputs, metrics, run_record
from contrastive_jax.workdir.described import FOLDER as CHECKPOINTS
from contrastive_jax.workdir.folder import CONFIG_FILE, read_config
from contrastive_jax.workdir.inputs import differ


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
      folder: the name of its workdir.
      protocol: the evaluation protocol, such as 'knn' or 'linear'.
      weights: which network was evaluated, 'online' or 'target'.
      data: the name of the data.
      step: the step of the checkpoint that was evaluated.
      metrics: metric, without 'eval/' -> value.
      run: the id of the run that was evaluated (`workdir.run_record`); '' if it was not recorded.
      inputs: fingerprints of what was evaluated, such as 'training images'; {} if they were not recorded.
    """

    folder: str
    protocol: str
    weights: str
    data: str
    step: int
    metrics: dict[str, float]
    run: str = ''
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run recorded.

    Attributes:
      workdir: the absolute path of its workdir.
      config: the config of the run.
      history: the lines of metrics.jsonl.
      about: facts about the run from about.json; {} for runs that were started before this file existed.
      sessions: from about.json, one entry for each time that the run was started.
      evaluations: results of evaluations of its encoder, also of other steps and on other data.
      left_out: one line for each evaluation of another run that was in this workdir before, and for each file that
        cannot be read.
      inputs: its inputs as `workdir.inputs.read` returns them; {} for runs of older versions, or if it cannot be read.
      newest: the step of its newest checkpoint; None if there is none.
      rollbacks: one entry of run.json for each time that the run was taken back: 'to_step', 'at', 'changes'.
    """

    workdir: Path
    config: ConfigDict
    history: Sequence[dict[str, float]]
    about: dict[str, Any]
    sessions: Sequence[dict[str, Any]]
    evaluations: Sequence[Evaluation]
    left_out: Sequence[str] = ()
    inputs: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    newest: int | None = None
    rollbacks: Sequence[Mapping[str, Any]] = ()

    @property
    def first(self) -> str:
        """What its encoder had at step 0, see `evaluate.verdict.first_weights`."""
        return first_weights(self.config.get('init', ''))

    @property
    def latest(self) -> dict[str, float]:
        """The last finite value of each metric."""
        names = {name for line in self.history for name in line}
        found = {name: self.last(name) for name in sorted(names)}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def dropped(self) -> int:
        """The number of steps that changed nothing, since a value was not finite."""
        return int(sum(x for x in self.values('dropped') if math.isfinite(x)))

    @property
    def method(self) -> str:
        """The name of the class of its method, which is the name that the paper uses."""
        return find_method(self.config.method.name).__name__

    @property
    def step(self) -> int:
        """The last step at which the loss was measured."""
        return int(max((line['step'] for line in self.history if 'loss' in line), default=0))

    def last(self, metric: str) -> float | None:
        """The last finite value of a metric; None if there is none."""
        return last_finite(self.values(metric))

    def values(self, metric: str) -> list[float]:
        """All values of a metric."""
        return series(self.history, metric)[1]


def read_record(workdir: str, evaluations: Sequence[str] = ()) -> RunRecord:
    """Reads the workdir of a run, and the results of evaluations in the folder that contains it.

    Args:
      workdir: the workdir of the run.
      evaluations: more folders that contain workdirs of evaluations, or are one.

    Raises:
      UserError: `workdir` is not the workdir of a run, or a folder of `evaluations` does not exist.
    """
    folder = Path(workdir).expanduser().absolute()
    if not folder.is_dir():
        problem = 'is a file' if folder.is_file() else 'does not exist'
        raise UserError(f'{folder} {problem} -> give the workdir of a run')
    config = read_config(folder)
    if 'protocol' in config:
        raise UserError(
            f'{folder} is the workdir of an evaluation -> give the workdir of the run that it evaluates: '
            f'{config.get("init", "")}'
        )
    missing = [name for name in ('data', 'encoder', 'projector', 'method') if name not in config]
    if missing or method_or_none(config.method.get('name')) is None:
        problem = f'lacks {", ".join(missing[:3])}' if missing else f'has the method {config.method.get("name")!r}'
        raise UserError(f'{folder / CONFIG_FILE} is not the config of a run: it {problem} -> give the workdir of a run')
    config = complete(config)
    for other in evaluations:
        if not Path(other).expanduser().is_dir():
            raise UserError(f'{other} is not a folder -> give a folder that contains workdirs of evaluations')
    recorded = about.read(folder)
    found = list(_evaluations(folder, [folder.parent, *(Path(other).expanduser() for other in evaluations)]))
    left_out: list[str] = []
    known = _read_or_say(run_record.read, folder, 'rollbacks, and which evaluations are of another run', left_out)
    begun_with = _read_or_say(inputs.read, folder, 'whether the data is that of the training', left_out)
    run = known.get('id', '')
    others = [e for e in found if run and e.run and e.run != run]
    return RunRecord(
        folder,
        config,
        metrics.read(folder),
        about.run(recorded),
        about.sessions(recorded),
        [e for e in found if e not in others],
        [
            *left_out,
            *(f'evaluation {e.folder} ({e.protocol}): it is of another run, which was in this workdir' for e in others),
        ],
        begun_with,
        newest_step(folder),
        [entry for entry in known.get('rollbacks', []) if isinstance(entry, dict)],
    )


def _read_or_say(
    read: Callable[[Path], dict[str, Any]], workdir: Path, what: str, left_out: list[str]
) -> dict[str, Any]:
    """What `read` finds in a workdir. If the file is damaged: {}, and a line about what is not known then."""
    try:
        return read(workdir)
    except UserError as error:
        left_out.append(f'{what}: {error}')
        return {}


def newest_step(workdir: Path) -> int | None:
    """The step of the newest checkpoint in a workdir; None if there is none."""
    steps = [int(path.name) for path in (workdir / CHECKPOINTS).glob('[0-9]*') if path.name.isdecimal()]
    return max(steps, default=None)


def origin(evaluation: Evaluation, newest: int | None, inputs: Mapping[str, str]) -> str:
    """How an evaluation differs from the run as it is now; '' if it does not.

    Args:
      evaluation: the evaluation.
      newest: the step of the newest checkpoint of the run; None if there is none.
      inputs: fingerprints of the data of the run, by the names of `workdir.inputs`; unknown ones are missing.
    """
    parts = []
    if newest is not None and evaluation.step != newest:
        parts.append(f'of step {evaluation.step:,}; the newest checkpoint is of step {newest:,}')
    known = {name: fingerprint for name, fingerprint in evaluation.inputs.items() if name in inputs}
    if other := [name for name, fingerprint in known.items() if differ(fingerprint, inputs[name])]:
        parts.append(f'its {" and ".join(other)} are not those of this run')
    if not evaluation.inputs:
        parts.append('by an older version, which did not record its data')
    return '; '.join(parts)


def _evaluations(workdir: Path, folders: Sequence[Path]) -> Iterator[Evaluation]:
    """Evaluations of the run in `workdir`, whose workdirs are these folders or are in them; each result once."""
    files = {
        file.resolve(): None
        for folder in folders
        for pattern in ('', '*/')
        for file in folder.glob(f'{pattern}{RESULTS_FOLDER}/*.json')
    }
    for file in sorted(files):
        try:
            result = json.loads(file.read_text(encoding='utf-8'))
            if not result['init'] or Path(result['init']).expanduser().resolve() != workdir.resolve():
                continue
            values = {
                name.removeprefix('eval/'): float(value)
                for name, value in result.items()
                if name.startswith('eval/') and isinstance(value, int | float)
            }
            yield Evaluation(
                folder=file.parents[1].name,
                protocol=str(result.get('protocol', file.stem)),
                weights=str(result.get('weights', 'online')),
                data=str(result.get('data', '')),
                step=int(result.get('step', 0)),
                metrics=values,
                run=str(result.get('run') or ''),
                inputs={str(name): str(value) for name, value in result.get('fingerprints', {}).items()},
            )
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ):  # a JSON file that is not the result of an evaluation
            continue
