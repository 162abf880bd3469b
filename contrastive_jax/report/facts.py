"""What was run, in the rows of a table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.report.run import Run

SHORT = 12  # characters of a commit


def facts(run: Run) -> list[tuple[str, str]]:
    """Rows of a name and what there is to say."""
    c, known = run.config, run.known
    rows = [(name, fields(c[name])) for name in ('method', 'encoder', 'projector', 'predictor') if c.get(name)]
    where = dict.fromkeys(str(c.data[field]) for field in ('source', 'name', 'path') if c.data[field])
    sizes = [f'{known[key]:,} {what}' for key, what in _SIZES if key in known]
    rows.append(('data', ', '.join([' '.join(where), f'{c.data.image_size} × {c.data.image_size} pixels', *sizes])))
    total = [f'{known["total_steps"]:,} steps'] if 'total_steps' in known else []
    length = total if c.steps else [f'{c.epochs:g} epochs', *total]
    rows.append(('length', ', '.join([*(length or [f'{c.steps:,} steps']), f'batch {c.batch_size:,}'])))
    o = c.optimizer
    rate, decay = f'learning rate {o.learning_rate:g}', f'weight decay {o.weight_decay:g}'
    rows.append(('optimizer', f'{o.name}: {rate}, {decay}, schedule {c.schedule.name}'))
    rows.append(('numbers', f'{c.dtype}, seed {c.seed}'))
    rows += _sessions(run.sessions)
    rates = [x for x in run.series('images_per_second')[1] if math.isfinite(x)]
    if rates:
        rows.append(('images/s', f'{np.median(rates):,.0f} (median)'))
    rows.append(('workdir', str(run.workdir)))
    return rows


_SIZES = (('train_images', 'training images'), ('held_out_images', 'held-out images'))


def fields(section: ConfigDict) -> str:
    """A section of a config in a line: its name, what is true, and the values of the rest."""
    values = {name: x for name, x in section.items() if x is not None and x is not False and name != 'name'}
    told = ', '.join(name if x is True else f'{name} {x}' for name, x in values.items())
    return ': '.join(part for part in (section.get('name', ''), told) if part)


def duration(seconds: float) -> str:
    """'3 h 02 min', '4 min 10 s', '7 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {rest:02} s' if minutes else f'{rest} s'


def _sessions(sessions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Devices, time and commits of a run that was started once or more."""
    if not sessions:
        yield 'devices', 'not recorded: the run is older than about.json'
        return
    machines = dict.fromkeys(
        f'{s["devices"]} × {s["device_kind"]}' + (f' on {s["hosts"]} hosts' if s['hosts'] > 1 else '') for s in sessions
    )
    versions = dict.fromkeys(f'jax {s["jax"]}' for s in sessions)
    yield 'devices', f'{", then ".join(machines)} ({sessions[-1]["parallel"]}); {", then ".join(versions)}'
    often = f' in {len(sessions)} sessions' if len(sessions) > 1 else ''
    yield 'time', f'{duration(sum(s["seconds"] for s in sessions))}{often}, begun {sessions[0]["started"]}'
    commits = dict.fromkeys(_shortened(s['commit']) for s in sessions if s['commit'])
    if commits:
        yield 'commit', ', then '.join(commits) + (' (+: with changes)' if any('+' in x for x in commits) else '')


def _shortened(commit: str) -> str:
    return commit[:SHORT] + ('+' if commit.endswith('+') else '')
