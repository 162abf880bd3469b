"""Several processes: how they are connected, before any other use of jax."""

import importlib.util
import os
from pathlib import Path

import jax

from contrastive_jax.errors import UserError


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a run. It must come before any other use of jax.

    Args:
      coordinator: host:port of process 0; None: taken from the environment (Cloud TPU, Slurm, Open MPI), if any.
      num_processes: number of processes; None with `coordinator` None.
      process_id: number of this process, from 0; None with `coordinator` None.

    Raises:
      UserError: some of the three given and some not, or the coordinator cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    managed = int(os.environ.get('SLURM_NTASKS', 1)) > 1 or int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    on_tpu = importlib.util.find_spec('libtpu') is not None and os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
    if all(x is None for x in given) and not managed and not on_tpu and 'JAX_COORDINATOR_ADDRESS' not in os.environ:
        return
    if any(x is None for x in given) and any(x is not None for x in given):
        raise UserError('give all of --coordinator_address, --num_processes and --process_id, or none of them')
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except Exception as error:
        where = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', 'found from the environment')
        raise UserError(f'cannot connect the hosts (coordinator {where}): {" ".join(str(error).split())}') from error


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start compiles nothing; a user's own cache folder is kept."""
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(Path('~/.cache/contrastive_jax/xla').expanduser()))
