"""What a compiled program moves: between the devices by collectives, and between a device and its memory."""

import dataclasses
import re
from collections.abc import Iterable

from contrastive_jax.plan.hlo import Array, Computation, Instruction, Program, Running

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast',
               'ragged-all-to-all')  # fmt: skip

# They name, split and join what others have computed, or only run the instructions of other computations.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
         'partition-id', 'replica-id', 'iota', 'opt-barrier')  # fmt: skip
_SLICES = ('gather', 'dynamic-slice', 'slice')
_MATRIX_CALLS = re.compile(r'custom_call_target="[^"]*(conv|gemm|matmul|cublas|cudnn|Dot)', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
      kind: one of COLLECTIVES.
      bytes: size of its result on a device, in one round.
      rounds: how often it runs in a step, as far as the program states it.
      devices: the number of devices that take part together.
      shape: the text of the type of its result.
      source: the operation of the traced function that it comes from.
    """

    kind: str
    bytes: int
    rounds: int
    devices: int
    shape: str
    source: str

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one round, by the usual ring algorithms."""
        others = self.devices - 1
        match self.kind:
            case 'all-reduce':
                return 2 * self.bytes * others / self.devices
            case 'all-gather' | 'all-to-all' | 'ragged-all-to-all':
                return self.bytes * others / self.devices
            case 'reduce-scatter':
                return self.bytes * others
        return self.bytes


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a program moves between a device and its main memory in one step, by the shapes of what it computes.

    Attributes:
      bytes: read and written, with the padding of tiles.
      unpadded: the same without it.
      no_product: the part of `bytes` of instructions without a matrix product or convolution.
    """

    bytes: int
    unpadded: int
    no_product: int


def collectives(program: Program, devices: int) -> list[Collective]:
    """The collectives of a program.

    Args:
      program: the program.
      devices: the number of devices that it runs on.
    """
    found = []
    for running in program.running():
        one = running.instruction
        kind = one.opcode.removesuffix('-start')
        if kind not in COLLECTIVES:
            continue
        size = sum(x.bytes for x in _result(one, running.computation))
        found.append(Collective(kind, size, running.rounds, _group(one, devices), one.shape, one.source))
    return found


def memory(program: Program) -> Memory:
    """The bytes that go between a device and its memory: operands and results of all that is not inside a fusion."""
    total = unpadded = no_product = 0
    for running in program.running():
        one = running.instruction
        if running.fused or one.opcode in _FREE or one.opcode.endswith('-done'):
            continue
        moved = [x for x in _moved(program, running) if x.space == 0]
        padded = running.rounds * sum(x.padded for x in moved)
        total += padded
        unpadded += running.rounds * sum(x.bytes for x in moved)
        no_product += 0 if _has_product(program, one) else padded
    return Memory(total, unpadded, no_product)


def _result(one: Instruction, computation: Computation) -> tuple[Array, ...]:
    """The arrays that a collective results in; an asynchronous one begins with a tuple of operands and results."""
    if not one.opcode.endswith('-start') or one.opcode.startswith('all-reduce'):
        return one.arrays
    count = sum(len(computation[name].arrays) for name in one.operands if name in computation) or 1
    return one.arrays[count : 2 * count] or one.arrays


def _group(one: Instruction, devices: int) -> int:
    """How many devices exchange data with each other."""
    if iota := re.search(r'replica_groups=\[\d+,(\d+)\]', one.attributes):
        return int(iota.group(1))
    if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', one.attributes):
        return listed.group(1).count(',') + 1
    return devices


def _moved(program: Program, running: Running) -> Iterable[Array]:
    """The arrays that an instruction reads and writes. Of what it only takes a part of, the part counts."""
    one, around = running.instruction, running.computation
    operands = [around[name] for name in one.operands if name in around]
    fusion = next((called for _, called in one.called), None) if one.opcode == 'fusion' else None
    if one.opcode in ('dynamic-update-slice', 'scatter'):
        part = operands[1 if one.opcode == 'dynamic-update-slice' else -1].arrays
        return [*part, *part]
    if one.opcode in _SLICES:
        return [*one.arrays, *one.arrays]
    if fusion is None:
        return [*one.arrays, *(x for operand in operands for x in operand.arrays)]
    inside = program.computations.get(fusion, {})
    moved: list[Array] = []
    parameters = {x.name: int(x.given) for x in inside.values() if x.opcode == 'parameter'}
    changed_in_place = False
    for name, number in parameters.items():
        users = [x for x in inside.values() if name in x.operands]
        if users and all(x.opcode in _SLICES and x.operands[0] == name for x in users):
            moved += [array for x in users for array in x.arrays]
        elif users and all(x.opcode == 'dynamic-update-slice' and x.operands[0] == name for x in users):
            changed_in_place = True
            moved += [array for x in users if (update := inside.get(x.operands[1])) for array in update.arrays * 2]
        elif number < len(operands):
            moved += operands[number].arrays
    return moved if changed_in_place else [*moved, *one.arrays]


def _has_product(program: Program, one: Instruction) -> bool:
    """Whether an instruction is a matrix product or a convolution, or a fusion with one."""
    if one.opcode in ('dot', 'convolution'):
        return True
    if one.opcode == 'custom-call':
        return bool(_MATRIX_CALLS.search(one.attributes))
    if one.opcode != 'fusion':
        return False
    inside = [x for _, name in one.called for x in program.computations.get(name, {}).values()]
    return any(_has_product(program, x) for x in inside)


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """Kind -> (number of collectives of a step, bytes of their results)."""
    sums: dict[str, tuple[int, int]] = {}
    for one in found:
        count, size = sums.get(one.kind, (0, 0))
        sums[one.kind] = count + one.rounds, size + one.rounds * one.bytes
    return dict(sorted(sums.items()))
