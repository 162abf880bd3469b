"""Hosts are connected from arguments or the environment; errors are one line."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from contrastive_jax.distributed import hosts
from contrastive_jax.distributed.hosts import connect
from contrastive_jax.errors import UserError


@pytest.mark.parametrize('given', [('host:1', None, None), (None, 2, None), (None, None, 0), ('host:1', 2, None)])
def test_all_three_arguments_are_needed(
    monkeypatch: pytest.MonkeyPatch, given: tuple[str | None, int | None, int | None]
) -> None:
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *_, **__: pytest.fail('it would have connected'))
    with pytest.raises(UserError, match='-> give all of coordinator_address, num_processes, process_id, or none'):
        connect(*given)


def test_a_tpu_is_known_by_its_hardware(tmp_path: Path) -> None:
    """A VM of Google has a network card of the same vendor, and libtpu may be installed to plan runs."""
    for name, vendor, kind in (('0', '0x1ae0', '0x020000'), ('1', '0x1ae0', '0x010802'), ('2', '0x8086', '0x120000')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'vendor').write_text(f'{vendor}\n')
        (tmp_path / name / 'class').write_text(f'{kind}\n')
    assert not hosts.has_tpu(tmp_path) and not hosts.has_tpu(tmp_path / 'none')
    (tmp_path / '2' / 'vendor').write_text('0x1ae0\n')
    assert hosts.has_tpu(tmp_path)


def test_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'JAX_COORDINATOR_ADDRESS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *given, **_: calls.append(given))
    begun: list[object] = []
    monkeypatch.setattr(hosts.watchdog, 'begin', lambda *given: begun.append(given[1:]))
    connect(None, None, None)
    assert calls == [], 'one host needs no connection'
    address = f'localhost:{free_port()}'
    connect(address, 2, 0)
    assert calls == [(address, 2, 0)]
    monkeypatch.setenv('SLURM_NTASKS', '2')
    connect(None, None, None)
    assert calls[1:] == [(None, None, None)] and begun == [(0, 300.0)] * 2

    def fail(*given: object, **_: object) -> None:
        raise RuntimeError('DEADLINE_EXCEEDED:\n  timed out')

    monkeypatch.setattr(jax.distributed, 'initialize', fail)
    with pytest.raises(UserError) as error:
        connect(address, 2, 0)
    assert str(error.value).startswith(f'cannot connect the hosts (coordinator {address}): DEADLINE_EXCEEDED: timed')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return int(s.getsockname()[1])


ADDRESSES = ['nohost', 'nohost:', ':1234', 'host:port', 'host:0', 'host:65536', 'host:-1', '::1:1234', 'host:1:2', '']


@pytest.mark.parametrize('address', ADDRESSES)
def test_what_is_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *_, **__: pytest.fail('it would have connected'))
    with pytest.raises(UserError, match=r'coordinator_address .* is no address -> give host and port'):
        connect(address, 2, 0)


def test_addresses() -> None:
    assert hosts.parse_address('10.0.0.1:80') == ('10.0.0.1', 80)
    assert hosts.parse_address('[::1]:65535') == ('::1', 65535)


@pytest.mark.parametrize('given', [(2, 2), (2, -1), (0, 0), (-1, 0)])
def test_process_ids_out_of_range(given: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r'process_id .* does not fit num_processes'):
        connect('localhost:1', *given)


def test_a_port_in_use() -> None:
    with socket.socket() as used:
        used.bind(('', 0))
        used.listen()
        port = used.getsockname()[1]
        with pytest.raises(
            UserError, match=f'cannot listen on port {port} .*: Address already in use -> choose'
        ) as error:
            connect(f'localhost:{port}', 2, 0)
    assert error.value.exit_code == 2
    hosts.check_port('localhost', port)


@pytest.mark.parametrize(('address', 'reason'), [('localhost', 'cannot be reached at'), ('no.such.invalid', 'unknown')])
def test_a_coordinator_that_is_not_there(address: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=reason):
        connect(f'{address}:{free_port()}', 2, 1, 0.3)
    assert time.monotonic() - began < 30
    assert 'waiting for process 0 at' in capsys.readouterr().err


def test_processes_that_never_come() -> None:
    """jax alone says nothing for minutes and then ends by SIGABRT."""
    code = f'from contrastive_jax.distributed.hosts import connect; connect("localhost:{free_port()}", 2, 0, 1.0)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 142
    assert done.stderr.splitlines()[-1].startswith('contrastive_jax: error: after 1 s not all processes have come')
