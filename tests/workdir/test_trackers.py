"""Trackers: each step once, whatever happens; with a recording service, and with the packages that are installed."""

import importlib.util
import json
import math
import os
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from contrastive_jax.config.check import check
from contrastive_jax.errors import UserError
from contrastive_jax.workdir import run_record
from contrastive_jax.workdir.metrics import MetricWriter, read
from contrastive_jax.workdir.trackers import FILE, NAMES, Memory, Sender, open_trackers
from tests import train_steps


class Recording:
    """A service that keeps what it gets, of all its runs."""

    def __init__(self):
        self.runs: dict[str, list] = {}
        self.openings = []
        self.broken = ''  # 'open', 'write': what raises from now on
        self.closed = 0

    def __call__(self, name):
        return self.open

    def open(self, given):
        if self.broken == 'open':
            raise ConnectionError('no route\nto host')
        self.openings.append(given)
        self.id = given.goes_on or f'theirs-{given.id}'
        self.where = 'in memory'
        self.runs.setdefault(self.id, [])
        return self

    def write(self, step, metrics):
        if self.broken == 'write':
            raise ConnectionError('no route\nto host')
        self.runs[self.id].append((step, dict(metrics)))

    def picture(self, step, name, png):
        self.write(step, {name: png})

    def close(self):
        self.closed += 1


@pytest.fixture
def said() -> list[str]:
    return []


def session(service, workdir, steps, said, resume_step=0, broken=''):
    """A session of a run that logs at each step, and also evaluates and draws at even ones."""
    opened = open_trackers(['wandb'], workdir, project='p', config={'a': 1}, say=said.append, make=service)
    service.broken = broken
    writer = MetricWriter(workdir, resume_step, trackers=opened)
    for step in steps:
        writer.write(step, {'loss': 1 / step})
        if step % 2 == 0:
            writer.write(step, {'eval/knn_top1': 0.5, 'eval/x': math.inf})
            writer.write_image(step, 'views', workdir / 'p.png')
    writer.close()


@pytest.fixture
def workdir(tmp_path) -> Path:
    (tmp_path / 'run').mkdir()
    Image.new('RGB', (7, 5), 'red').save(tmp_path / 'run' / 'p.png')
    return tmp_path / 'run'


def expected(workdir, steps):
    png = (workdir / 'p.png').read_bytes()
    found = []
    for step in steps:
        even = [(step, {'eval/knn_top1': 0.5, 'eval/x': math.inf}), (step, {'views': png})] if step % 2 == 0 else []
        found += [(step, {'loss': 1 / step}), *even]
    return found


def test_a_resume_continues_the_run_and_gives_no_step_twice(workdir, said):
    service = Recording()
    session(service, workdir, (1, 2, 3, 4), said)
    session(service, workdir, (3, 4, 5), said, resume_step=2)  # killed after step 4, the last checkpoint is of step 2
    session(service, workdir, (6,), said, resume_step=5)
    (run,) = service.runs.values()
    assert run == expected(workdir, range(1, 7))
    assert [given.goes_on for given in service.openings] == ['', service.id, service.id]
    assert service.openings[0].name == 'run' and service.closed == 3
    assert said == ['tracker wandb: in memory'] * 3
    assert [line['step'] for line in read(workdir)] == [1, 2, 2, 3, 4, 4, 5, 6, 6]


def test_a_kill_within_a_step(workdir, said):
    """The metrics of a step were given, and its evaluation was not."""
    service = Recording()
    opened = open_trackers(['wandb'], workdir, project='p', config={}, say=said.append, make=service)
    writer = MetricWriter(workdir, trackers=opened)
    writer.write(2, {'loss': 0.5})
    writer.close()
    session(service, workdir, (1, 2, 3), said)
    assert service.runs[service.id] == expected(workdir, (2, 3))


def test_a_rollback_begins_a_new_run(workdir, said):
    service = Recording()
    session(service, workdir, (1, 2, 3), said)
    run_record.write(workdir, {'id': 'x', 'rollbacks': [{'to_step': 1}]})
    session(service, workdir, (2,), said, resume_step=1)
    first, second = service.runs.values()
    assert (first, second) == (expected(workdir, (1, 2, 3)), expected(workdir, (2,)))
    assert service.openings[1].name == 'run, rolled back 1x' and service.openings[0].id != service.openings[1].id


def test_a_service_that_fails_costs_one_warning(workdir, said):
    service = Recording()
    session(service, workdir, (1, 2, 3), said, broken='write')
    assert len(said) == 2 and said[1].startswith('warning: the tracker wandb has failed (ConnectionError: no route to')
    assert [line['step'] for line in read(workdir)] == [1, 2, 2, 3] and service.closed == 1


def test_a_service_that_hangs_does_not_hold_the_run(workdir, said):
    class Hanging(Recording):
        def write(self, step, metrics):
            awake.wait(30)

    awake = threading.Event()
    sender = Sender('wandb', Hanging(), Memory(workdir, 'wandb', 0), said.append, seconds=0.05)
    sender.write(1, {'loss': 1.0})
    sender.close()
    awake.set()
    assert said == ['warning: the tracker wandb takes longer than 0 s: its rest is not sent']


def test_a_service_that_cannot_be_opened(workdir, said):
    """A new run is refused, since that is a mistake of the user; a run that goes on trains without it."""
    service = Recording()
    service.broken = 'open'
    with pytest.raises(UserError, match=r'wandb cannot be opened \(ConnectionError: no route to host\) -> log in'):
        session(service, workdir, (1,), said)
    service.broken = ''
    session(service, workdir, (1,), said)
    service.broken = 'open'
    session(service, workdir, (2,), said, resume_step=1, broken='open')
    assert said[-1].startswith('warning: the tracker wandb cannot be opened (ConnectionError: ')
    assert service.runs[service.id] == expected(workdir, (1,))


@pytest.mark.parametrize('content', ['', '[]', '{"wandb": 3}', '{"wandb": {"id": "x"}}'])
def test_a_file_of_another_form_begins_a_new_run(content, workdir, said):
    (workdir / FILE).write_text(content)
    service = Recording()
    session(service, workdir, (1,), said)
    assert service.openings[0].goes_on == '' and json.loads((workdir / FILE).read_text())['wandb']['id'] == service.id


def test_mistakes_get_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    (tmp_path / 'wandb').mkdir()  # what W&B writes is no package
    config = train_steps.load('mocov2:tiny')
    config.trackers = ('wandb', 'mlfow')
    assert [str(line) for line in check(config, 8)] == [
        "trackers 'mlfow' is unknown; did you mean 'mlflow'? -> choose from wandb, mlflow, trackio",
        "trackers 'wandb' needs the package wandb, which is not installed -> pip install "
        "'contrastive_jax[wandb]', or pip install wandb",
    ]


# ================================ the packages ================================


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name, value in {
        'WANDB_MODE': 'offline',
        'MLFLOW_TRACKING_URI': f'sqlite:///{tmp_path}/mlflow.db',
        'TRACKIO_DIR': str(tmp_path / 'trackio'),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def two_sessions(name, workdir, said):
    for steps, resume_step in (((1, 2, 3, 4), 0), ((3, 4, 5), 2)):
        opened = open_trackers([name], workdir, project='p', config={'a': {'b': 1}}, say=said.append)
        writer = MetricWriter(workdir, resume_step, trackers=opened)
        for step in steps:
            writer.write(step, {'loss': 1 / step})
            if step == 4:
                writer.write(step, {'eval/knn_top1': 0.5})
                writer.write_image(step, 'views', workdir / 'p.png')
        writer.close()
    assert len(said) == 2 and all(line.startswith(f'tracker {name}: ') for line in said), said


@pytest.mark.usefixtures('offline')
def test_mlflow(workdir, said):
    tracking = pytest.importorskip('mlflow.tracking')
    two_sessions('mlflow', workdir, said)
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name('p').experiment_id])
    history = client.get_metric_history(run.info.run_id, 'loss')
    assert sorted((x.step, x.value) for x in history) == [(step, 1 / step) for step in (1, 2, 3, 4, 5)]
    assert run.data.metrics['eval/knn_top1'] == 0.5 and run.data.params == {'a.b': '1'}
    assert run.info.status == 'FINISHED' and run.info.run_name == 'run'
    assert any('views' in file.path for file in client.list_artifacts(run.info.run_id, 'images'))


def leveldb_log(data: bytes) -> list[bytes]:
    """The records of a file in LevelDB's log format, which W&B writes: a header of 7 bytes, then blocks of 32 KiB."""
    records, at, block = [], 7, 2**15
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little for a header: zeros
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], 'little'), data[at + 6]
        part = data[at + 7 : at + 7 + length]
        records.append(part) if kind in (1, 2) else records.append(records.pop() + part)
        at += 7 + length
    return records


@pytest.mark.usefixtures('offline')
def test_wandb(workdir, said):
    pytest.importorskip('wandb')
    from wandb.proto import wandb_internal_pb2

    two_sessions('wandb', workdir, said)
    files = sorted((workdir / 'wandb').glob('offline-run-*/run-*.wandb'))
    (id,) = {file.stem for file in files}
    assert json.loads((workdir / FILE).read_text())['wandb']['id'] == id.removeprefix('run-')
    rows = []
    for file in files:
        for data in leveldb_log(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField('history'):
                rows.append({'/'.join(x.nested_key) or x.key: json.loads(x.value_json) for x in record.history.item})
    assert [(row['_step'], row['loss']) for row in rows] == [(step, 1 / step) for step in (1, 2, 3, 4, 5)]
    assert rows[3]['eval/knn_top1'] == 0.5 and rows[3]['views/_type'] == 'image-file'


@pytest.mark.usefixtures('offline')
@pytest.mark.skipif(importlib.util.find_spec('trackio') is None, reason='trackio is not installed')
def test_trackio(workdir, said, tmp_path):
    """In another process: trackio reads TRACKIO_DIR once, when it is imported."""
    if os.environ.get('TRACKIO_DIR') != str(tmp_path / 'trackio'):
        pytest.skip('trackio was imported before')
    two_sessions('trackio', workdir, said)
    with sqlite3.connect(tmp_path / 'trackio' / 'p.db') as database:
        rows = [(step, json.loads(text)) for step, text in database.execute('select step, metrics from metrics')]
    assert sorted((step, row['loss']) for step, row in rows if 'loss' in row) == [(s, 1 / s) for s in (1, 2, 3, 4, 5)]
    assert [row['views']['_type'] for _, row in rows if 'views' in row] == ['trackio.image']


def test_every_service_is_known():
    from contrastive_jax.workdir import services, trackers

    assert set(services.SERVICES) == set(NAMES) == set(trackers.REMEDIES)
