"""The checkpoints of a run that are kept, and which of them is the best by a metric."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from contrastive_jax.distributed.agree import text_of_first
from contrastive_jax.errors import UserError
from contrastive_jax.workdir.checkpoint import Checkpoints
from contrastive_jax.workdir.kept import Best


@dataclasses.dataclass(frozen=True)
class BestBy:
    """How the best checkpoint is chosen; of equal ones it is the earliest. All processes choose what the first chooses.

    Attributes:
      metric: the name of a metric, such as 'eval/knn_top1'.
      mode: 'max' or 'min': which values are better.
    """

    metric: str
    mode: str

    def begin(self, checkpoints: Checkpoints, lines: Iterable[Mapping[str, Any]]) -> None:
        """Finds the best checkpoint of a run that goes on, after a kill, a rollback or a change of the metric.

        Args:
          checkpoints: the checkpoints of the run.
          lines: the metrics of the run so far.
        """
        known, steps = checkpoints.kept.best, checkpoints.steps
        if known and ((known.metric, known.mode) != (self.metric, self.mode) or known.step not in steps):
            known = None
        checkpoints.kept.set_best(self._best(known, lines, steps))

    def update(self, checkpoints: Checkpoints, step: int, metrics: Mapping[str, float]) -> str:
        """Records the checkpoint of `step` if it is the best; returns the line that says so, or ''."""
        known = checkpoints.kept.best
        # The untrained encoder has no checkpoint, and a step within a streak of dropped ones may have none.
        if step not in checkpoints.steps:
            return ''
        best = self._best(known, [{'step': step, **metrics}], [step])
        if best is None or best == known:
            return ''
        checkpoints.wait()  # on disk before the one that was the best until now may be deleted
        checkpoints.kept.set_best(best)
        return f'step {step}: the best {best.metric} so far, {best.value:.4g}; its checkpoint is kept'

    def lacking(self, step: int, metrics: Mapping[str, float], at_start: bool) -> str:
        """The line about an evaluation that did not measure the metric; '' if it did.

        Args:
          step: the step of the evaluation.
          metrics: what was measured.
          at_start: whether every evaluator measures the untrained encoder.

        Raises:
          UserError: at step 0, if every evaluator was due: the metric would never be measured.
        """
        if self.metric in metrics:
            return ''
        measured = ', '.join(name for name in metrics if name.startswith('eval/'))
        line = f'keep_best {self.metric!r} was not measured at step {step}'
        if step == 0 and at_start:
            remedy = f'choose from {measured}' if measured else "set it to '': nothing is measured on this data"
            raise UserError(line, field='keep_best', remedy=remedy)
        return f'{line} (measured: {measured or "nothing"})'

    def _best(self, best: Best | None, lines: Iterable[Mapping[str, Any]], steps: Collection[int]) -> Best | None:
        """The best one of `best` and of the steps that `lines` measures and that are among `steps`."""
        for line in lines:
            value = line.get(self.metric, math.nan)
            if line['step'] in steps and math.isfinite(value) and (best is None or best.beaten_by(value)):
                best = Best(self.metric, self.mode, line['step'], float(value))
        found = json.loads(text_of_first(json.dumps(None if best is None else dataclasses.asdict(best))))
        return None if found is None else Best(**found)


def kept_lines(checkpoints: Checkpoints) -> list[str]:
    """Lines about the checkpoints that a run keeps beside the newest."""
    kept, lines = checkpoints.kept, list[str]()
    if steps := kept.steps_among(checkpoints.steps):
        lines.append(f'kept checkpoints, for --step: {", ".join(map(str, steps))}')
    if best := kept.best:
        lines.append(f'best checkpoint, for --step=best: step {best.step}, {best.metric} {best.value:.4g}')
    return lines
