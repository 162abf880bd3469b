"""Compiles the train step of a run for described devices, from shapes alone, and reads what it costs."""

import dataclasses
import re
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, SHARDED, Devices
from contrastive_jax.errors import UserError
from contrastive_jax.plan import flops, hlo, traffic
from contrastive_jax.training.feed import resident_program, streamed_program
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state

Images = jax.ShapeDtypeStruct


# How much of how much a program needs, in the sentences in which libtpu says it.
_USED = re.compile(
    r'(?:[Uu]sed|required for HLO temporaries) \(?([\d.]+\w?)\)? (?:of|exceeds available HBM) \(?([\d.]+\w?)'
)


class TooLarge(UserError):
    """The compiler itself finds that a program does not fit into the memory of a device."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device, as the compiler counts them.

    Attributes:
      arguments: state and batch; on a TPU with the padding of tiles.
      temporaries: what lives only during a step.
      peak: the most at one time.
    """

    arguments: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled step of a run.

    Attributes:
      parameters: the number of trained parameters.
      flops: FLOP of the matrix products and convolutions of a step, on all devices, counted in the traced step.
      memory: what one device needs, in bytes.
      moved: what a device reads from its memory and writes to it in a step.
      collectives: what the devices exchange in a step.
      xla_s: the compiler's own estimate of the seconds of a step (`optimal_seconds`); None if it gives none.
      compile_s: seconds that the compilation took.
    """

    parameters: int
    flops: float
    memory: Memory
    moved: traffic.Memory
    collectives: tuple[traffic.Collective, ...]
    xla_s: float | None
    compile_s: float


def compile_step(
    run: Run, devices: Devices, images: Images | None = None, stride: int = 1, options: dict[str, Any] | None = None
) -> Compiled:
    """Compiles the step of a run; nothing runs, and the devices need not be here.

    Args:
      run: what is constant in the run.
      devices: the devices, see `topologies.described`.
      images: [n, H, W, C], the shape of images that stay on the devices; None: the host sends uint8 crops.
      stride: steps of one call, if the images stay on the devices.
      options: XLA's compiler options.

    Raises:
      TooLarge: the compiler refuses the program for its memory.
      UserError: the compiler fails.
    """
    call, arguments = program(run, devices, images, stride)
    traced = call.trace(*arguments)
    work = flops.count(traced.jaxpr, of_branches=min, loops_once=True) * devices.count
    began = time.monotonic()
    try:
        compiled = _compile(traced.lower(), options)
    except jax.errors.JaxRuntimeError as error:
        text = ' '.join(str(error).split())
        if 'RESOURCE_EXHAUSTED' in text:
            used = _USED.search(text)
            what = f'{used.group(1)} of {used.group(2)}' if used else text[:300]
            raise TooLarge(f'the compiler finds no place for the step: it needs {what}') from error
        raise UserError(f'the step cannot be compiled: {text[:300]}') from error
    seconds = time.monotonic() - began
    read = hlo.Program(compiled.as_text() or '')
    state = arguments[0]
    return Compiled(
        sum(x.size for x in jax.tree.leaves(state.params)),
        float(work),
        _memory(compiled.memory_analysis()),
        traffic.memory(read),
        tuple(traffic.collectives(read, devices.count)),
        _optimal_seconds(compiled),
        seconds,
    )


def use_least_effort() -> None:
    """Lets XLA optimize as little as it can from now on: a TPU's program then takes a tenth of the time to compile.

    Its memory is an estimate: 0.88 of that with XLA's usual effort for MoCo v2 with ResNet-18 on eight v5e, 1.32 for
    a chain of convolutions (findings/tpu_compile_effort.sh).
    """
    jax.config.update('jax_exec_time_optimization_effort', -1.0)
    jax.config.update('jax_memory_fitting_effort', -1.0)


def _compile(lowered: Any, options: dict[str, Any] | None) -> Any:
    """Compiles a lowered program, a second time without Triton if XLA has no tiles for one of its products.

    Without a card XLA cannot measure tiles, and those that it assumes do not fit every product of a ViT. On a card such
    a product runs in cuBLAS, too.
    """
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if 'output tile sizes' not in str(error):
            raise
    return lowered.compile({**(options or {}), 'xla_gpu_enable_triton_gemm': False})


def program(
    run: Run, devices: Devices, images: Images | None = None, stride: int = 1
) -> tuple[Any, tuple[PyTree, ...]]:
    """The program that a feed runs, and the shapes of its arguments with their shardings.

    Args:
      run, devices, images, stride: as in `compile_step`.
    """
    state = jax.eval_shape(lambda: devices.padded(init_state(run), run.state_specs))
    B, put = run.batch_size, partial(_placed, devices)
    values = put({'seed': jax.ShapeDtypeStruct((), np.int32)}, REPLICATED)
    if images is None:
        sizes = run.policy.view_sizes(run.image_size)
        ids = jax.ShapeDtypeStruct((B,), np.int32)
        batch = {
            'crops': tuple(jax.ShapeDtypeStruct((B, s, s, run.policy.channels), np.uint8) for s in sizes),
            'index': ids,
            'label': ids,
        }
        return streamed_program(run, devices), (put(state, run.state_specs), put(batch, SHARDED), values)
    data = {'images': images, 'labels': jax.ShapeDtypeStruct(images.shape[:1], np.int32)}
    orders, steps = jax.ShapeDtypeStruct((stride, B), np.int32), jax.ShapeDtypeStruct((), np.int32)
    rest = (put(x, REPLICATED) for x in (data, orders, steps))
    return resident_program(run, devices), (put(state, run.state_specs), *rest, values)


def _placed(devices: Devices, tree: PyTree, specs: PyTree) -> PyTree:
    """Shapes with the shardings that they have on the devices."""
    placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(placed, tree, devices.shardings(tree, specs))


def _memory(found: Any) -> Memory:
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    summed = arguments + temporaries + results + found.generated_code_size_in_bytes
    return Memory(arguments, temporaries, max(summed, getattr(found, 'peak_memory_in_bytes', 0)))


def _optimal_seconds(compiled: Any) -> float | None:
    """XLA's own estimate; for some programs it is negative, and some backends have none."""
    try:
        cost = compiled.cost_analysis()
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return None
    return (cost or {}).get('optimal_seconds')
