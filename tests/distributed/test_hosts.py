"""Hosts are connected from arguments or the environment; errors are one line."""

import jax
import pytest

from contrastive_jax.distributed.hosts import connect
from contrastive_jax.errors import UserError


@pytest.mark.parametrize('given', [('host:1', None, None), (None, 2, None), (None, None, 0), ('host:1', 2, None)])
def test_all_three_arguments_are_needed(
    monkeypatch: pytest.MonkeyPatch, given: tuple[str | None, int | None, int | None]
) -> None:
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *_: pytest.fail('it would have connected'))
    with pytest.raises(UserError, match='-> give all of coordinator_address, num_processes, process_id, or none'):
        connect(*given)


def test_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'JAX_COORDINATOR_ADDRESS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *given: calls.append(given))
    connect(None, None, None)
    assert calls == [], 'one host needs no connection'
    connect('host:1', 2, 0)
    assert calls == [('host:1', 2, 0)]
    monkeypatch.setenv('SLURM_NTASKS', '2')
    connect(None, None, None)
    assert calls[1:] == [(None, None, None)]

    def fail(*given: object) -> None:
        raise RuntimeError('DEADLINE_EXCEEDED:\n  timed out')

    monkeypatch.setattr(jax.distributed, 'initialize', fail)
    with pytest.raises(UserError) as error:
        connect('host:1', 2, 1)
    assert str(error.value).startswith('cannot connect the hosts (coordinator host:1): DEADLINE_EXCEEDED: timed out ->')
