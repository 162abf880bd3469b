"""Two real processes, one of which fails or stalls: both end soon, and the last lines say why.

They train nothing: what is about training is in tests/training/test_processes.py.
"""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.complete_runs import TIMEOUT_S, free_address

WORK = """
import sys, time
from contrastive_jax.distributed import hosts, watchdog
from contrastive_jax.errors import DataError

number, fault = int(sys.argv[2]), sys.argv[3]

def batches():
    for i in range(3):
        yield i
    if fault == 'stalls' and number == 1:
        time.sleep(1000)

def run():
    hosts.connect(sys.argv[1], 2, number, 200, 25)
    for i in watchdog.reading(batches(), 'the batch of step'):
        print('at', i, flush=True)
    if fault == 'throws' and number == 1:
        raise DataError('no images', remedy='bring them')
    if fault != 'ends well':
        time.sleep(1000)  # as in a collective that waits for the other one

sys.exit(hosts.end_alone(run))
"""


@pytest.fixture
def pair(children) -> Callable[[str], list[subprocess.Popen[str]]]:
    """Two processes, the second of which has a fault."""

    def start(fault: str) -> list[subprocess.Popen[str]]:
        address = free_address()
        for i in range(2):
            command = [sys.executable, '-c', WORK, address, str(i), fault]
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return children

    return start


def ended(child: subprocess.Popen[str]) -> tuple[int, list[str]]:
    err = child.communicate(timeout=TIMEOUT_S)[1]
    return child.returncode, err.splitlines()


def test_both_end_well(pair):
    assert [ended(child) for child in pair('ends well')] == [(0, []), (0, [])]


def test_an_error_of_one_ends_both_with_its_code_and_line(pair):
    (code0, lines0), (code1, lines1) = map(ended, pair('throws'))
    assert (code0, code1) == (3, 3)
    assert lines1 == ['contrastive_jax: error: no images -> bring them']
    assert lines0 == ['contrastive_jax: error: process 1: no images -> bring them']


def test_one_waits_for_its_data(pair):
    (code0, lines0), (code1, lines1) = map(ended, pair('stalls'))
    assert (code0, code1) == (142, 142)
    assert lines1[-1].startswith('contrastive_jax: error: reading the batch of step 4 has taken more than 25 s -> look')
    assert lines0 == [lines1[-1].replace('error: ', 'error: process 1: ')]
    assert any('in batches' in line for line in lines1), 'its stacks'
