"""What a run can use of the machine: the kind and number of its devices, their memory, and the processor's cores."""

import dataclasses

import jax

from contrastive_jax.distributed.cores import usable_cores


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a run can use.

    Attributes:
      device: 'cpu', 'gpu' or 'tpu'.
      devices: the number of devices that the run uses, on all hosts.
      memory_gib: memory of one device, in GiB; 0: not known.
      cores: processor cores of this host that the process may use.
      hosts: the number of hosts.
    """

    device: str
    devices: int = 1
    memory_gib: float = 0
    cores: int = 1
    hosts: int = 1

    def __str__(self) -> str:
        if self.device == 'cpu':
            return f'a CPU with {self.cores} cores' if self.cores > 1 else 'a CPU with one core'
        memory = f' of {self.memory_gib:.0f} GiB' if self.memory_gib else ''
        return f'{self.devices} {self.device.upper()}{"s" if self.devices > 1 else ""}{memory}'


def this_machine(devices: int) -> Machine:
    """The machine that this process runs on.

    Args:
      devices: the number of devices that the run uses.
    """
    device = jax.local_devices()[0]
    try:
        limit = (device.memory_stats() or {}).get('bytes_limit', 0)
    except jax.errors.JaxRuntimeError:  # a backend without statistics
        limit = 0
    kind = 'gpu' if device.platform in ('cuda', 'rocm', 'gpu') else device.platform
    return Machine(kind, devices, limit / 2**30 if kind != 'cpu' else 0, usable_cores(), jax.process_count())
