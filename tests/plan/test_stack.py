"""A command that compiles for TPUs begins anew, once, with the largest stack."""

import os
import resource
import sys

import pytest

from contrastive_jax.plan.stack import restart_with_larger_stack

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ('argv', 'soft', 'hard', 'restarts'),
    [
        (['--config=cpc', '--topology=v6e:4x4'], 8 << 20, UNLIMITED, True),
        (['--config=cpc', '--topology', 'v5e:2x4'], 8 << 20, 64 << 20, True),
        (['--config=cpc', '--topology=v6e:4x4'], UNLIMITED, UNLIMITED, False),  # it has begun anew
        (['--config=cpc', '--topology=h100:8'], 8 << 20, UNLIMITED, False),
        (['--config=cpc'], 8 << 20, UNLIMITED, False),
    ],
)
def test_restart(argv: list[str], soft: int, hard: int, restarts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, begun = [], []
    monkeypatch.setattr(sys, 'orig_argv', ['python', '-m', 'contrastive_jax', 'plan', *argv])
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: (soft, hard))
    monkeypatch.setattr(resource, 'setrlimit', lambda kind, new: limits.append((kind, new)))
    monkeypatch.setattr(os, 'execv', lambda *command: begun.append(command))
    restart_with_larger_stack(argv)
    assert limits == [(resource.RLIMIT_STACK, (hard, hard))] * restarts
    assert begun == [(sys.executable, sys.orig_argv)] * restarts

    monkeypatch.setitem(sys.modules, 'resource', None)  # as on Windows
    begun.clear()
    restart_with_larger_stack(argv)
    assert begun == []
    monkeypatch.setitem(sys.modules, 'resource', resource)

    monkeypatch.setattr(sys, 'orig_argv', ['python', '-m', 'pytest'])  # a program that calls the command
    begun.clear()
    restart_with_larger_stack(argv)
    assert begun == []
