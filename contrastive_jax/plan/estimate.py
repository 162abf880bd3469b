"""Bounds of the time of a step, from what it computes and moves and the peaks of a chip."""

import dataclasses

from contrastive_jax.plan.chips import Chip
from contrastive_jax.plan.programs import Compiled


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds of a step if each of the three went on at the vendor's peak, and nothing else took time.

    Attributes:
      compute: matrix products.
      memory: what a device reads from its memory and writes to it.
      interconnect: what a device sends to the others.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def together(self) -> float:
        """If all three overlap: no step is faster."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def in_turn(self) -> float:
        """If nothing overlaps. This is the estimate: products and elementwise operations of a step mostly alternate."""
        return self.compute + self.memory + self.interconnect


def bounds(compiled: Compiled, chip: Chip, devices: int, dtype: str) -> Bounds | None:
    """The bounds of a step; None for a chip without stated peaks.

    Args:
      compiled: the step.
      chip: a device.
      devices: the number of devices.
      dtype: the dtype of the computation.
    """
    if not (chip.bandwidth and chip.peak(dtype)):
        return None
    sent = sum(x.sent * x.rounds for x in compiled.collectives)
    return Bounds(
        compiled.flops / devices / chip.peak(dtype),
        compiled.moved.bytes / chip.bandwidth,
        sent / chip.interconnect,
    )
