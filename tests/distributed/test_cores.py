"""The cores that a process may use, from files as Linux writes them."""

import os

import pytest

from contrastive_jax.distributed.cores import usable_cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(16)), raising=False)


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ('files', 'cores'),
    [
        ({}, 16),  # no cgroups, as on macOS
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': 'max 100000\n'}, 16),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '400000 100000\n'}, 4),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '250000 100000\n'}, 3),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '20000 100000\n'}, 1),
        ({'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '6400000 100000\n'}, 16),
        # The limit of a group above counts.
        (
            {
                'proc/self/cgroup': '0::/job/task\n',
                'sys/fs/cgroup/job/cpu.max': '200000 100000\n',
                'sys/fs/cgroup/job/task/cpu.max': 'max 100000\n',
            },
            2,
        ),
        # Version 1; in a container the path is one of the host, and the limit is at the top.
        (
            {
                'proc/self/cgroup': '5:memory:/docker/a1\n4:cpu,cpuacct:/docker/a1\n0::/docker/a1\n',
                'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '300000\n',
                'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
            },
            3,
        ),
        (
            {
                'proc/self/cgroup': '1:cpu:/\n',
                'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
                'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
            },
            16,
        ),
    ],
)
def test_limits(files, cores, tmp_path):
    write(tmp_path, files)
    assert usable_cores(tmp_path) == cores


def test_affinity(monkeypatch, tmp_path):
    write(tmp_path, {'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '400000 100000\n'})
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {3, 7})
    assert usable_cores(tmp_path) == 2


def test_a_system_without_affinity(monkeypatch, tmp_path):
    monkeypatch.delattr(os, 'sched_getaffinity')
    monkeypatch.setattr(os, 'cpu_count', lambda: 5)
    assert usable_cores(tmp_path) == 5
