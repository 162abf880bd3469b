"""The processor cores that this process may use, which can be fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path('/')) -> int:
    """The number of cores for threads: what the scheduler allows (taskset, Slurm), and what a container's limit leaves.

    `os.cpu_count` counts all cores of the machine. On a large machine with a small share of it, as many threads would
    only wait for each other.

    Args:
      root: the folder that holds `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    limits = [math.ceil(limit) for limit in _limits(root)]
    return max(min([allowed, *limits]), 1)


def _limits(root: Path) -> Iterator[float]:
    """The limits of the process's control group and of those above it, in cores: Linux's cgroups, both versions."""
    groups = root / 'sys/fs/cgroup'
    try:
        lines = (root / 'proc/self/cgroup').read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, kinds, path = line.split(':', 2)
        if kinds and 'cpu' not in kinds.split(','):
            continue
        top = groups / kinds if kinds else groups
        group = top / path.lstrip('/')
        for folder in (group, *group.parents):
            if (limit := _limit(folder)) is not None:
                yield limit
            if folder == top:
                break


def _limit(folder: Path) -> float | None:
    """The limit of one control group, in cores; None: it has none."""
    try:
        if (file := folder / 'cpu.max').exists():
            quota, period = file.read_text().split()
        else:
            quota = (folder / 'cpu.cfs_quota_us').read_text().strip()
            period = (folder / 'cpu.cfs_period_us').read_text().strip()
        limit = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or 'max'
        return None
    return limit if limit > 0 else None  # version 1 has -1 for no limit
