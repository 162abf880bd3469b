"""launch/tpu.sh up and watch against the fake pod: what is started again, and what is not."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.launch.pod import WORKERS, Pod, is_training, wait_for


class Watch:
    """A watch in the background."""

    def __init__(self, pod: Pod, *words: str) -> None:
        self.pod = pod
        self.log = pod.folder / 'watch.log'
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(
                [pod.tree / 'launch' / 'tpu.sh', 'watch', '--interval=1', *words],
                env=pod.environment, cwd=pod.here, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def end(self) -> str:
        """Waits for the end; what was printed, with the exit code at the end."""
        code = self.process.wait(timeout=60)
        return self.log.read_text() + f'exit code {code}'

    def listening(self, times: int) -> None:
        """Waits until the runs of all workers have started so often, and heed signals."""
        for worker in range(WORKERS):
            self.pod.trained(worker, times)
            wait_for((self.pod.home(worker) / 'listening').exists)
            (self.pod.home(worker) / 'listening').unlink()


@pytest.fixture
def watches(pod: Pod) -> Iterator[list[Watch]]:
    watches: list[Watch] = []
    yield watches
    for watch in watches:
        if watch.process.poll() is None:
            os.killpg(watch.process.pid, signal.SIGKILL)


def verbs(pod: Pod) -> list[str]:
    """The calls that change something, as verb or `queued-resources VERB`."""
    changes = {'create', 'delete', 'scp'}
    return [' '.join(call[: 1 + (call[0] == 'queued-resources')]) for call in pod.calls() if changes & set(call[:2])]


def test_up_creates_waits_and_runs(pod: Pod) -> None:
    pod.set(state='')
    pod.tpu('up', '--queued', '--interval=0', '--', '--config=c', "it's $(id)")
    assert verbs(pod) == ['queued-resources create', 'scp']
    for worker in range(WORKERS):
        (note,) = pod.trained(worker)
        assert [bytes.fromhex(word).decode() for word in note['argv']] == ['--config=c', "it's $(id)"]


@pytest.mark.parametrize('queued', [False, True])
def test_watch_goes_on_after_a_preemption_until_the_run_is_finished(
    pod: Pod, watches: list[Watch], queued: bool
) -> None:
    pod.set(state='')
    pod.training('wait wait 0')
    watches.append(watch := Watch(pod, *(['--queued'] if queued else []), '--spot', '--', 'a;b "c"'))
    watch.listening(1)
    pod.set(**pod.get() | ({'request': 'SUSPENDED', 'state': ''} if queued else {'state': 'PREEMPTED'}))
    pod.kill()
    watch.listening(2)
    for worker in range(WORKERS):  # maintenance: the run saves, and the TPU stays
        os.kill(pod.pid(worker), signal.SIGTERM)
    printed = watch.end()
    assert printed.endswith('exit code 0') and 'the run is finished' in printed
    assert 'ended with exit code 42: starting it again' in printed
    kind = 'queued-resources ' if queued else ''
    assert verbs(pod) == [f'{kind}create', 'scp', f'{kind}delete', f'{kind}create', 'scp']
    for worker in range(WORKERS):
        assert [note['argv'] for note in pod.trained(worker)] == [[b'a;b "c"'.hex()]] * 3


@pytest.mark.parametrize('codes, trained, ends', [('3', 1, 3), ('1 142 0', 3, 0), ('1 1 1 1', 3, 1)])
def test_watch_starts_again_what_is_worth_it(
    pod: Pod, watches: list[Watch], codes: str, trained: int, ends: int
) -> None:
    pod.training(codes)
    watches.append(watch := Watch(pod, '--retries=2', '--', 'x'))
    assert watch.end().endswith(f'exit code {ends}')
    assert all(len(pod.trained(worker)) == trained for worker in range(WORKERS))


def test_watch_ends_with_a_stop(pod: Pod, watches: list[Watch]) -> None:
    pod.training('wait')
    watches.append(watch := Watch(pod, '--', 'x'))
    watch.listening(1)
    pod.tpu('stop')
    assert 'was stopped by launch/tpu.sh stop' in watch.end()
    assert len(pod.trained(0)) == 1


def test_watch_ends_when_somebody_deletes_the_tpu(pod: Pod, watches: list[Watch]) -> None:
    pod.training('wait')
    watches.append(watch := Watch(pod, '--', 'x'))
    watch.listening(1)
    pod.set(state='')
    assert 'was deleted, and not by this watch' in watch.end()
    assert verbs(pod) == ['scp']


def test_watch_deletes_no_tpu_that_somebody_else_made(pod: Pod, watches: list[Watch]) -> None:
    pod.set(state='PREEMPTED', label='')
    watches.append(watch := Watch(pod, '--', 'x'))
    assert 'was not made by launch/tpu.sh' in watch.end()
    assert verbs(pod) == []


def test_watch_stops_the_rest_of_a_run_that_has_ended_on_one_worker(pod: Pod, watches: list[Watch]) -> None:
    pod.training('wait 0')
    watches.append(watch := Watch(pod, '--', 'x'))
    watch.listening(1)
    os.kill(pod.pid(1), signal.SIGKILL)
    printed = watch.end()
    assert 'ended on some workers only' in printed and 'ended with exit code 137: starting it again' in printed
    assert printed.endswith('exit code 0')
    assert all(len(pod.trained(worker)) == 2 for worker in range(WORKERS))
    assert not any(is_training(pod.pid(worker)) for worker in range(WORKERS))
