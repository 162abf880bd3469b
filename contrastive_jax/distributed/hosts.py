"""Connecting the processes of a run, leaving when one of them fails, and the cache of compiled programs.

jax waits for a coordinator for minutes without a word, and ends the process by a signal where something is wrong. So
what can be wrong is looked at before.
"""

import contextlib
import importlib.util
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jax._src import distributed

from contrastive_jax.distributed import watchdog
from contrastive_jax.distributed.messages import LOOK
from contrastive_jax.errors import Interrupted, LostError, UserError, exit_code_of, print_error

CONNECT_S = 60  # seconds in which all processes have to come together
HEARTBEAT_S = 45  # seconds of silence after which jax ends a process by a signal
PCI = Path('/sys/bus/pci/devices')

LONGEST = 200  # characters of an error of jax in a message


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout_s: float = CONNECT_S,
    patience_s: float = watchdog.PATIENCE_S,
) -> None:
    """Connects the processes of a run. Call it before any other use of jax.

    Without arguments, the settings are read from the environment (Cloud TPU, Slurm, Open MPI); if there are none, this
    is the only process, and nothing is done. If not all processes come in time, a line says so and the process ends.

    Args:
      coordinator: address host:port of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      timeout_s: seconds to wait for process 0, and then for all others.
      patience_s: seconds that a process may wait for its data, see `watchdog`.

    Raises:
      UserError: only some of the three are given, they have no legal values, the port is in use, or the coordinator
        cannot be reached.
    """
    given = {'coordinator_address': coordinator, 'num_processes': num_processes, 'process_id': process_id}
    missing = [name for name, value in given.items() if value is None]
    managed = int(os.environ.get('SLURM_NTASKS', 1)) > 1 or int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    # libtpu may be here without a TPU: it compiles for described ones.
    on_tpu = importlib.util.find_spec('libtpu') is not None and has_tpu()
    on_tpu &= os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
    if len(missing) == 3 and not managed and not on_tpu and 'JAX_COORDINATOR_ADDRESS' not in os.environ:
        return
    if 0 < len(missing) < 3:
        raise UserError(f'{" and ".join(missing)} missing -> give all of {", ".join(given)}, or none of them')
    if coordinator is not None and num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise UserError(
                f'process_id {process_id} does not fit num_processes {num_processes}',
                remedy=f'number the processes from 0 to {num_processes - 1}'
                if num_processes > 0
                else 'give at least 1',
            )
        host, port = parse_address(coordinator)
        if process_id == 0:
            check_port(host, port)
        else:
            wait_for_coordinator(host, port, timeout_s)
    try:
        with _ending_after(timeout_s, coordinator or 'the address from the environment'):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=int(timeout_s) + 60,  # the line of `_ending_after` comes first
                heartbeat_timeout_seconds=HEARTBEAT_S,
            )
    except Exception as error:
        where = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', 'address from the environment')
        raise UserError(
            f'cannot connect the hosts (coordinator {where}): {" ".join(str(error).split())} -> check that process 0 '
            'runs and that all hosts can reach its address'
        ) from error
    watchdog.begin(distributed.global_state.client, distributed.global_state.process_id, patience_s)


def has_tpu(devices: Path = PCI) -> bool:
    """Whether this host has a TPU: a PCI device of Google that is neither a disk (class 01) nor a network card (02)."""

    def is_tpu(device: Path) -> bool:
        vendor, kind = ((device / name).read_text(encoding='ascii').strip() for name in ('vendor', 'class'))
        return vendor == '0x1ae0' and not kind.startswith(('0x01', '0x02'))

    return any(is_tpu(file.parent) for file in devices.glob('*/vendor'))


def parse_address(address: str) -> tuple[str, int]:
    """'host:1234' or '[::1]:1234' as host and port.

    Raises:
      UserError: it has another form.
    """
    host, colon, port = address.rpartition(':')
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16 or (':' in host) != (host[0] == '['):
        raise UserError(
            f'coordinator_address {address!r} is no address',
            remedy='give host and port of process 0, such as 10.0.0.1:1234 or [::1]:1234',
        )
    return host.strip('[]'), int(port)


def check_port(host: str, port: int) -> None:
    """Makes sure that process 0 can listen on its port.

    Raises:
      UserError: the host is unknown, or another process listens there.
    """
    _resolve(host, port)
    try:
        family, address = (socket.AF_INET6, '::') if socket.has_dualstack_ipv6() else (socket.AF_INET, '')
        with socket.create_server((address, port), family=family, dualstack_ipv6=family == socket.AF_INET6):
            pass
    except OSError as error:
        raise UserError(
            f'process 0 cannot listen on port {port} of coordinator_address: {os.strerror(error.errno or 0)}',
            remedy='choose another port, or end the process that uses it',
        ) from error


def wait_for_coordinator(host: str, port: int, timeout_s: float) -> None:
    """Waits until process 0 listens.

    Raises:
      UserError: the host is unknown, or nobody listens after `timeout_s` seconds.
    """
    began, said = time.monotonic(), False
    while True:
        try:
            _resolve(host, port)
            socket.create_connection((host, port), timeout=min(5.0, timeout_s)).close()
            return
        except (OSError, UserError) as error:  # a name may appear together with its host
            if time.monotonic() - began > timeout_s:
                if isinstance(error, UserError):
                    raise
                raise UserError(
                    f'process 0 cannot be reached at coordinator_address {host}:{port} for {timeout_s:.0f} s: '
                    f'{error.strerror or error}',
                    remedy='start it, and check that this host can reach its address; --connect_timeout waits longer',
                ) from error
        if not said and time.monotonic() - began > timeout_s / 6:  # hosts never start at the same moment
            print(f'waiting for process 0 at {host}:{port}, at most {timeout_s:.0f} s', file=sys.stderr, flush=True)
            said = True
        time.sleep(0.2)


def end_alone(run: Callable[[], int | None], verbose: bool | Callable[[], bool] = False) -> int:
    """Runs a command as `errors.exit_code_of` does. If it fails while others are connected, all of them end.

    This process ends at once: otherwise it would wait for minutes until the others, which wait for it, end too. They
    end with its exit code and its line.

    Args:
      run, verbose: as for `exit_code_of`.

    Returns:
      The exit code, if this is the only process or all of them end by themselves.
    """
    try:
        code = exit_code_of(lambda: _announcing(run), verbose)
    except Exception:
        if watchdog.of_all() is None:
            raise
        traceback.print_exc()
        code = 1
    if (dog := watchdog.of_all()) is not None:
        if code not in (0, Interrupted.exit_code):
            dog.leave(code)
        if dog.messages is not None:
            dog.messages.stop()
    return code


def _announcing(run: Callable[[], int | None]) -> int | None:
    """Runs a command; what it raises is told to the other processes, or is what one of them has told."""
    try:
        try:
            return run()
        finally:
            if (dog := watchdog.of_all()) is not None:
                dog.stop()  # from here on this thread speaks
    except Exception as error:
        if dog is None or dog.messages is None or isinstance(error, Interrupted):
            raise
        if lost := lost_process(error):
            raise (dog.messages.cause() or lost) from error
        dog.messages.announce(error)
        raise


def lost_process(error: Exception) -> LostError | None:
    """What an error of jax says if it is because another process has ended; None if it is another error."""
    text = ' '.join(str(error).split())
    signs = (
        'Gloo',
        'Connection closed by peer',
        'Connection reset by peer',
        'Socket closed',
        'UNAVAILABLE',
        'heartbeat',
    )
    if not isinstance(error, jax.errors.JaxRuntimeError) or not any(sign in text for sign in signs):
        return None
    return LostError(f'another process of this run has ended or cannot be reached ({text[:LONGEST]})', remedy=LOOK)


def enable_compilation_cache() -> None:
    """Stores compiled programs in ~/.cache/contrastive_jax/xla, so that a second start need not compile them again.

    JAX's own environment variables take precedence, JAX_COMPILATION_CACHE_DIR and
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS. By its own default JAX stores only programs whose compilation took a
    second or more, and compiles the many small ones of a start again.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(Path('~/.cache/contrastive_jax/xla').expanduser()))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _resolve(host: str, port: int) -> None:
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise UserError(
            f'the host {host!r} of coordinator_address is unknown: {error.strerror or error}',
            remedy='give the name or the address of the host of process 0',
        ) from error


@contextlib.contextmanager
def _ending_after(timeout_s: float, where: str) -> Iterator[None]:
    """Ends the process with a line if what is inside takes longer: jax itself would end it by a signal."""
    error = LostError(
        f'after {timeout_s:.0f} s not all processes have come to the coordinator ({where})',
        remedy='start all of them; --connect_timeout waits longer',
    )

    def end() -> None:
        print_error(str(error))
        os._exit(error.exit_code)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
