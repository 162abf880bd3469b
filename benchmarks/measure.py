"""Compiles programs, times them in interleaved windows, and reads their peak memory."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.programs import Program
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import AXIS, REPLICATED, find_devices


class Spread(NamedTuple):
    """The median, the minimum and the maximum of the windows."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> 'Spread':
        return cls(float(np.median(values)), float(np.min(values)), float(np.max(values)))


class Memory(NamedTuple):
    """Peak memory on the device in bytes, and the source of the number: 'allocator' or 'compiler'."""

    bytes: int
    source: str


class Timed:
    """A compiled program and its measured times.

    On accelerators a window is one call: a loop of many steps on the device, so that no dispatch is timed. On CPU a
    call is one step, because XLA runs convolutions inside a loop on a single thread there.

    Args:
      program: the program, which is placed on the first device. Its state is copied, and donated from call to call.
      steps: the number of steps in a window.
    """

    def __init__(self, program: Program, steps: int):
        devices = find_devices('jit', count=1)
        self.seconds: list[float] = []  # per step, one entry for each window
        self._steps, self._steps_per_call = steps, 1 if jax.default_backend() == 'cpu' else steps
        others = _allocator('bytes_in_use')  # the states of programs that were created before
        self._state = devices.place(jax.tree.map(np.array, program.state), REPLICATED)
        self._batch = devices.place(program.batch, REPLICATED)
        loop = _repeat(partial(program.step, axis_name=AXIS), self._steps_per_call)
        specs = (REPLICATED, REPLICATED)
        with program.tracing():
            jitted: Any = devices.run(loop, specs, specs, donate=(0,))
            lowered = jitted.lower(self._state, self._batch)
        self._call = lowered.compile()
        self.memory = self._first_call(others)

    def window(self) -> None:
        """Runs and times the steps of one window."""
        start = time.perf_counter()
        for _ in range(self._steps // self._steps_per_call):
            self._state, sums = self._call(self._state, self._batch)
        jax.block_until_ready((self._state, sums))
        self.seconds.append((time.perf_counter() - start) / self._steps)

    def _first_call(self, others: int) -> Memory:
        """Runs once to warm up. The allocator's peak never falls, so it belongs to this program only if it rises."""
        before = _allocator('peak_bytes_in_use')
        self._state, sums = self._call(self._state, self._batch)
        jax.block_until_ready((self._state, sums))
        after = _allocator('peak_bytes_in_use')
        if after > before:
            return Memory(after - others, 'allocator')
        m = self._call.memory_analysis()
        used = m.temp_size_in_bytes + m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        return Memory(used, 'compiler')


def interleave(timed: list[Timed], windows: int) -> None:
    """Times A, B, ..., A, B, ..., so that other load on the machine affects all programs alike."""
    for _ in range(windows):
        for one in timed:
            one.window()


def _repeat(step: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """Makes a function that runs `steps` steps in one call and returns the sums of their scalars."""
    if steps == 1:
        return step

    def loop(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        def body(i: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            state, sums = carry
            # Without the barrier the compiler moves computation that is the same in all iterations out of the loop.
            fresh, _ = lax.optimization_barrier((batch, i))
            state, scalars = step(state, fresh)
            return state, jax.tree.map(jnp.add, sums, scalars)

        shapes = jax.eval_shape(step, state, batch)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return lax.fori_loop(0, steps, body, (state, zeros))

    return loop


def _allocator(field: str) -> int:
    """A statistic of the allocator of the first device; 0 where there is none, as on CPU."""
    return (jax.devices()[0].memory_stats() or {}).get(field, 0)
