"""The rows of the table that describes a run: method, network, data, training, devices, time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.report.record import RunRecord

COMMIT_LENGTH = 12  # characters of a commit that are shown


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Rows of a name and a value, both text."""
    c, about = record.config, record.about
    rows = [(name, section_text(c[name])) for name in ('method', 'encoder', 'projector', 'predictor') if c.get(name)]
    source = dict.fromkeys(str(c.data[field]) for field in ('source', 'name', 'path') if c.data[field])
    sizes = [f'{about[key]:,} {images}' for key, images in _SIZES if key in about]
    rows.append(('data', ', '.join([' '.join(source), f'{c.data.image_size} × {c.data.image_size} pixels', *sizes])))
    total = [f'{about["total_steps"]:,} steps'] if 'total_steps' in about else []
    length = total if c.steps else [f'{c.epochs:g} epochs', *total]
    rows.append(('length', ', '.join([*(length or [f'{c.steps:,} steps']), f'batch size {c.batch_size:,}'])))
    o = c.optimizer
    rate, decay = f'learning rate {o.learning_rate:g}', f'weight decay {o.weight_decay:g}'
    rows.append(('optimizer', f'{o.name}: {rate}, {decay}, schedule {c.schedule.name}'))
    rows += [('precision', str(c.dtype)), ('seed', str(c.seed))]
    rows += _sessions(record.sessions)
    rates = [x for x in record.values('images_per_second') if math.isfinite(x)]
    if rates:
        rows.append(('images/s', f'{np.median(rates):,.0f} (median)'))
    rows.append(('workdir', str(record.workdir)))
    return rows


_SIZES = (('train_images', 'training images'), ('held_out_images', 'held-out images'))


def section_text(section: ConfigDict) -> str:
    """A section of a config on one line: its name, fields that are True by name, and other fields with their values."""
    values = {name: x for name, x in section.items() if x is not None and x is not False and name != 'name'}
    fields = ', '.join(name if x is True else f'{name} {x}' for name, x in values.items())
    return ': '.join(part for part in (section.get('name', ''), fields) if part)


def duration(seconds: float) -> str:
    """'3 h 02 min', '4 min 10 s', '7 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {rest:02} s' if minutes else f'{rest} s'


def _sessions(sessions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Devices, time and commits of all sessions of a run."""
    if not sessions:
        yield 'devices', 'not recorded: the run was started before about.json existed'
        return
    machines = dict.fromkeys(
        f'{s["devices"]} × {s["device_kind"]}' + (f' on {s["hosts"]} hosts' if s['hosts'] > 1 else '') for s in sessions
    )
    versions = dict.fromkeys(f'jax {s["jax"]}' for s in sessions)
    yield 'devices', f'{", then ".join(machines)} ({sessions[-1]["parallel"]}); {", then ".join(versions)}'
    count = f' in {len(sessions)} sessions' if len(sessions) > 1 else ''
    yield 'time', f'{duration(sum(s["seconds"] for s in sessions))}{count}, started {sessions[0]["started"]}'
    commits = dict.fromkeys(_short_commit(s['commit']) for s in sessions if s['commit'])
    if commits:
        changed = ' (+: with uncommitted changes)' if any('+' in x for x in commits) else ''
        yield 'commit', ', then '.join(commits) + changed


def _short_commit(commit: str) -> str:
    return commit[:COMMIT_LENGTH] + ('+' if commit.endswith('+') else '')
