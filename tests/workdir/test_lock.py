"""One process writes to a workdir: started twice, left by a crash, stopped and taken over, deleted."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from contrastive_jax.errors import BusyError, UserError
from contrastive_jax.workdir import lock
from contrastive_jax.workdir.lock import FILE, Lock
from contrastive_jax.workdir.metrics import MetricWriter

HOLD = """
    import sys, time
    from pathlib import Path
    from contrastive_jax.errors import UserError
    from contrastive_jax.workdir import lock
    workdir = Path(sys.argv[1])
    with lock.Lock(workdir, beat_s=0.05, stale_s=0.5):
        print('held', flush=True)
        try:
            for _ in range(1200):
                lock.check(workdir)
                (workdir / 'written').write_text(sys.argv[2])
                print('written', flush=True)
                time.sleep(0.05)  # long beside a write: a test that stops the process stops it here
        except UserError as error:
            print(error, flush=True)
            sys.exit(error.exit_code)
"""


def hold(workdir: Path, children: list[subprocess.Popen[str]], text: str = 'first') -> subprocess.Popen[str]:
    """A process that holds the lock and writes all the time; it does not import jax."""
    command = [sys.executable, '-c', textwrap.dedent(HOLD), str(workdir), text]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    children.append(child)
    assert child.stdout is not None and child.stdout.readline() == 'held\n'
    assert child.stdout.readline() == 'written\n'
    return child


def test_a_second_start_names_the_first(tmp_path, children):
    first = hold(tmp_path, children)
    with pytest.raises(BusyError, match=f'in use by process {first.pid} on .*, started .* -> .*kill {first.pid}') as e:
        Lock(tmp_path).__enter__()
    assert e.value.exit_code == 6 and os.uname().nodename in str(e.value)
    first.kill()
    first.wait()
    with Lock(tmp_path) as taken:
        assert f'taken over from process {first.pid}' in taken.took_over and 'which has ended' in taken.took_over
        assert json.loads((tmp_path / FILE).read_text())['pid'] == os.getpid()
    assert [file.name for file in tmp_path.iterdir()] == ['written'], 'an end leaves no lock'


RACE = """
    import os, sys, time
    from pathlib import Path
    from contrastive_jax.errors import BusyError
    from contrastive_jax.workdir import lock
    for i in range(20):
        workdir = Path(sys.argv[1]) / str(i)
        workdir.mkdir()
        if i % 2:  # left by a process that is gone
            child = os.fork()
            if not child:
                lock.Lock(workdir).__enter__()
                os._exit(0)
            os.waitpid(child, 0)
        begin, (read, write) = time.monotonic() + 0.02, os.pipe()
        children = []
        for _ in range(4):
            child = os.fork()
            if not child:
                while time.monotonic() < begin:
                    pass
                try:
                    lock.Lock(workdir).__enter__()
                    os.write(write, b'x')
                    time.sleep(30)  # as a run that trains
                except BusyError:
                    os.write(write, b'.')
                os._exit(0)
            children.append(child)
        found = b''
        while len(found) < 4:
            found += os.read(read, 4)
        print(found.count(b'x'), flush=True)
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
"""


def test_of_simultaneous_starts_exactly_one_holds(tmp_path):
    """Twenty times, every second one with a lock that a process has left."""
    command = [sys.executable, '-c', textwrap.dedent(RACE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ('1\n' * 20, '')


def edit(workdir: Path, age: float = 0.0, **changes: object) -> None:
    file = workdir / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    os.utime(file, (time.time() - age, time.time() - age))


OTHERS = [
    ({'start': 12345}, 0, 'belongs to another process now'),
    ({'pid': 2**22 + 1}, 0, 'which has ended'),
    ({'host': 'elsewhere'}, 50, ''),
    ({'host': 'elsewhere'}, 70, 'no sign of life for 70 s'),
    ({'boot': 'before'}, 50, ''),  # a host of the same name, or this one before it was restarted
    ({'boot': 'before'}, 70, 'no sign of life'),
    ({'namespace': 'pid:[1]'}, 50, ''),  # a container: its process ids are not ours
    ({}, 70, ''),  # alive, if slow
]


@pytest.mark.parametrize(('changes', 'age', 'reason'), OTHERS)
def test_who_counts_as_gone(changes, age, reason, tmp_path):
    (tmp_path / FILE).write_text(json.dumps({**lock._this_process(), 'token': 'x'}))
    edit(tmp_path, age, **changes)
    if reason:
        with Lock(tmp_path) as taken:
            assert reason in taken.took_over
    else:
        with pytest.raises(BusyError, match='is in use by'):
            Lock(tmp_path).__enter__()
    assert (tmp_path / FILE).exists() == (not reason)


def test_after_the_clock_was_set_back_the_process_tells_by_the_next_sign_of_life(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({**lock._this_process(), 'token': 'x'}))
    edit(tmp_path, -1e6, host='elsewhere')
    alive = threading.Timer(0.3, lambda: os.utime(tmp_path / FILE))
    alive.start()
    with pytest.raises(BusyError, match='is in use by'):
        Lock(tmp_path, beat_s=0.5).__enter__()
    edit(tmp_path, -1e6)
    with Lock(tmp_path, beat_s=0.1) as taken:
        assert taken.took_over.endswith('no sign of life since the clock was set back')


@pytest.mark.parametrize('content', ['', '[]', '{"pid": 1'])
def test_a_torn_lock_of_another_host(content, tmp_path):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(BusyError, match='a process that its lock does not name'):
        Lock(tmp_path).__enter__()
    os.utime(tmp_path / FILE, (1, 1))
    with Lock(tmp_path) as taken:
        assert 'no sign of life' in taken.took_over


def test_a_stopped_process_that_comes_back_writes_nothing(tmp_path, children):
    first = hold(tmp_path, children)
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(BusyError, match='is in use'):
        Lock(tmp_path, stale_s=60).__enter__()
    while time.time() - (tmp_path / FILE).stat().st_mtime < 0.6:
        time.sleep(0.05)
    with Lock(tmp_path, stale_s=0.5) as second:
        assert ': it is stopped' in second.took_over
        (tmp_path / 'written').write_text('second')
        first.send_signal(signal.SIGCONT)
        assert first.wait(20) == 6
        assert 'was taken over by process' in first.stdout.read()
        assert (tmp_path / 'written').read_text() == 'second'
        assert json.loads((tmp_path / FILE).read_text())['pid'] == os.getpid(), 'it has not removed the lock either'


def test_signs_of_life(tmp_path):
    with Lock(tmp_path, beat_s=0.02):
        os.utime(tmp_path / FILE, (1, 1))
        end = time.monotonic() + 10
        while (tmp_path / FILE).stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert time.time() - (tmp_path / FILE).stat().st_mtime < 10


def test_a_deleted_workdir_stays_deleted(tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    writer = MetricWriter(workdir)
    with Lock(workdir, beat_s=0.02):
        writer.write(1, {'loss': 1.0})
        (workdir / FILE).unlink()
        with pytest.raises(UserError, match=r'has lost its lock\.json'):
            writer.write(2, {'loss': 1.0})
        for file in workdir.iterdir():
            file.unlink()
        workdir.rmdir()
        with pytest.raises(UserError, match='was deleted while this run was using it -> nothing more is written'):
            writer.write(2, {'loss': 1.0})
        time.sleep(0.05)
    writer.close()
    assert not workdir.exists()


def test_without_a_lock_nothing_is_checked(tmp_path):
    lock.check(tmp_path)


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(lock.os, 'link', refuse)
    with Lock(tmp_path):
        with pytest.raises(BusyError):
            Lock(tmp_path).__enter__()
        assert json.loads((tmp_path / FILE).read_text())['pid'] == os.getpid()
    assert list(tmp_path.iterdir()) == []
