"""Tables as plain text: all experiments, and the result of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.reproduce.references import Experiment


def experiments_table(experiments: Mapping[str, Experiment]) -> str:
    """A table of experiments, with one line for each reference accuracy."""
    lines = [('name', 'trains', 'evaluation', 'reference', 'tolerance', 'cost', 'source of the reference')]
    for name, experiment in experiments.items():
        for reference in experiment.references:
            numbers = one_decimal(reference.accuracy), one_decimal(reference.tolerance)
            lines.append((name, experiment.config, reference.protocol, *numbers, experiment.cost, reference.source))
            name = ''
    return align(lines)


def result_table(result: Mapping[str, Any]) -> str:
    """A table of the accuracies of a result, the sources of the references, and whether the experiment passed.

    Args:
      result: as `run_experiment.run_experiment` returns it.
    """
    lines = [('', 'reference', 'tolerance', 'ours', '')]
    for x in result['numbers']:
        numbers = one_decimal(x['reference']), one_decimal(x['tolerance']), one_decimal(x['ours'])
        lines.append((f'{x["protocol"]} {x["metric"]}', *numbers, 'met' if x['met'] else 'MISSED'))
    if (gain := result['gain'])['required']:
        numbers = one_decimal(gain['required']), '', one_decimal(gain['ours'])
        lines.append(('gain over the untrained encoder', *numbers, 'met' if gain['met'] else 'MISSED'))
    sources = '; '.join(dict.fromkeys(x['source'] for x in result['numbers']))
    return f'{align(lines)}\nreference: {sources}\n{result["anchor"]}: {"pass" if result["passed"] else "FAIL"}'


def one_decimal(value: float | None) -> str:
    """A number with one decimal; 'none' for None."""
    return 'none' if value is None else f'{value:.1f}'


def align(lines: Sequence[Sequence[str]]) -> str:
    """Pads the cells of a table so that its columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, line, widths)).rstrip() for line in lines)
