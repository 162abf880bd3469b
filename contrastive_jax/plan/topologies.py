"""Described devices: what `--topology` names, as devices of jax that can be compiled for and not computed on."""

import contextlib
import importlib.util
import os
import re
from typing import Any

import jax
import numpy as np

from contrastive_jax.distributed.devices import AXIS, Devices
from contrastive_jax.errors import UserError
from contrastive_jax.plan.chips import CHIPS, Chip, gpu_target
from contrastive_jax.rules import did_you_mean

INSTALL = "pip install 'contrastive_jax[plan]'"
EXAMPLES = 'v5e:4x4, h100:8 or cpu:8'
PLUGINS = ('jax_cuda13_plugin', 'jax_cuda12_plugin')


def described(topology: str) -> tuple[Chip, Devices]:
    """The chip and the devices of a topology, on one axis.

    Args:
      topology: 'v5e:4x4' (a slice of TPUs), 'h100:8' (a number of cards, eight on a host), or 'cpu:8' (virtual devices
        of this machine). The names are the keys of `chips.CHIPS`.

    Raises:
      UserError: the topology is unknown or not possible, or the compiler for it is not installed.
    """
    name, _, size = topology.partition(':')
    if name not in CHIPS:
        meant = did_you_mean(name, CHIPS)
        raise UserError(f'topology {topology!r} has an unknown chip{meant}', remedy=f'choose from {", ".join(CHIPS)}')
    chip = CHIPS[name]
    shape = r'\d+(x\d+){1,2}' if chip.platform == 'tpu' else r'\d+'
    if not re.fullmatch(shape, size) or not all(map(int, size.split('x'))):
        what = 'the chips along each axis' if chip.platform == 'tpu' else 'the number of devices'
        raise UserError(f'topology {topology!r} does not say {what}', remedy=f'e.g. {EXAMPLES}')
    if chip.platform == 'tpu':
        found = _tpus(topology)
    elif chip.platform == 'cuda':
        found = _gpus(chip, int(size))
    else:
        found = _cpus(int(size))
    mesh = jax.make_mesh((len(found),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=found)
    return chip, Devices(mesh, 'jit')


def _tpus(topology: str) -> list[Any]:
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(f'topology {topology!r} needs libtpu', remedy=INSTALL)
    # Without the first three libtpu asks the metadata server of a TPU VM, for minutes. Without the last it refuses to
    # load while another process has loaded it, which matters for chips that are here and not for described ones.
    known = {
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
        'TPU_SKIP_MDS_QUERY': '1',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }
    for name, value in known.items():
        os.environ.setdefault(name, value)
    # On a TPU VM jax shows the two cores of a v4 chip as one device; libtpu describes two unless it is told so.
    cores = {'chip_config_name': 'megacore'} if topology.startswith('v4:') else {}
    return _topology(topology, platform='tpu', topology_name=topology, **cores)


def _gpus(chip: Chip, count: int) -> list[Any]:
    if not any(importlib.util.find_spec(name) for name in PLUGINS):
        raise UserError(f'topology {chip.name}:{count} needs {PLUGINS[0]}', remedy=INSTALL)
    local = min(count, chip.per_host)
    if count % local:
        raise UserError(f'{count} devices do not fill hosts of {local}', remedy=f'use {count // local * local}')
    shape = f'1x{count // local}x{local}'
    return _topology(f'{chip.name}:{count}', platform='cuda', topology=shape, target_config=gpu_target(chip))


def _cpus(count: int) -> list[Any]:
    with contextlib.suppress(RuntimeError):  # jax has already found its devices, in a program of the user's own
        jax.config.update('jax_num_cpu_devices', count)
    if len(jax.devices('cpu')) < count:
        given = len(jax.devices('cpu'))
        raise UserError(f'jax has {given} CPU devices in this process, not {count}', remedy=f'use cpu:{given}')
    return jax.devices('cpu')[:count]


def _topology(given: str, **arguments: Any) -> list[Any]:
    """The devices of a description.

    Raises:
      UserError: jax or the compiler refuses it.
    """
    from jax.experimental import topologies

    # jax stores programs for described devices, and fails to load them again with a warning.
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        return list(topologies.get_topology_desc(**arguments).devices)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = ' '.join(str(error).split())[:300]
        raise UserError(f'topology {given!r} cannot be described: {reason}', remedy=f'e.g. {EXAMPLES}') from error


def host_count(chip: Chip, devices: Devices) -> int:
    """The number of hosts that a topology needs."""
    return -(-int(np.size(devices.mesh.devices)) // chip.per_host)
