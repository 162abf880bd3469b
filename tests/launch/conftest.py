"""The fake pod of the tests of launch/tpu.sh."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.pod import Pod


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path)
    yield pod
    pod.kill()


@pytest.fixture
def ready(pod: Pod) -> Pod:
    pod.tpu('setup')
    pod.calls()
    return pod
