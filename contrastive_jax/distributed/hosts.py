"""Connecting the processes of a run, and the cache of compiled programs."""

import importlib.util
import os
from pathlib import Path

import jax

from contrastive_jax.errors import UserError


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a run. Call it before any other use of jax.

    Without arguments, the settings are read from the environment (Cloud TPU, Slurm, Open MPI); if there are none, this
    is the only process, and nothing is done.

    Args:
      coordinator: address host:port of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      UserError: only some of the three are given, or the coordinator cannot be reached.
    """
    given = {'coordinator_address': coordinator, 'num_processes': num_processes, 'process_id': process_id}
    missing = [name for name, value in given.items() if value is None]
    managed = int(os.environ.get('SLURM_NTASKS', 1)) > 1 or int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    on_tpu = importlib.util.find_spec('libtpu') is not None and os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
    if len(missing) == 3 and not managed and not on_tpu and 'JAX_COORDINATOR_ADDRESS' not in os.environ:
        return
    if 0 < len(missing) < 3:
        raise UserError(f'{" and ".join(missing)} missing -> give all of {", ".join(given)}, or none of them')
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except Exception as error:
        where = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', 'address from the environment')
        raise UserError(
            f'cannot connect the hosts (coordinator {where}): {" ".join(str(error).split())} -> check that process 0 '
            'runs and that all hosts can reach its address'
        ) from error


def enable_compilation_cache() -> None:
    """Stores compiled programs in ~/.cache/contrastive_jax/xla, so that a second start need not compile them again.

    JAX's own environment variables take precedence, JAX_COMPILATION_CACHE_DIR and
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS. Without the second one, JAX stores only programs whose compilation took
    a second or more; the many small ones of a start take a third of its time together.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(Path('~/.cache/contrastive_jax/xla').expanduser()))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
