"""What a run asks of those who run its steps: `Trainer.session` yields segments, and gets what became of each."""

from collections.abc import Generator
from typing import NamedTuple

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.training.feed import Feed, Metrics


class Segment(NamedTuple):
    """Steps that a run asks for.

    Attributes:
      feed: takes the steps.
      state: the state before them; it is donated.
      step: number of steps done before.
      stop: number of steps done after the last of them.
    """

    feed: Feed
    state: PyTree
    step: int
    stop: int


# The state, the metrics, and the step that was reached: `stop`, or a step before it.
Done = tuple[PyTree, Metrics, int]

# A run from its start to its end; it returns its last evaluation.
Session = Generator[Segment, Done, dict[str, float]]
