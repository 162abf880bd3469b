"""A process that cannot go on ends, with stacks and a last line; what may take long does not end it."""

import subprocess
import sys
import textwrap
import time

import pytest

from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.watchdog import Watchdog

HEAD = """
import math, os, signal, time
from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.messages import Messages
from contrastive_jax.distributed.watchdog import Watchdog, mark, stage
"""


def run(code: str, before: str = '') -> tuple[int, list[str], float]:
    """Exit code, lines of stderr and seconds of a script, which imports nothing that is slow."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-c', HEAD + before + textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.splitlines(), time.monotonic() - began


def test_a_process_that_waits_for_its_data() -> None:
    code, lines, seconds = run("""
        def images():
            yield 1
            time.sleep(50)
        Watchdog(patience_s=0.2)
        for _ in watchdog.reading(images(), 'the batch of step', 7):
            pass
    """)
    assert code == 142 and seconds < 20
    assert lines[-1].startswith(
        'contrastive_jax: error: reading the batch of step 8 has taken more than 0 s -> look at'
    )
    assert any('in images' in line for line in lines), 'the stack says where it waits'


def test_a_process_that_never_gets_to_the_end_of_its_data() -> None:
    code, lines, _ = run('Watchdog(patience_s=0.1); watchdog.opening(lambda: time.sleep(50))()')
    assert code == 142
    assert 'error: reading the data for the first time has taken more than 1 s -> look at' in lines[-1]


def test_a_signal_that_the_main_thread_does_not_hear() -> None:
    """Alone, without a limit for its data; a second Ctrl-C ends at once, also where no bytecode runs."""
    code, lines, _ = run("""
        signal.signal(signal.SIGTERM, lambda *_: None)
        with Watchdog(patience_s=math.inf, stop_s=0.2).hearing([signal.SIGTERM]), stage('reading', 'data'):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(50)
    """)
    assert code == 142
    assert 'SIGTERM came, but this process does not get to save: reading has taken more than 0 s' in lines[-1]
    code, _, _ = run("""
        signal.signal(signal.SIGINT, lambda *_: None)
        with Watchdog(patience_s=math.inf).hearing([signal.SIGINT]):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            end = time.monotonic() + 50
            while time.monotonic() < end:
                time.sleep(1)
    """)
    assert code == 130


STORE = """
class Store(dict):
    def key_value_set(self, key, value, allow_overwrite=False):
        self[key] = value
    def key_value_dir_get(self, prefix):
        return list(self.items())
store = Store()
dog = Watchdog(patience_s=0.2, later_s=1.5)
dog.messages = Messages(store, 1, dog.doing, 30.0)
"""


IMPATIENT = STORE.replace('30.0', '3.0')


def test_what_may_take_long() -> None:
    """What is not limited, a first step, and what has taken as long before; another process that is busy.

    The patience is 0.2 s, and 1.5 s more for a step.
    """
    code, lines, _ = run(
        """
        with stage('saving'):
            time.sleep(1.3)
        watchdog.OPENING = 60
        for _ in range(2):  # another training of the same process compiles again
            with stage('training', 'step'):
                mark('training step 1')
                time.sleep(3)
                assert store['contrastive_jax/1'].startswith('["training step 1", true, '), 'others wait for it'
        with stage('training', 'step'):
            mark('training step 1')
            mark('training step 2')
            time.sleep(0.5)
            mark('training step 3')
            time.sleep(2.2)
        watchdog._longest.clear()
        store['contrastive_jax/0'] = '["saving step 3", true, 7]'
        with stage('training', 'step'):
            mark('training step 3')
            mark('training step 4')
            time.sleep(3.5)
        assert store['contrastive_jax/1'].startswith('["training step 4", false, '), store
    """,
        STORE,
    )
    assert (code, lines) == (0, [])


def test_a_step_that_no_process_finishes() -> None:
    code, lines, _ = run(
        """
        store['contrastive_jax/0'] = '["training step 5", false, 7]'
        with stage('training', 'step'):
            mark('training step 3')
            mark('training step 4')
            time.sleep(50)
    """,
        STORE,
    )
    assert code == 142
    assert 'error: training step 4 has not ended for ' in lines[-1]
    assert ' s (process 0: training step 5) -> look at' in lines[-1]


def test_a_first_step_that_never_ends() -> None:
    """Nor does that of another process, which waits for this one."""
    code, lines, seconds = run(
        """
        store['contrastive_jax/0'] = '["training step 1", true, 7]'
        with stage('training', 'step'):
            mark('training step 1')
            time.sleep(50)
    """,
        STORE,
    )
    assert code == 142 and 2.7 < seconds < 20
    assert 'error: training step 1 has not ended for ' in lines[-1]


def test_what_another_process_has_said() -> None:
    code, lines, _ = run(
        """
        store['contrastive_jax/ended'] = '[0, 3, "no data -> repair it"]'
        time.sleep(50)
    """,
        STORE,
    )
    assert (code, lines) == (3, ['contrastive_jax: error: process 0: no data -> repair it'])


@pytest.mark.parametrize('beat', [7, -1])
def test_a_process_without_a_sign_of_life(beat: int) -> None:
    """Unless it has said that it is done."""
    code, lines, _ = run(
        f"""
        store['contrastive_jax/0'] = '["training step 5", true, {beat}]'
        time.sleep(50 if {beat} > 0 else 5)
    """,
        IMPATIENT,
    )
    assert code == (142 if beat > 0 else 0)
    assert beat < 0 or 'process 0 has given no sign of life for' in lines[-1]


def test_a_coordinator_that_does_not_answer() -> None:
    """As when it is stopped: this process cannot even tell it why it ends."""
    code, lines, seconds = run(
        """
        store.key_value_set = store.key_value_dir_get = lambda *_, **__: time.sleep(50)
        time.sleep(50)
    """,
        IMPATIENT,
    )
    assert code == 142 and seconds < 30 and 'process 0, which all others talk to, has not answered for' in lines[-1]


def test_a_stop(recwarn: pytest.WarningsRecorder) -> None:
    dog = Watchdog(patience_s=0.1)
    dog.stop()
    dog.stop()
    with watchdog.stage('reading', 'data'):
        time.sleep(0.3)
    assert len(recwarn) == 0
