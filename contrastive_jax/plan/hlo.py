"""Reads the text of a compiled XLA program: the instructions that run, how often, and the bytes of their arrays."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32, 's64': 64, 'u64': 64,
    'f8e4m3fn': 8, 'f8e5m2': 8, 'bf16': 16, 'f16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128,
}  # fmt: skip

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?')
_CALLED = re.compile(r'(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# What these apply to each element is a part of them.
_REDUCERS = ('all-reduce', 'all-reduce-start', 'reduce', 'reduce-scatter', 'reduce-window', 'scatter',
             'select-and-scatter', 'map', 'sort')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a program.

    Attributes:
      bytes: size of its elements.
      padded: its bytes with the padding of its tiles, as it lies in the memory of a TPU.
      space: the memory space; 0 is the device's main memory, others are on the chip or on the host.
    """

    bytes: int
    padded: int
    space: int = 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction.

    Attributes:
      name: its name, unique in its computation.
      opcode: such as 'fusion' or 'all-reduce'.
      shape: the text of the type of its result.
      given: the text in the brackets after the opcode: operands, or the number of a parameter.
      attributes: the text after the operands.
      root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shape: str
    given: str
    attributes: str
    root: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of its operands, of the same computation."""
        return tuple(re.findall(r'%([\w.\-]+)', self.given))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result."""
        return arrays(self.shape)

    @property
    def called(self) -> tuple[tuple[str, str], ...]:
        """The computations that it calls: (the attribute that names it, its name)."""
        found = _CALLED.findall(self.attributes)
        for names in _BRANCHES.findall(self.attributes):
            found += [('branch', name.strip().lstrip('%')) for name in names.split(',')]
        return tuple(found)

    @property
    def source(self) -> str:
        """The operation of the traced function that it comes from, as far as it is known."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ''


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Running:
    """An instruction that runs.

    Attributes:
      instruction: the instruction.
      computation: the computation that it is in.
      rounds: how often it runs in one call; a loop whose length the program does not state counts as one round.
      fused: whether it is inside a fusion, whose inner values do not go through memory.
    """

    instruction: Instruction
    computation: Computation
    rounds: int
    fused: bool


class Program:
    """A compiled program.

    Args:
      text: `jax.stages.Compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ''
        current: Computation = {}
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                current = self.computations.setdefault(head.group(2), {})
                self.entry = head.group(2) if head.group(1) else self.entry
            elif (found := _INSTRUCTION.match(line)) and (instruction := _parse(*found.groups())):
                current[instruction.name] = instruction

    def running(self) -> Iterator[Running]:
        """All instructions that run in one call, in the order of the text."""
        yield from self._walk(self.entry, 1, False)

    def _walk(self, name: str, rounds: int, fused: bool) -> Iterator[Running]:
        computation = self.computations.get(name, {})
        for instruction in computation.values():
            yield Running(instruction, computation, rounds, fused)
            if instruction.opcode in _REDUCERS:
                continue
            trips = _TRIPS.search(instruction.attributes) if instruction.opcode == 'while' else None
            inner = rounds * (int(trips.group(1)) if trips else 1)
            for _, called in instruction.called:
                yield from self._walk(called, inner, fused or instruction.opcode == 'fusion')


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a type, such as 'f32[2,3]{1,0:T(8,128)}' or a tuple of them; tokens are left out."""
    return tuple(_array(*found) for found in _ARRAY.findall(shape) if found[0] in BITS)


@functools.lru_cache(maxsize=100_000)
def _array(dtype: str, sizes: str, order: str, layout: str) -> Array:
    dims = [int(d) for d in sizes.split(',') if d]
    size = BITS[dtype] / 8
    space = re.search(r'S\((\d+)\)', layout)
    padded = list(dims)
    if tile := re.search(r'T\(([\d,]+)\)', layout):
        minor_to_major = [int(d) for d in order.split(',') if d]
        for dim, unit in zip(minor_to_major, reversed([int(t) for t in tile.group(1).split(',')]), strict=False):
            padded[dim] = -(-padded[dim] // unit) * unit
    of = lambda dims: math.ceil(math.prod(dims) * size)  # noqa: E731
    return Array(of(dims), of(padded), int(space.group(1)) if space else 0)


def _parse(root: str | None, name: str, text: str) -> Instruction | None:
    """The instruction after 'name = '; None if the line is of another kind."""
    shape_end = _closing(text) if text.startswith('(') else text.find(' ')
    shape, rest = text[:shape_end], text[shape_end:].lstrip()
    opcode, bracket, _ = rest.partition('(')
    if not bracket or not re.fullmatch(r'[\w\-]+', opcode):
        return None
    rest = rest[len(opcode) :]
    end = _closing(rest)
    return Instruction(name, opcode, shape, rest[1 : end - 1], rest[end:], root is not None)


def _closing(text: str) -> int:
    """The position after the bracket that closes the first one."""
    depth = 0
    for found in re.finditer(r'[()]', text):
        depth += 1 if found.group() == '(' else -1
        if depth == 0:
            return found.end()
    return len(text)
